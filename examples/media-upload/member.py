"""A member that takes uploads: `python3 -I -S member.py NAME`.

A client opens a control connection (TCP) and says a word of its choice; the media (UDP) begin with the same word. A
member takes media of uploads that it was told of, and says `unknown` to all others: it has no state but its own.
"""

import asyncio
import socket
import sys

CONTROL_PORTS = (8000, 8001)
MEDIA_PORTS = (9000, 9001)


class Member:
    """The uploads that one member knows of. Owner: the process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.uploads: set[tuple[str, str]] = set()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Know an upload for as long as its control connection is open."""
        word = (await reader.readline()).decode().strip()
        if word:  # else it is a probe
            upload = writer.get_extra_info("peername")[0], word
            self.uploads.add(upload)
            writer.write(f"{self.name} ready\n".encode())
            await reader.read()
            self.uploads.discard(upload)
        writer.close()

    def media(self, data: bytes, client: str) -> bytes:
        """Return what is said to a datagram."""
        upload = client.removeprefix("::ffff:"), data.decode().split()[0]
        return f"{self.name} {'got' if upload in self.uploads else 'unknown'}\n".encode()


class Media(asyncio.DatagramProtocol):
    """Answers datagrams."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        """Answer."""
        self._transport.sendto(self._member.media(data, peer[0]), peer)  # type: ignore[attr-defined]  # a datagram one


def datagrams(port: int) -> socket.socket:
    """Return a socket for IPv4 and IPv6."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    return sock


async def main(name: str) -> None:
    """Serve until killed, over IPv4 and IPv6."""
    member = Member(name)
    loop = asyncio.get_running_loop()
    for port in MEDIA_PORTS:
        await loop.create_datagram_endpoint(lambda: Media(member), sock=datagrams(port))
    for port in CONTROL_PORTS[::-1]:  # the one that is probed last: now it is up
        await asyncio.start_server(member.control, None, port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
