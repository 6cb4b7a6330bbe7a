"""A door into a lab: a port on this host's loopback behind which a port of a lab's host answers.

For looking at a page from outside: bytes are passed on as they are, each connection by two tasks that end with it.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from asynclb.lab.host import Host

_CHUNK = 64 * 1024
_BUSY = (errno.EADDRINUSE, errno.EACCES)


@asynccontextmanager
async def relayed(host: Host, port: int, *, wanted: int) -> AsyncIterator[int]:
    """Yield a port of 127.0.0.1 that leads to the host's: the wanted one, or another if that is taken."""
    open_ends: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(_relay(host, port, reader, writer))
        open_ends.add(task)
        task.add_done_callback(open_ends.discard)

    server = await _listen(accept, wanted)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in open_ends:
            task.cancel()
        await asyncio.gather(*open_ends, return_exceptions=True)


async def _listen(accept: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None], wanted: int) -> asyncio.Server:
    try:
        return await asyncio.start_server(accept, "127.0.0.1", wanted)
    except OSError as error:
        if error.errno not in _BUSY:
            raise
    return await asyncio.start_server(accept, "127.0.0.1", 0)


async def _relay(host: Host, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes both ways until both ends have finished, or one is broken."""
    with suppress(OSError):
        async with host.connection("127.0.0.1", port) as (far_reader, far_writer):
            await asyncio.gather(_pass_on(reader, far_writer), _pass_on(far_reader, writer))
    writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
