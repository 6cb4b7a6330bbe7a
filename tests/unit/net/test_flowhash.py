"""The flow hash: right by the published vectors, and equal to the committed ones."""

import json
import os
import subprocess
import sys
from ipaddress import ip_address
from struct import pack

import pytest

from asynclb.net.flow import Flow
from asynclb.net.flowhash import Distribution, flow_hash, siphash13, slot_of
from tests.unit.net import flowhash_reference as reference

KEY = bytes(range(16))


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, 0x726FDB47DD0E0E31),
        (1, 0x74F839C593DC67FD),
        (8, 0x93F5F5799A932462),
        (15, 0xA129CA6149BE45E5),
        (63, 0x958A324CEB064572),
    ],
)
def test_the_reference_agrees_with_the_published_siphash24_vectors(length: int, expected: int) -> None:
    """SipHash-2-4 of 00 01 02 ... under the key 00..0f gives what the paper and its authors' code say."""
    assert reference.siphash(2, 4, KEY, bytes(range(length))) == expected


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, 0xABAC0158050FC4DC),
        (1, 0xC9F49BF37D57CA93),
        (2, 0x82CB9B024DC7D44D),
        (8, 0x369095118D299A8E),
        (9, 0x25A48EB36C063DE4),
    ],
)
def test_the_reference_agrees_with_the_published_siphash13_vectors(length: int, expected: int) -> None:
    """SipHash-1-3 of 00 01 02 ... under the key 00..0f gives what other implementations publish."""
    assert reference.siphash(1, 3, KEY, bytes(range(length))) == expected


@pytest.mark.skipif(sys.hash_info.algorithm != "siphash13", reason="this CPython hashes bytes with another function")
def test_the_reference_agrees_with_the_interpreter() -> None:
    """CPython's own hash of bytes is SipHash-1-3, under a key of zeros when PYTHONHASHSEED is 0."""
    program = "print([hash(bytes(range(n))) % 2**64 for n in range(1, 64)])"
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    answer = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout
    assert json.loads(answer) == [reference.siphash(1, 3, bytes(16), bytes(range(n))) for n in range(1, 64)]


@pytest.mark.parametrize("seed", reference.SEEDS)
@pytest.mark.parametrize("count", range(7))
def test_siphash13_of_words_equals_the_reference_over_bytes(seed: int, count: int) -> None:
    """Words are hashed as the little-endian bytes that a C program would read."""
    words = tuple((0x0123456789ABCDEF * (i + 1)) % 2**64 for i in range(count))
    assert siphash13(seed, words) == reference.siphash(1, 3, reference.key_of(seed), pack(f"<{count}Q", *words))


def test_the_committed_vectors_are_those_of_the_reference() -> None:
    """The file that native code and BPF are held to has not been edited by hand."""
    assert reference.GOLDEN.read_text() == reference.text()


def test_the_flow_hash_equals_the_committed_vectors() -> None:
    """Every seed, distribution and family gives the hash and the slots in the file."""
    golden = json.loads(reference.GOLDEN.read_text())
    assert len(golden["vectors"]) == 330
    for vector in golden["vectors"]:
        source, sport, destination, dport, protocol = vector["flow"]
        flow = Flow(ip_address(source), sport, ip_address(destination), dport, protocol)
        distribution = Distribution(vector["distribution"])
        hashed = flow_hash(int(vector["seed"], 16), flow, distribution, symmetric=vector["symmetric"])
        assert hashed == int(vector["hash"], 16), vector
        assert [slot_of(hashed, size) for size in golden["sizes"]] == vector["slots"], vector


def test_slot_of_reaches_the_first_and_the_last_slot_and_no_other() -> None:
    """The smallest and the largest hash fall into slot 0 and the last slot."""
    assert slot_of(0, 16_381) == 0
    assert slot_of(2**64 - 1, 16_381) == 16_380
