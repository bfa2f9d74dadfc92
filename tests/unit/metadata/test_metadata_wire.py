"""The control protocol: what is sent is what arrives, and different guests are told apart."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvagent.metadata import wire
from lvagent.plan.resources import Guest, GuestNic

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
optional = st.none() | texts
nics = st.builds(
    GuestNic,
    position=st.integers(0, 9),
    mac=texts,
    mtu=st.integers(0, 9000),
    subnet=texts,
    vpc=texts,
    ipv4=optional,
    gateway_v4=optional,
    ipv6=optional,
    gateway_v6=optional,
)
guests = st.builds(
    Guest,
    vm=texts,
    hostname=texts,
    keys=st.lists(texts, max_size=3).map(tuple),
    nics=st.lists(nics, max_size=2).map(tuple),
    user_data=st.none() | st.binary(max_size=40),
)
ONE = Guest("i-0000000001", "one", ("key",), (), b"secret")


@given(guests)
def test_a_guest_arrives_as_it_was_sent(guest: Guest) -> None:
    line = wire.encode(wire.dump_guest(guest))
    assert line.count(b"\n") == 1
    assert wire.load_guest(wire.decode(line)) == guest


@given(guests, guests)
def test_fingerprints_tell_guests_apart(one: Guest, other: Guest) -> None:
    assert (wire.fingerprint(one) == wire.fingerprint(other)) == (one == other)


def test_no_user_data_is_not_empty_user_data() -> None:
    without, empty = (Guest("i-0000000001", "one", (), (), raw) for raw in (None, b""))
    assert wire.fingerprint(without) != wire.fingerprint(empty)


def test_digests_tell_tables_apart() -> None:
    table = {"10.0.0.5": "a", "10.0.0.6": "b"}
    assert wire.digest(table) == wire.digest(dict(reversed(table.items())))
    others = [{}, {"10.0.0.5": "a"}, {"10.0.0.5": "b", "10.0.0.6": "a"}, table | {"fd00::5": "a"}]
    assert len({wire.digest(other) for other in [table, *others]}) == 5


def test_a_change_names_each_guest_once() -> None:
    lines = list(wire.changes("vpc-aaaaaaaaaa", 7, [("10.0.0.5", ONE), ("fd00::5", ONE)], ["10.0.0.6"]))
    assert [json.loads(line) for line in lines] == [
        {
            "op": "change",
            "vpc": "vpc-aaaaaaaaaa",
            "inode": 7,
            "drop": ["10.0.0.6"],
            "put": [{"addresses": ["10.0.0.5", "fd00::5"], "guest": wire.dump_guest(ONE)}],
        }
    ]


def test_no_difference_is_no_change() -> None:
    assert list(wire.changes("vpc-aaaaaaaaaa", 7, [], [])) == []


def test_many_guests_go_in_lines_of_bounded_size() -> None:
    many = [(f"10.0.0.{n}", Guest(f"i-{n:010d}", "x", (), (), bytes(65_000))) for n in range(60)]
    lines = list(wire.changes("vpc-aaaaaaaaaa", 7, many, ["10.0.1.1"]))
    assert len(lines) > 1
    assert all(len(line) < wire.MAX_MESSAGE for line in lines)
    messages = [json.loads(line) for line in lines]
    assert [message["drop"] for message in messages] == [["10.0.1.1"]] + [[]] * (len(lines) - 1)
    assert [entry["addresses"][0] for message in messages for entry in message["put"]] == [at for at, _ in many]


@pytest.mark.parametrize("line", [b"", b"[]", b"1", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_message(line: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.decode(line)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vm", None),
        ("hostname", 1),
        ("keys", "key"),
        ("keys", [1]),
        ("nics", {}),
        ("nics", [1]),
        ("user_data", "*"),
        ("user_data", 1),
    ],
)
def test_what_is_no_guest(key: str, value: object) -> None:
    with pytest.raises(wire.Malformed):
        wire.load_guest(wire.dump_guest(ONE) | {key: value})


def test_true_is_no_number() -> None:
    with pytest.raises(wire.Malformed, match="inode is no number"):
        wire.number({"inode": True}, "inode")


@pytest.mark.parametrize("value", [None, [], {"a": 1}])
def test_what_is_no_object_of_strings(value: object) -> None:
    with pytest.raises(wire.Malformed, match="table is no object of strings"):
        wire.texts({"table": value}, "table")
