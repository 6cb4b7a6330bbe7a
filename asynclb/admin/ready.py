"""Asks the process of a container whether new flows are welcome there: the image's health check.

    python -m asynclb.admin.ready        exit code 0: they are; 1: they are not, and standard error says why

It ends by itself before the engine that runs it loses patience: an engine tells nothing of a check that it has ended.
"""

import os
import sys

from asynclb.admin.client import AdminClient
from asynclb.admin.url import DEFAULT_URL
from asynclb.errors import HostError

ANSWER_S = 10.0
"""An answer takes milliseconds; a process that gives none for so long hangs, also where the host is busy."""


def refusal(url: str, ca_file: str | None = None, *, answer_s: float = ANSWER_S) -> str | None:
    """Return why new flows are not welcome, or None where they are."""
    try:
        AdminClient(url, ca_file=ca_file, timeout_s=answer_s).get("/readyz")
    except HostError as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(refusal(os.environ.get("ASYNCLB_URL", DEFAULT_URL), os.environ.get("ASYNCLB_CA_FILE")))
