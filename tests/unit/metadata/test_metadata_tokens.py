"""Session tokens: only here, only for this guest, only until they expire."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvagent.metadata.tokens import TTL_MOST, Tokens


class Clock:
    """Time that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_token_lives_as_long_as_it_was_told() -> None:
    clock = Clock()
    tokens = Tokens(clock)
    token = tokens.issue("1/i-0000000001", 60)
    clock.now += 59.9
    assert tokens.valid("1/i-0000000001", token)
    clock.now += 0.1
    assert not tokens.valid("1/i-0000000001", token)


@pytest.mark.parametrize("audience", ["2/i-0000000001", "1/i-0000000002", "", "1/i-00000000010"])
def test_a_token_is_nothing_to_another_guest(audience: str) -> None:
    tokens = Tokens()
    assert not tokens.valid(audience, tokens.issue("1/i-0000000001", 60))


def test_a_token_of_another_service_is_nothing() -> None:
    assert not Tokens().valid("1/i-0000000001", Tokens().issue("1/i-0000000001", 60))


@pytest.mark.parametrize("ttl", [0, -1, TTL_MOST + 1])
def test_ttl_has_bounds(ttl: int) -> None:
    with pytest.raises(ValueError, match="seconds"):
        Tokens().issue("1/i-0000000001", ttl)


@given(st.integers(0, 39), st.integers(1, 255))
def test_any_changed_byte_makes_it_invalid(at: int, flip: int) -> None:
    tokens = Tokens(Clock(), key=b"k" * 32)
    raw = bytearray(base64.urlsafe_b64decode(tokens.issue("1/i-0000000001", 60)))
    raw[at] ^= flip
    assert not tokens.valid("1/i-0000000001", base64.urlsafe_b64encode(raw).decode())


@given(st.text(max_size=80))
def test_any_text_is_no_token(text: str) -> None:
    assert not Tokens().valid("1/i-0000000001", text)
