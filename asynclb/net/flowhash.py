"""The keyed flow hash: which slot of a pool table a flow falls into.

SipHash-1-3 over the part of the flow key that the distribution names. It is keyed, so that a client who
does not know the installation's seed cannot aim flows at one member, and it needs only additions,
rotations and exclusive-ors on 64-bit words, so that Python, native code and BPF compute it alike from
the vectors in `tests/golden/flowhash.json`.

Laws:
  1. The answer depends on nothing but the seed, the distribution, and the fields that it names.
  2. IPv4 and IPv6 messages differ in length, so neither can imitate the other.
  3. With `symmetric`, a flow and its reverse hash alike.

Source: Aumasson and Bernstein, SipHash: a fast short-input PRF (2012); the kernel uses the same 1-3
variant for its own tables (include/linux/siphash.h, hsiphash).
"""

from enum import StrEnum

from asynclb.net.flow import Flow

_MASK = 0xFFFF_FFFF_FFFF_FFFF
KEY1_TWEAK = 0x9E37_79B9_7F4A_7C15  # 2^64 / golden ratio: makes the second half of the key from one 64-bit seed


class Distribution(StrEnum):
    """Which fields of a flow choose its member."""

    FIVE_TUPLE = "five_tuple"
    SOURCE_IP = "source_ip"
    SOURCE_IP_PROTOCOL = "source_ip_protocol"


def siphash13(seed: int, words: tuple[int, ...]) -> int:
    """Hash 64-bit words with SipHash-1-3 under a key made from `seed`.

    Order: a word is what a little-endian machine reads from 8 bytes of message, so this equals SipHash-1-3
    of `struct.pack("<nQ")` under the key (seed, seed ^ golden ratio).
    Cost: in CPython 0.75 us a round, of which there are 4 and one a word: 4.5 us for IPv4, 7 us for IPv6. Writing
    the rounds out saves a tenth of that.
    """
    k0, k1 = seed & _MASK, (seed ^ KEY1_TWEAK) & _MASK
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D  # "somepseu" "dorandom"
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573  # "lygenera" "tedbytes"
    for word in (*words, (len(words) * 8 & 0xFF) << 56):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ word)
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = (v0 + v1) & _MASK
    v1 = ((v1 << 13 | v1 >> 51) & _MASK) ^ v0
    v0 = (v0 << 32 | v0 >> 32) & _MASK
    v2 = (v2 + v3) & _MASK
    v3 = ((v3 << 16 | v3 >> 48) & _MASK) ^ v2
    v0 = (v0 + v3) & _MASK
    v3 = ((v3 << 21 | v3 >> 43) & _MASK) ^ v0
    v2 = (v2 + v1) & _MASK
    v1 = ((v1 << 17 | v1 >> 47) & _MASK) ^ v2
    v2 = (v2 << 32 | v2 >> 32) & _MASK
    return v0, v1, v2, v3


def flow_words(flow: Flow, distribution: Distribution, *, symmetric: bool = False) -> tuple[int, ...]:
    """Encode the fields that the distribution names.

    Shape: IPv4 two words (addresses; ports and protocol), IPv6 five (source, destination, ports and protocol).
    Order: addresses as big-endian integers; the last word is `source port << 48 | destination port << 32 | protocol`.
    """
    source, destination = int(flow.source), int(flow.destination)
    sport, dport, protocol = flow.source_port, flow.destination_port, flow.protocol
    if distribution is not Distribution.FIVE_TUPLE:
        sport = dport = 0
    if distribution is Distribution.SOURCE_IP:
        protocol = 0
    if symmetric and (source, sport) > (destination, dport):
        source, sport, destination, dport = destination, dport, source, sport
    tail = sport << 48 | dport << 32 | protocol
    if flow.source.version == 4:
        return (source << 32 | destination, tail)
    return (source >> 64, source & _MASK, destination >> 64, destination & _MASK, tail)


def flow_hash(seed: int, flow: Flow, distribution: Distribution, *, symmetric: bool = False) -> int:
    """Return the 64-bit hash of a flow under the installation's seed."""
    return siphash13(seed, flow_words(flow, distribution, symmetric=symmetric))


def slot_of(flow_hash_: int, size: int) -> int:
    """Map a hash to a slot of a table of `size` slots: the upper 32 bits scaled, which needs no division.

    Source: Lemire, Fast random integer generation in an interval (2019).
    """
    return (flow_hash_ >> 32) * size >> 32
