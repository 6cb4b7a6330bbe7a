"""nftables through libnftables, in this process: one transaction a call, all of it or nothing.

The library is used and not the `nft` program, because a process that owes its capabilities to its file does not
pass them on to a child.
"""

import ctypes
import errno

from asynclb.errors import HostError

_LIBRARY = "libnftables.so.1"
_REMEDY = "install it (Debian: apt-get install libnftables1), or use `datapath: proxy` with `transparent: false`"


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
