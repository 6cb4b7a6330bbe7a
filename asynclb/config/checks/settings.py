"""Checks of the keys that concern the whole."""

from asynclb.config.draft import Draft
from asynclb.config.report import Report


def check_settings(draft: Draft, report: Report) -> None:
    """Refuse an API that others can reach and that asks for no token."""
    admin = draft.settings.admin
    if admin.listen is not None and not admin.listen.local and admin.token_file is None:
        remedy = "set `admin.token_file`, or listen on 127.0.0.1, [::1] or unix:/path"
        report.problem(("admin", "listen"), admin.listen, "others can reach the API and it asks for no token", remedy)
