"""nftables through libnftables, in this process: one transaction a call, all of it or nothing.

The library is used and not the `nft` program, because a process that owes its capabilities to its file does not
pass them on to a child.

The library waits with select(2) and would abort the process when it is given a descriptor above 1023, as it is in a
balancer with some hundred connections. So each call runs in a thread with a table of descriptors of its own, which is
empty but for the standard streams.

Source: src/mnl.c of nftables 1.0.6 (mnl_batch_talk); close_range(2), CLOSE_RANGE_UNSHARE; select(2), FD_SETSIZE.
"""

import ctypes
import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from asynclb.errors import HostError

_LIBRARY = "libnftables.so.1"
_REMEDY = "install it (Debian: apt-get install libnftables1), or use `datapath: proxy` with `transparent: false`"


_SYS_CLOSE_RANGE = 436  # the same number on every architecture
_CLOSE_RANGE_UNSHARE = 1 << 1  # linux/close_range.h
_FIRST_TO_CLOSE = 3  # the standard streams stay
_LAST_TO_CLOSE = 0xFFFF_FFFF
_FD_SETSIZE = 1024
_ONE_AT_A_TIME = threading.Lock()  # contexts of the library share state


class Nftables:
    """A connection to the packet filter of this network namespace. Owner: `Plumbing`; calls block for some ms."""

    def __init__(self) -> None:
        """Load the library. Raises: HostError -> it is not installed."""
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            message = f"{_LIBRARY} is missing, which is needed to set up nftables: {_REMEDY}"
            raise HostError(message) from error
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
            getattr(library, name).restype = ctypes.c_char_p
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._library = library

    def run(self, commands: str) -> str:
        """Execute commands as one transaction and return what they print.

        Raises: OSError -> what the kernel or the parser said; nothing was changed.
        """
        with _ONE_AT_A_TIME, ThreadPoolExecutor(1) as apart:
            return apart.submit(self._run, commands).result()

    def _run(self, commands: str) -> str:
        _leave_descriptors()
        library = self._library
        context = library.nft_ctx_new(0)
        if not context:
            raise OSError(errno.ENOMEM, "nftables: no context")
        try:
            library.nft_ctx_buffer_output(context)
            library.nft_ctx_buffer_error(context)
            failed = library.nft_run_cmd_from_buffer(context, commands.encode())
            output: bytes = library.nft_ctx_get_output_buffer(context) or b""
            error: bytes = library.nft_ctx_get_error_buffer(context) or b""
        finally:
            library.nft_ctx_free(context)
        if failed:
            raise OSError(errno.EINVAL, f"nftables: {error.decode(errors='replace').strip()}")
        return output.decode(errors="replace")


def _leave_descriptors() -> None:
    """Give the calling thread a table of descriptors of its own, without those of the process.

    Raises: OSError -> this kernel cannot (before Linux 5.9, or forbidden), and the process has too many open.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    close_range = [ctypes.c_long(_SYS_CLOSE_RANGE), ctypes.c_uint(_FIRST_TO_CLOSE), ctypes.c_uint(_LAST_TO_CLOSE)]
    if libc.syscall(*close_range, ctypes.c_uint(_CLOSE_RANGE_UNSHARE)) == 0:
        return
    lowest = os.dup(2)
    os.close(lowest)
    if lowest > _FD_SETSIZE // 2:
        why = f"{lowest} descriptors are open, more than libnftables stands, and close_range(2) is not available"
        raise OSError(errno.EMFILE, why)
