"""Forwarding that somebody switches in root: noticed at once, not by the next sweep.

The kernel tells of such a change as netconf (linux/netconf.h), for all links together under the index -1. Our own
changes are told as well; whoever is called then finds nothing to do.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

_ROUTE, _SOL_NETLINK, _ADD_MEMBERSHIP = 0, 270, 1
_GROUPS = (24, 25)
"""RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF."""
_NEWNETCONF = 80
_IFINDEX, _FORWARDING, _ALL = 1, 2, -1
_HEADER = struct.Struct("=IHHII")


class ForwardingWatch:
    """Calls a function whenever forwarding of the namespace of this process is switched.

    :param changed: called by a thread of this watch's, and must not raise.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._line = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _ROUTE)
        self._wake = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._listen, name="forwarding-watch", daemon=True)

    def start(self) -> None:
        """Listen from now on."""
        self._line.bind((0, 0))
        for group in _GROUPS:
            self._line.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more; returns when nothing is being done any more."""
        os.write(self._wake[1], b".")
        if self._thread.is_alive():
            self._thread.join(timeout=30)
        self._line.close()
        for descriptor in self._wake:
            os.close(descriptor)

    def _listen(self) -> None:
        while True:
            ready, _, _ = select.select([self._line.fileno(), self._wake[0]], [], [])
            if self._wake[0] in ready:
                return
            try:
                told = tells_of_forwarding(self._line.recv(1 << 16))
            except OSError as error:  # some was lost: it may have been this
                log.debug("forwarding: %s", error)
                told = True
            if told:
                self._changed()


def tells_of_forwarding(raw: bytes) -> bool:
    """Whether what a netlink socket received tells that forwarding of all links was switched."""
    at = 0
    while at + _HEADER.size <= len(raw):
        length, kind, *_ = _HEADER.unpack_from(raw, at)
        if length < _HEADER.size:
            return False
        found = _attributes(raw[at + _HEADER.size + 4 : at + length])  # a family and padding come first
        if kind == _NEWNETCONF and found.get(_IFINDEX) == _ALL and _FORWARDING in found:
            return True
        at += (length + 3) & ~3
    return False


def _attributes(raw: bytes) -> dict[int, int]:
    found, at = {}, 0
    while at + 8 <= len(raw):
        length, kind = struct.unpack_from("=HH", raw, at)
        if length < 4:
            break
        if length == 8:
            found[kind] = struct.unpack_from("=i", raw, at + 4)[0]
        at += (length + 3) & ~3
    return found
