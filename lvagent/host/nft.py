"""Filters in the kernel: written as text through libnftables, read back as elements over netlink.

libnftables turns a text into one transaction, in this process (spawning nft(8) would cost 25 ms). Its answer is read:
an unread return code would leave a port open that is believed closed. It keeps tables of its own that are shared by
all its contexts, so one call runs at a time.

What is there is read in the kernel's own form, which is twenty times as fast as listing it as JSON, and the same in
every version of nft. Sources: linux/netfilter/nf_tables.h, libnftables.h, libnftnl's udata.h.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import struct
import threading
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from lvagent.errors import HostError
from lvagent.host.netlink import Message, NetlinkError, Socket, attributes, mac_text, table, text
from lvagent.render.nft import TABLE, Element

_NFPROTO_BRIDGE = 7
_GET_TABLE = (10 << 8) | 1
_GET_ELEMENTS = (10 << 8) | 13
_TABLE_NAME, _TABLE_USERDATA = 1, 6
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_ELEMENT_KEY, _ELEMENT_USERDATA, _ELEMENT_KEY_END = 1, 6, 10
_COMMENT = 0
_GENERIC = struct.pack("=BBH", _NFPROTO_BRIDGE, 0, 0)

_lock = threading.Lock()


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError as error:
        raise HostError("libnftables.so.1", "load", str(error), hint="install the package libnftables1") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    return library


class Nft:
    """A libnftables context; it acts in the namespace of the thread that made it, whichever thread calls.

    :raise HostError: there is no libnftables.
    """

    def __init__(self) -> None:
        with _lock:
            self._library = _library()
            self._context: int | None = self._library.nft_ctx_new(0)
            self._library.nft_ctx_buffer_output(self._context)
            self._library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str, resource: str, action: str = "filter") -> str:
        """Carry out commands as one transaction: all of them or none.

        :param resource: what an error is about.
        :return: what nft printed.
        :raise HostError: nft refused; nothing was changed.
        """
        with _lock:
            if self._context is None:
                raise HostError(resource, action, "its filter context is closed")
            failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
            said = self._library.nft_ctx_get_error_buffer(self._context).decode(errors="replace")
            printed: str = self._library.nft_ctx_get_output_buffer(self._context).decode(errors="replace")
        if failed:
            raise HostError(resource, action, f"nft: {said.strip().splitlines()[0] if said.strip() else failed}")
        return printed

    def close(self) -> None:
        """Free the context; the namespace is no longer held."""
        with _lock:
            if self._context is not None:
                self._library.nft_ctx_free(self._context)
                self._context = None


def table_comment(netfilter: Socket) -> str | None:
    """The comment of our table in the namespace of this socket; None if there is no such table."""
    body = _GENERIC + text(_TABLE_NAME, TABLE)
    answer = netfilter.query([Message(_GET_TABLE, 0, body, f"read table {TABLE}", frozenset({errno.ENOENT}))])[0]
    return None if answer is None else _comment(table(answer[4:]).get(_TABLE_USERDATA, b""))


def elements(netfilter: Socket, sets: Mapping[str, tuple[str, ...]]) -> frozenset[Element]:
    """All elements of these sets of our table; none if there is no such table or set.

    :param sets: name to the kinds of the fields of its keys.
    """
    found: set[Element] = set()
    for name, fields in sets.items():
        request = Message(_GET_ELEMENTS, 0, _GENERIC + text(_LIST_TABLE, TABLE) + text(_LIST_SET, name), f"read {name}")
        try:
            bodies = netfilter.dump(request)
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                continue
            raise
        for body in bodies:
            listed = table(body[4:]).get(_LIST_ELEMENTS, b"")
            found.update(_element(name, fields, raw) for _, raw in attributes(listed))
    return frozenset(found)


@functools.lru_cache(maxsize=1 << 15)
def _element(name: str, fields: tuple[str, ...], raw: bytes) -> Element:
    found = table(raw)
    first = _value(found[_ELEMENT_KEY])
    last = _value(found[_ELEMENT_KEY_END]) if _ELEMENT_KEY_END in found else first
    key = []
    for kind in fields:
        size, decode = _FIELDS[kind]
        key.append(decode(first[:size], last[:size]))
        padded = (size + 3) & ~3
        first, last = first[padded:], last[padded:]
    return Element(name, tuple(key), _comment(found.get(_ELEMENT_USERDATA, b"")))


def _value(raw: bytes) -> bytes:
    return table(raw).get(1, b"")


def _comment(userdata: bytes) -> str:
    at = 0
    while at + 2 <= len(userdata):
        kind, length = userdata[at], userdata[at + 1]
        if kind == _COMMENT:
            return userdata[at + 2 : at + 2 + length].split(b"\0", 1)[0].decode(errors="replace")
        at += 2 + length
    return ""


def _device(first: bytes, _last: bytes) -> str:
    return first.split(b"\0", 1)[0].decode(errors="replace")


def _network4(first: bytes, last: bytes) -> str:
    wide = int.from_bytes(first, "big") ^ int.from_bytes(last, "big")
    return str(IPv4Network((first, 32 - wide.bit_length()), strict=False))


def _network6(first: bytes, last: bytes) -> str:
    wide = int.from_bytes(first, "big") ^ int.from_bytes(last, "big")
    return str(IPv6Network((first, 128 - wide.bit_length()), strict=False))


_FIELDS: dict[str, tuple[int, Callable[[bytes, bytes], str]]] = {
    "device": (16, _device),
    "mac": (6, lambda first, _last: mac_text(first)),
    "mac_field": (6, lambda first, _last: mac_text(first)),
    "ipv4": (4, lambda first, _last: str(IPv4Address(first))),
    "ipv6": (16, lambda first, _last: str(IPv6Address(first))),
    "ipv6_field": (16, lambda first, _last: str(IPv6Address(first))),
    "ipv4_range": (4, _network4),
    "ipv6_range": (16, _network6),
    "ipv6_field_range": (16, _network6),
    "number": (4, lambda first, _last: str(int.from_bytes(first, "little"))),
}
"""Of each kind of field: its size in bytes and how its first and last value are written."""
