"""What members run: one service that says who it is, and whom it sees, over TCP and UDP; and one that is probed."""

import asyncio
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from asynclb.lab import Host


@dataclass(frozen=True, slots=True)
class Answer:
    """What a member said: its name, the client as it sees it, and the address and port that the client asked there."""

    member: str
    client: tuple[str, int]
    asked: tuple[str, int]

    @classmethod
    def read(cls, line: bytes) -> "Answer":
        """Read what a service wrote."""
        member, client, client_port, asked, asked_port = line.decode().split()[:5]
        return cls(member, (client, int(client_port)), (asked, int(asked_port)))


def listen(host: Host, address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """Bind a socket in a host; a stream socket listens."""
    sock = host.open_socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    if kind == socket.SOCK_STREAM:
        sock.listen(4096)
    return sock


class Service:
    """Says who answers, to whoever connects or sends a datagram; then it echoes. Owner: a test."""

    def __init__(self, host: Host, address: str, port: int) -> None:
        self._name, self._place = host.name, (address, port)
        self._loop = asyncio.get_running_loop()
        self._tcp = listen(host, address, port, socket.SOCK_STREAM)
        self._udp = listen(host, address, port, socket.SOCK_DGRAM)
        self._loop.add_reader(self._udp, self._answer)
        self._loop.add_reader(self._tcp, self._accept)
        self._open: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Stop listening; connections that are open go on until the loop ends them."""
        for sock in (self._tcp, self._udp):
            self._loop.remove_reader(sock)
            sock.close()
        for task in self._open:
            task.cancel()

    def _answer(self) -> None:
        while True:
            try:
                data, peer = self._udp.recvfrom(1 << 16)
            except BlockingIOError:
                return
            self._udp.sendto(self._line(peer, self._place) + data, peer)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._tcp.accept()
            except BlockingIOError:
                return
            task = self._loop.create_task(self._serve(sock))
            self._open.add(task)
            task.add_done_callback(partial(self._ended, sock))

    def _ended(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        """Close a connection whose task may have been cancelled before it began."""
        sock.close()
        self._open.discard(task)

    async def _serve(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        with sock:
            try:
                await self._loop.sock_sendall(sock, self._line(sock.getpeername(), sock.getsockname()))
                while data := await self._loop.sock_recv(sock, 1 << 16):
                    await self._loop.sock_sendall(sock, data)
            except OSError:
                return  # the client has gone

    def _line(self, peer: tuple[str, int], asked: tuple[str, int]) -> bytes:
        return f"{self._name} {peer[0]} {peer[1]} {asked[0]} {asked[1]}\n".encode()


class Probed:
    """What a TCP probe asks: up while it listens, down (a reset) while it does not. Owner: the bed."""

    def __init__(self, host: Host, address: str, port: int) -> None:
        self._host, self._address, self._port = host, address, port
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None
        self.up()

    def up(self) -> None:
        """Accept probes."""
        if self._sock is None:
            self._sock = listen(self._host, self._address, self._port, socket.SOCK_STREAM)
            self._loop.add_reader(self._sock, self._accept, self._sock)

    def down(self) -> None:
        """Reset probes."""
        if self._sock is not None:
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    def _accept(self, sock: socket.socket) -> None:
        while True:
            try:
                sock.accept()[0].close()
            except BlockingIOError:
                return


@contextmanager
def services(places: Iterable[tuple[Host, str, int]]) -> Iterator[None]:
    """Run a service at each place, (host, address, port), for the length of a block."""
    running = [Service(*place) for place in places]
    try:
        yield
    finally:
        for service in running:
            service.close()
