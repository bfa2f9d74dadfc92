"""What the agent and the metadata service say to each other on the control socket: one JSON object a line, each way.

    {"op": "ping"}                                       -> {"pid": 4711, "revision": 3, "hops": 1}
    {"op": "list"} (+ "vpc": only that one)              -> {"revision": 3, "hops": 1,
                                                             "vpcs": [{"vpc", "inode", "attached", "digest"}, ...]}
    {"op": "table", "vpc", "inode"}                      -> {"attached": true, "table": {address: fingerprint}}
    {"op": "asked", "vpc", "inode"}                      -> {"asked": [{"vm", "requests", "last": Unix time}, ...]}
    {"op": "change", "vpc", "inode", "put", "drop"}      -> {}      put: [{"addresses": [...], "guest": {...}}]
    {"op": "attach", "vpc", "inode"} + two descriptors   -> {}      the listening sockets, by SCM_RIGHTS
    {"op": "detach", "vpc", "inode"}                     -> {}      inode absent: whatever namespace it is

or ``{"error": why}``. A VPC at another inode is another namespace: ``change`` for it begins an empty table, and what
was served in the old one ends. So the agent compares tables by fingerprint, sends what differs (in lines of bounded
size), and attaches the sockets last: from its first moment a listener knows its guests.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping

from lvagent.plan.resources import Guest, GuestNic

REVISION = 3
"""Of the service: raised when it speaks or serves otherwise. An agent replaces a service of another revision."""

MAX_MESSAGE = 4 << 20
"""Bytes of a line from the agent. A guest with the most user data is 90 kB."""

BATCH = 1 << 20
"""Bytes of guests after which the agent begins another ``change``."""

Json = dict[str, object]


class Malformed(Exception):
    """The message is none of those above."""


def kind(hops: int) -> Json:
    """What a service says about itself; an agent replaces one that says something else than it would."""
    return {"revision": REVISION, "hops": hops}


def fingerprint(guest: Guest) -> str:
    """What tells two guests apart."""
    digest = hashlib.blake2b(guest.user_data or b"", digest_size=16, key=b"\1" if guest.user_data is None else b"\2")
    digest.update(repr((guest.vm, guest.hostname, guest.keys, guest.nics)).encode(errors="surrogatepass"))
    return digest.hexdigest()


def digest(table: Mapping[str, str]) -> str:
    """What tells two tables (address -> fingerprint) apart."""
    text = "\n".join(f"{address} {mark}" for address, mark in sorted(table.items()))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def encode(message: Mapping[str, object]) -> bytes:
    """A message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Json:
    """A line as a message.

    :raise Malformed: it is no JSON object.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Malformed("no JSON") from error
    if not isinstance(message, dict):
        raise Malformed("no object")
    return message


def text(message: Mapping[str, object], key: str) -> str:
    """A member that must be a string.

    :raise Malformed: it is not.
    """
    value = message.get(key)
    if not isinstance(value, str):
        raise Malformed(f"{key} is no string")
    return value


def number(message: Mapping[str, object], key: str) -> int:
    """A member that must be a whole number.

    :raise Malformed: it is not.
    """
    value = message.get(key)
    if type(value) is not int:
        raise Malformed(f"{key} is no number")
    return value


def member(message: Mapping[str, object], key: str) -> Json:
    """A member that must be an object.

    :raise Malformed: it is not.
    """
    value = message.get(key)
    if not isinstance(value, dict):
        raise Malformed(f"{key} is no object")
    return value


def texts(message: Mapping[str, object], key: str) -> dict[str, str]:
    """A member that must be an object of strings.

    :raise Malformed: it is not.
    """
    value = message.get(key)
    if not isinstance(value, dict) or not all(isinstance(entry, str) for entry in value.values()):
        raise Malformed(f"{key} is no object of strings")
    return value


def strings(message: Mapping[str, object], key: str) -> list[str]:
    """A member that must be a list of strings.

    :raise Malformed: it is not.
    """
    value = message.get(key, [])
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise Malformed(f"{key} is no list of strings")
    return value


def objects(message: Mapping[str, object], key: str) -> list[Json]:
    """A member that must be a list of objects.

    :raise Malformed: it is not.
    """
    value = message.get(key, [])
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise Malformed(f"{key} is no list of objects")
    return value


def dump_guest(guest: Guest) -> Json:
    """A guest as JSON; its user data in base64."""
    return {
        "vm": guest.vm,
        "hostname": guest.hostname,
        "keys": list(guest.keys),
        "nics": [dataclasses.asdict(nic) for nic in guest.nics],
        "user_data": None if guest.user_data is None else base64.b64encode(guest.user_data).decode("ascii"),
    }


def load_guest(message: Mapping[str, object]) -> Guest:
    """A guest out of JSON.

    :raise Malformed: it is none.
    """
    secret = None if message.get("user_data") is None else text(message, "user_data")
    try:
        user_data = None if secret is None else base64.b64decode(secret, validate=True)
    except ValueError as error:
        raise Malformed("user_data is no base64") from error
    return Guest(
        vm=text(message, "vm"),
        hostname=text(message, "hostname"),
        keys=tuple(strings(message, "keys")),
        nics=tuple(_load_nic(entry) for entry in objects(message, "nics")),
        user_data=user_data,
    )


def _load_nic(message: Json) -> GuestNic:
    return GuestNic(
        position=number(message, "position"),
        mac=text(message, "mac"),
        mtu=number(message, "mtu"),
        subnet=text(message, "subnet"),
        vpc=text(message, "vpc"),
        ipv4=_optional(message, "ipv4"),
        gateway_v4=_optional(message, "gateway_v4"),
        ipv6=_optional(message, "ipv6"),
        gateway_v6=_optional(message, "gateway_v6"),
    )


def _optional(message: Json, key: str) -> str | None:
    return None if message.get(key) is None else text(message, key)


def changes(vpc: str, inode: int, put: Iterable[tuple[str, Guest]], drop: Iterable[str]) -> Iterator[bytes]:
    """The lines that change a table: each guest once, with all its addresses, in as few lines as may be."""
    together: dict[int, tuple[list[str], Guest]] = {}
    for address, guest in put:
        together.setdefault(id(guest), ([], guest))[0].append(address)
    batch: list[str] = []
    gone = list(drop)
    for addresses, guest in together.values():
        batch.append(json.dumps({"addresses": addresses, "guest": dump_guest(guest)}, separators=(",", ":")))
        if sum(map(len, batch)) > BATCH:
            yield _change(vpc, inode, batch, gone)
            batch, gone = [], []
    if batch or gone:
        yield _change(vpc, inode, batch, gone)


def _change(vpc: str, inode: int, batch: list[str], gone: list[str]) -> bytes:
    head = json.dumps({"op": "change", "vpc": vpc, "inode": inode, "drop": gone})
    return f'{head[:-1]},"put":[{",".join(batch)}]}}\n'.encode()
