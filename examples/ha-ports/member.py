"""A member that listens on many TCP and UDP ports: `python3 -I -S member.py NAME FIRST LAST PROBE_PORT`.

Every answer is one line: the member's name, the port that was asked, and the client's address and port as it saw them.
"""

import selectors
import socket
import sys


def bound(kind: socket.SocketKind, port: int) -> socket.socket:
    """Return a socket that is bound to the port for IPv4 and IPv6."""
    sock = socket.socket(socket.AF_INET6, kind)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        sock.listen(256)
    return sock


def serve(name: str, sock: socket.socket) -> None:
    """Answer one connection or one datagram."""
    port = sock.getsockname()[1]
    if sock.type == socket.SOCK_DGRAM:
        _, peer = sock.recvfrom(2048)
        sock.sendto(line(name, port, peer), peer)
        return
    connection, peer = sock.accept()
    with connection:
        connection.send(line(name, port, peer))


def line(name: str, port: int, peer: tuple[str, int]) -> bytes:
    """Return what a client is told."""
    return f"{name} {port} {peer[0].removeprefix('::ffff:')} {peer[1]}\n".encode()


def main(name: str, first: str, last: str, probe_port: str) -> None:
    """Serve until killed."""
    ready = selectors.DefaultSelector()
    for port in range(int(first), int(last) + 1):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            ready.register(bound(kind, port), selectors.EVENT_READ)
    ready.register(bound(socket.SOCK_STREAM, int(probe_port)), selectors.EVENT_READ)  # last: now it is up
    while True:
        for key, _ in ready.select():
            serve(name, key.fileobj)  # type: ignore[arg-type]  # only sockets are registered


if __name__ == "__main__":
    main(*sys.argv[1:])
