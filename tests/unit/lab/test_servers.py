"""The lab's servers, without a lab."""

import asyncio
import gc
from weakref import ref

from asynclb.lab.servers import TcpServer


async def test_a_silent_server_holds_connections_through_garbage_collection() -> None:
    """Whoever connects is held, not closed when the collector next runs."""
    silent = TcpServer("silent", "be1")
    held: asyncio.Queue[ref[asyncio.StreamWriter]] = asyncio.Queue()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.put_nowait(ref(writer))  # a reference that counted would keep what is to be shown to be kept
        await silent.silent(reader, writer)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    _, client = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer = await held.get()
    await asyncio.sleep(0)
    gc.collect()
    left = writer()
    try:
        assert left is not None
        assert not left.is_closing()
    finally:
        server.close()
        for end in (left, client):
            if end is not None:
                end.transport.abort()
