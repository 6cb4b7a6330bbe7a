"""Run asynclb, killed as by kill -9 when it is about to call a method for the nth time.

python dying.py asynclb.datapath.kernel.attach:Attachments.switch 1 run asynclb.yaml
"""

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import count
from typing import Any

from asynclb.cli import main


def die_at(place: str, call: int) -> None:
    """Let this process be killed at a call of a method."""
    module, _, name = place.partition(":")
    owner, _, method = name.partition(".")
    kind = getattr(import_module(module), owner)
    go_on: Callable[..., Any] = getattr(kind, method)
    calls = count(1)

    def instead(*words: Any, **more: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return go_on(*words, **more)

    setattr(kind, method, instead)


if __name__ == "__main__":
    die_at(sys.argv[1], int(sys.argv[2]))
    sys.argv[1:] = sys.argv[3:]
    main()
