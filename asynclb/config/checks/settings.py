"""Checks of the keys that concern the whole."""

import os
from pathlib import Path

from asynclb.config.draft import Draft
from asynclb.config.report import Report


def check_settings(draft: Draft, report: Report) -> None:
    """Refuse an API that others can reach and that asks for no token, and a flow log that cannot be written."""
    admin = draft.settings.admin
    if admin.listen is not None and not admin.listen.local and admin.token_file is None:
        remedy = "set `admin.token_file`, or listen on 127.0.0.1, [::1] or unix:/path"
        report.problem(("admin", "listen"), admin.listen, "others can reach the API and it asks for no token", remedy)
    flow_log = draft.settings.flow_log
    if flow_log is not None and (refused := _unwritable(flow_log.path)):
        report.problem(("flow_log", "path"), flow_log.path, *refused)


def _unwritable(name: str) -> tuple[str, str] | None:
    """Return why no flow log can be written here, and what to do about it."""
    path = Path(name).absolute()
    directory = path.parent
    if not directory.is_dir():
        return f"the directory {directory} is not there", f"make it: install -d -m 0750 {directory}"
    if path.exists() and not path.is_file():
        return "this is not a file", "name a file, which is made when it is not there"
    if not os.access(directory, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        remedy = f"let the user that asynclb runs as write there: chown USER {directory}, and the files in it"
        return f"this process (uid {os.geteuid()}) may not write in {directory}", remedy
    return None
