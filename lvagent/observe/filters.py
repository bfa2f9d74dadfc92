"""Changes of filters by others: a ``nft flush ruleset`` in a VPC is to be noticed at once, not by the next sweep.

In each namespace that has a filter of ours, and in root, a netlink socket hears of each transaction (NFNLGRP_NFTABLES).
Who made it is told by the port of the socket that it came from: ours are among the sockets of this process, as the
kernel lists them (/proc/net/netlink), so that our own transactions cause nothing. Nothing depends on hearing: the sweep
finds what was missed. What is done about it, is done by a thread of its own, for a sweep may take long.

A socket keeps its namespace alive. So the names are looked at all the time: one that went, or stands for
another namespace by now, loses its socket. Sources: linux/netfilter/nfnetlink.h, nf_tables_api.c (NFT_MSG_NEWGEN).
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import re
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lvagent.host import netns
from lvagent.spec import names

log = logging.getLogger(__name__)

TICK = 0.5
"""Seconds between two looks at the names of namespaces; what is heard is heard at once."""

ROOT = ""
"""Stands for the namespace of this process."""

CALM = 0.05
"""Seconds that are waited for more of the same before something is done about it."""

_NETFILTER, _GROUP, _SOL_NETLINK, _ADD_MEMBERSHIP = 12, 7, 270, 1
_NEWGEN = 10 << 8 | 15
_HEADER = struct.Struct("=IHHII")
_OWN = re.compile(r"socket:\[([0-9]+)\]")


@dataclass(slots=True)
class _Ear:
    """A socket in a namespace. ``own``: ports of sockets there that are this process's."""

    line: socket.socket
    inode: int
    own: set[int]


class FilterWatch:
    """Calls a function with the name of a namespace whenever somebody else changed a filter in it.

    :param folder: where the names of namespaces are.
    :param fabric: the name of the underlay side's; empty: the namespace of this process.
    :param changed: called with the name of a VPC, with ``fabric``, or with ``ROOT``; by one thread, and must not raise.
    """

    def __init__(self, folder: str, fabric: str, changed: Callable[[str], None]) -> None:
        self._folder = folder
        self._fabric = fabric
        self._changed = changed
        self._device = os.stat("/proc/self/ns/net").st_dev
        self._ears: dict[str, _Ear] = {}
        self._selector = selectors.DefaultSelector()
        self._stopped = threading.Event()
        self._heard: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._listen, name="filter-watch", daemon=True),
            threading.Thread(target=self._tell, name="filter-heal", daemon=True),
        ]

    def start(self) -> None:
        """Listen from now on: what changes after this has returned, in a namespace that is there, is heard."""
        self._follow()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Listen no more; returns when nothing is being done any more."""
        self._stopped.set()
        self._heard.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=30)

    # hearing

    def _listen(self) -> None:
        while not self._stopped.is_set():
            self._follow()
            for key, _ in self._selector.select(TICK):
                name = str(key.data)
                if name in self._ears and self._is_foreign(name, self._ears[name]):
                    self._heard.put(name)
        for name in list(self._ears):
            self._close(name)
        self._selector.close()

    def _follow(self) -> None:
        """Have a socket in each namespace that is there, and in no other."""
        there = self._there()
        for name in [name for name, ear in self._ears.items() if there.get(name) != ear.inode]:
            self._close(name)
        for name in there.keys() - self._ears.keys():
            self._open(name)

    def _there(self) -> dict[str, int]:
        try:
            found = [name for name in os.listdir(self._folder) if names.VPC_NAME.match(name)]
        except OSError:
            found = []
        seen = {name: self._inode(name) for name in {*found, self._fabric, ROOT}}
        return {name: inode for name, inode in seen.items() if inode is not None}

    def _inode(self, name: str) -> int | None:
        """The namespace that a name stands for; None: for none, or for a plain file that a crash left."""
        try:
            seen = os.stat(self._path(name))
        except OSError:
            return None
        return seen.st_ino if seen.st_dev == self._device else None

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}" if name else "/proc/self/ns/net"

    def _open(self, name: str) -> None:
        def made() -> _Ear:
            line = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
            try:
                line.bind((0, 0))
                line.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
                line.setblocking(False)
                return _Ear(line, os.stat("/proc/thread-self/ns/net").st_ino, set())
            except BaseException:
                line.close()
                raise

        try:
            ear = netns.inside(self._path(name), made)
        except OSError as error:  # it went just now
            log.debug("%s: %s", name, error)
            return
        self._ears[name] = ear
        self._selector.register(ear.line, selectors.EVENT_READ, name)

    def _close(self, name: str) -> None:
        ear = self._ears.pop(name)
        self._selector.unregister(ear.line)
        ear.line.close()

    def _is_foreign(self, name: str, ear: _Ear) -> bool:
        """Whether what has come is somebody else's doing."""
        ports: set[int] = set()
        try:
            while True:
                ports |= generations(ear.line.recv(1 << 18))
        except BlockingIOError:
            pass
        except OSError as error:
            log.debug("%s: %s", name, error)
            if error.errno != errno.ENOBUFS:
                self._close(name)  # to be opened again
            return True  # some was lost: it may have been anything
        if ports - ear.own:
            ear.own = self._own_ports(name)
        return bool(ports - ear.own) and self._inode(name) == ear.inode  # what went has no filter to lose

    def _own_ports(self, name: str) -> set[int]:
        """The ports of this process's netfilter sockets in a namespace."""
        try:
            text = netns.inside(self._path(name), lambda: Path("/proc/thread-self/net/netlink").read_text())
        except OSError:
            return set()
        return own_ports(text, _own_inodes())

    # telling

    def _tell(self) -> None:
        while (name := self._heard.get()) is not None:
            wanted = {name}
            self._stopped.wait(CALM)
            while not self._heard.empty():
                if (more := self._heard.get()) is None:
                    return
                wanted.add(more)
            for one in sorted(wanted):
                # Root's is others' more than ours: who heals it says so if there was something to heal.
                level = logging.WARNING if one else logging.DEBUG
                log.log(level, "%s: somebody changed its filter", one or "the root namespace")
                self._changed(one)


def generations(raw: bytes) -> set[int]:
    """The ports of those whose transactions have come to an end, in what a netlink socket received."""
    found, at = set(), 0
    while at + _HEADER.size <= len(raw):
        length, kind, _flags, _sequence, port = _HEADER.unpack_from(raw, at)
        if length < _HEADER.size:
            break
        if kind == _NEWGEN:
            found.add(port)
        at += (length + 3) & ~3
    return found


def own_ports(table: str, inodes: set[str]) -> set[int]:
    """The ports of netfilter sockets with these inodes, by the text of /proc/net/netlink."""
    rows = (row.split() for row in table.splitlines()[1:])
    return {int(row[2]) for row in rows if len(row) > 9 and row[1] == str(_NETFILTER) and row[9] in inodes}


def _own_inodes() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            match = _OWN.fullmatch(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
        if match:
            found.add(match[1])
    return found
