"""Where a running process is asked if nobody says otherwise: alone here, so that `--help` imports nothing else."""

DEFAULT_URL = "http://127.0.0.1:9180"
