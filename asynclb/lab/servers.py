"""Small servers that a lab runs inside its hosts: well-behaved ones, and the kinds that break balancers.

    python3 -I -S servers.py tcp|udp PORT BEHAVIOUR NAME

| behaviour | tcp                                                | udp                                          |
|-----------|----------------------------------------------------|----------------------------------------------|
| echo      | sends back what comes; half-closes when told to    | sends back what comes, empty datagrams too   |
| whoami    | first a line `NAME ADDRESS PORT`, then as echo     | answers `NAME ADDRESS PORT ` and what came   |
| silent    | accepts, reads nothing, says nothing               | reads, says nothing                          |
| reset     | answers the first bytes, then resets               |                                              |
| flood     | sends without end, reads nothing                   |                                              |

Runs on the standard library alone, in a process of its own. Every connection, and for UDP every new client address,
is printed as `ADDRESS PORT`.
"""

import asyncio
import socket
import struct
import sys

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on with 0 seconds: close sends RST. Source: socket(7)


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")


class TcpServer:
    """Serves every connection with one behaviour."""

    def __init__(self, behaviour: str, name: str) -> None:
        self.serve = {
            "echo": self.echo,
            "whoami": self.whoami,
            "silent": self.silent,
            "reset": self.reset,
            "flood": self.flood,
        }[behaviour]
        self.name = name
        self._never = asyncio.Event()  # kept here: what waits for an event that nobody holds is garbage, and collected

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        address, port = writer.get_extra_info("peername")[:2]
        print(_plain(address), port, flush=True)
        try:
            await self.serve(reader, writer)
            writer.close()
            await writer.wait_closed()
        except OSError:
            writer.transport.abort()  # the client has reset it: nothing is left to be said

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send back what comes, and the end after it."""
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def whoami(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Say who serves whom, then echo."""
        address, port = writer.get_extra_info("peername")[:2]
        writer.write(f"{self.name} {_plain(address)} {port}\n".encode())
        await self.echo(reader, writer)

    async def silent(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hold the connection open."""
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # StreamWriter types it as a WriteTransport
        await self._never.wait()

    async def reset(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer once and reset."""
        writer.write(await reader.read(_CHUNK))
        await writer.drain()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()

    async def flood(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send until the client goes."""
        chunk = bytes(_CHUNK)
        while True:
            writer.write(chunk)
            await writer.drain()


class UdpServer:
    """Answers every datagram with one behaviour."""

    def __init__(self, behaviour: str, name: str) -> None:
        self.behaviour = behaviour
        self.name = name
        self.seen: set[tuple[str, int]] = set()

    def serve(self, sock: socket.socket) -> None:
        """Answer every datagram that is there. Not a DatagramTransport, for those swallow empty answers."""
        while True:
            try:
                data, (address, port, *rest) = sock.recvfrom(_CHUNK)
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # an earlier client's port has closed
            if (address, port) not in self.seen:
                self.seen.add((address, port))
                print(_plain(address), port, flush=True)
            if self.behaviour != "silent":
                prefix = f"{self.name} {_plain(address)} {port} " if self.behaviour == "whoami" else ""
                sock.sendto(prefix.encode() + data, (address, port, *rest))


def bound(kind: int, port: int) -> socket.socket:
    """Return a socket that is bound to the port for IPv4 and IPv6."""
    sock = socket.socket(socket.AF_INET6, kind)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("::", port))
    sock.setblocking(False)
    return sock


async def main(protocol: str, port: str, behaviour: str, name: str) -> None:
    """Serve until killed."""
    if protocol == "tcp":
        server = TcpServer(behaviour, name)
        await asyncio.start_server(server.connected, sock=bound(socket.SOCK_STREAM, int(port)), backlog=4096)
    else:
        sock = bound(socket.SOCK_DGRAM, int(port))
        asyncio.get_running_loop().add_reader(sock, UdpServer(behaviour, name).serve, sock)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
