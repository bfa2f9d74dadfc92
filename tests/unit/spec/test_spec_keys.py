"""SSH public keys, down to their blob."""

from __future__ import annotations

import base64

import pytest
from spec_examples import KEY

from lvagent.errors import SpecError
from lvagent.spec.keys import TYPES, parse_keys


def blob(*fields: bytes) -> str:
    return base64.b64encode(b"".join(len(field).to_bytes(4) + field for field in fields)).decode()


def refused(line: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse_keys([KEY, line], "keys")
    assert caught.value.path == "keys[1]"
    assert line not in caught.value.message or not line
    return caught.value.message


@pytest.mark.parametrize("kind", TYPES)
def test_each_type(kind):
    line = f"{kind} {blob(kind.encode(), *[b'x'] * (TYPES[kind] - 1))}"
    assert parse_keys([line, f"{line} a comment ö"], "keys") == (line, f"{line} a comment ö")


def test_space_around_is_dropped_and_each_key_is_kept_once():
    assert parse_keys([f" {KEY}\n", KEY, KEY.replace(" ", "   ")], "keys") == (KEY,)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the key is empty"),
        ("ssh-dss AAAA", "the key does not begin with a type that is known"),
        (f"no-pty {KEY}", "the key does not begin with a type that is known"),
        (f'command="x" {KEY}', "the key does not begin with a type that is known"),
        ("ssh-ed25519", "the key's base64 is not whole"),
        ("ssh-ed25519 ????", "the key's base64 is not whole"),
        ("ssh-ed25519 AAA", "the key's base64 is not whole"),
        (KEY.removesuffix(" demo")[:-4], "the key's base64 is not whole"),
        (f"ssh-ed25519 {blob(b'ssh-ed25519')}", "the key's base64 is not whole"),
        (f"ssh-ed25519 {blob(b'ssh-ed25519', b'')}", "the key's base64 is not whole"),
        (f"ssh-ed25519 {blob(b'ssh-ed25519', b'x', b'y')}", "the key's base64 is not whole"),
        (f"ssh-rsa {blob(b'ssh-ed25519', b'x', b'y')}", "the key says ssh-rsa, and its base64 holds another type"),
        (f"{KEY}\n{KEY}", "the key has a line break or another control character"),
        (f"{KEY}\u2028x", "the key has a line break or another control character"),
        (f"{KEY} \x1b[2J", "the key has a line break or another control character"),
        (f"{KEY} {'x' * 9000}", f"the key has {len(KEY) + 9001} characters"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blb", "this is a private key"),
    ],
)
def test_refused(line, message):
    assert refused(line) == message
