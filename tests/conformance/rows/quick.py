"""Run asynclb with a monitor whose minutes are shorter: `python -m tests.conformance.rows.quick SCALE CONFIG`."""

import sys

from asynclb import app
from asynclb.observe.log import LogFormat, open_log

if __name__ == "__main__":
    sys.exit(app.main(sys.argv[2], open_log(LogFormat.JSON), monitor_scale=float(sys.argv[1])))
