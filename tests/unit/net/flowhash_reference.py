"""A second implementation of the flow hash, written from the paper and the encoding alone, over bytes.

It says what `tests/golden/flowhash.json` must hold: `python -m tests.unit.net.flowhash_reference` writes the file,
the tests compare it. Every other implementation (Python, native, BPF) is held to the file.
"""

import json
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import product
from pathlib import Path

GOLDEN = Path(__file__).parents[2] / "golden" / "flowhash.json"
SEEDS = (0, 1, 0x8C1F0C6E5F0B4A7D, 2**63, 2**64 - 1)
DISTRIBUTIONS = ("five_tuple", "source_ip", "source_ip_protocol")
SIZES = (16_381, 65_537, 655_373)
FLOWS = (
    ("198.51.100.7", 41000, "203.0.113.10", 443, 6),
    ("203.0.113.10", 443, "198.51.100.7", 41000, 6),
    ("198.51.100.7", 41000, "203.0.113.10", 443, 17),
    ("0.0.0.0", 0, "255.255.255.255", 65535, 255),
    ("192.0.2.1", 65535, "192.0.2.1", 1, 6),
    ("10.0.0.1", 0, "10.0.0.2", 0, 1),
    ("2001:db8::7", 41000, "2001:db8::10", 443, 6),
    ("2001:db8::10", 443, "2001:db8::7", 41000, 6),
    ("2001:db8::7", 41000, "2001:db8::10", 443, 17),
    ("::", 0, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535, 255),
    ("fe80::1", 0, "fe80::2", 0, 58),
)
_MASK = 2**64 - 1


def siphash(compressions: int, finalisations: int, key: bytes, message: bytes) -> int:
    """Return SipHash-c-d of any message under a 16-byte key. Source: Aumasson and Bernstein, section 2."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [k ^ int.from_bytes(word, "big") for k, word in zip((k0, k1, k0, k1), _CONSTANTS, strict=True)]
    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) % 256])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        v[3] ^= word
        for _ in range(compressions):
            _sip_round(v)
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(finalisations):
        _sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


_CONSTANTS = (b"somepseu", b"dorandom", b"lygenera", b"tedbytes")


def _sip_round(v: list[int]) -> None:
    for a, b, turn, swap in ((0, 1, 13, True), (2, 3, 16, False), (0, 3, 21, False), (2, 1, 17, True)):
        v[a] = (v[a] + v[b]) & _MASK
        v[b] = _rotate(v[b], turn) ^ v[a]
        if swap:
            v[a] = _rotate(v[a], 32)


def _rotate(word: int, by: int) -> int:
    return (word << by | word >> (64 - by)) & _MASK


def message(flow: tuple[str, int, str, int, int], distribution: str, *, symmetric: bool) -> bytes:
    """Encode a flow: big-endian fields in 64-bit words, each word then turned round."""
    source, sport, destination, dport, protocol = flow
    if distribution != "five_tuple":
        sport = dport = 0
    if distribution == "source_ip":
        protocol = 0
    ends = [
        (ip_address(source).packed, sport.to_bytes(2, "big")),
        (ip_address(destination).packed, dport.to_bytes(2, "big")),
    ]
    if symmetric:
        ends.sort()
    (source_bytes, sport_bytes), (destination_bytes, dport_bytes) = ends
    fields = source_bytes + destination_bytes + sport_bytes + dport_bytes + protocol.to_bytes(4, "big")
    return b"".join(fields[at : at + 8][::-1] for at in range(0, len(fields), 8))


def key_of(seed: int) -> bytes:
    """Make the 16-byte key of a seed."""
    return seed.to_bytes(8, "little") + (seed ^ 0x9E3779B97F4A7C15).to_bytes(8, "little")


def vectors() -> Iterator[dict[str, object]]:
    """Yield every vector of the file."""
    for seed, distribution, symmetric, flow in product(SEEDS, DISTRIBUTIONS, (False, True), FLOWS):
        hashed = siphash(1, 3, key_of(seed), message(flow, distribution, symmetric=symmetric))
        yield {
            "seed": f"{seed:#018x}",
            "flow": list(flow),
            "distribution": distribution,
            "symmetric": symmetric,
            "hash": f"{hashed:#018x}",
            "slots": [(hashed >> 32) * size >> 32 for size in SIZES],
        }


def text() -> str:
    """Return what the file must hold, one vector a line."""
    about = "flow: source, port, destination, port, protocol number; slots: of tables of the sizes"
    lines = ",\n  ".join(json.dumps(vector) for vector in vectors())
    return f'{{"about": {json.dumps(about)},\n "sizes": {json.dumps(SIZES)},\n "vectors": [\n  {lines}\n]}}\n'


if __name__ == "__main__":
    GOLDEN.write_text(text())
