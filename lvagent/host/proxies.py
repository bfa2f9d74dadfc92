"""Where root answers for floating addresses: entries of the kernel's table of proxied neighbours.

An address of the host's network that is led to a VM is on no link: root routes it to the uplink of the VM's VPC and
answers for it (ARP, neighbour discovery) on the link whose network it is of. Our entries bear the protocol number of
our routes. To which VPC one belongs is said by the route of its address. For IPv6 the link must be told to (proxy_ndp),
which is put back when the last of ours on it goes. Sources: linux/neighbour.h, ip-sysctl.rst, arp(7).
"""

from __future__ import annotations

import errno
import json
import logging
import struct
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from lvagent.errors import HostError
from lvagent.failpoints import point
from lvagent.host import files, host, neighbours, routes
from lvagent.host.links import AF_INET, AF_INET6, NDA_DST, RTM_NEWNEIGH, Link
from lvagent.host.netlink import CREATE, REPLACE, Message, attribute, table, u8
from lvagent.host.netspace import Netspace, translated
from lvagent.host.sysctl import ROOT
from lvagent.plan.resources import Proxy
from lvagent.spec import names

log = logging.getLogger(__name__)

RTM_DELNEIGH, RTM_GETNEIGH = 29, 30
NDA_PROTOCOL = 12
NTF_PROXY = 0x08
FILE = "proxied-links.json"
_NDMSG = struct.Struct("=BxxxiHBB")


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of ours. ``link``: its index."""

    address: str
    link: int


class ProxySide:
    """Floating addresses in root.

    :param state: the state folder.
    :param root: opens the namespace in which the agent runs.
    :param locked: holds the lock of what root has for all VPCs: of two links that are told to answer both are
        remembered, and none is told otherwise before its address is there.
    """

    def __init__(
        self, state: Path, root: Callable[[], Netspace], locked: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._file = state / FILE
        self._root = root
        self._locked = locked

    def observe(self, vpc: str) -> set[Proxy]:
        """The floating addresses that are routed to a VPC, and those that are routed nowhere by now."""
        with translated("the proxied neighbours of root", "read"):
            there = self._entries()
            if not there:
                return set()
            root = self._root()
            links = {link.index: link for link in root.links().values()}
            ways = {str(one.net.network_address): one.link for one in root.routes() if one.protocol == routes.OURS}
        outer = next((one.index for one in links.values() if one.name == names.uplink_outer(vpc)), None)
        mine = [one for one in there if ways.get(one.address, outer) == outer]
        return {Proxy(vpc, one.address, self._link(one, links)) for one in mine}

    def _link(self, one: _Entry, links: dict[int, Link]) -> str:
        """The link on which an entry is; '' if it is not answered for there."""
        link = links.get(one.link)
        if link is None or (":" in one.address and self._told(link.name) != "1"):
            return ""
        return link.name

    def _entries(self) -> list[_Entry]:
        found = []
        for family in (AF_INET, AF_INET6):
            body = _NDMSG.pack(family, 0, 0, NTF_PROXY, 0)
            for raw in self._root().route.dump(Message(RTM_GETNEIGH, 0, body, "list proxied neighbours")):
                _, index, _, flags, _ = _NDMSG.unpack_from(raw)
                said = table(raw[_NDMSG.size :])
                if flags & NTF_PROXY and said.get(NDA_PROTOCOL) == bytes([routes.OURS]):
                    found.append(_Entry(str(ip_address(said[NDA_DST])), index))
        return found

    def ensure(self, one: Proxy) -> None:
        """Answer for an address on its link and on no other, and announce it there.

        :raise HostError: the link is not there.
        """
        with self._locked(), translated(f"floating address {one.address}", "take"):
            link = self._root().find([one.link]).get(one.link)
            if link is None:
                raise HostError(f"floating address {one.address}", "take", f"there is no link {one.link}")
            self._drop(one.address, keep=link.index)
            if ":" in one.address:
                self._root().inside(lambda: self._tell(one.link))
            self._root().send([_message(RTM_NEWNEIGH, CREATE | REPLACE, _Entry(one.address, link.index))])
            point("floating.proxied")
        self.announce(one)

    def announce(self, one: Proxy) -> None:
        """Tell everybody on its link where an address is. That it could not be told is told in the log alone."""
        try:
            link = self._root().find([one.link])[one.link]
            self._root().inside(lambda: neighbours.announce(one.link, link.mac, one.address))
        except (OSError, KeyError) as error:
            log.warning("the floating address %s could not be announced on %s: %s", one.address, one.link, error)

    def answerer(self, link: str, address: str) -> str:
        """The MAC that answers for an address on a link; '' if none does.

        :raise HostError: nobody can be asked.
        """
        with translated(f"who has {address} on {link}", "ask"):
            found = self._root().find([link]).get(link)
            if found is None or not found.up:
                why = "there is no such link" if found is None else "the link is down"
                raise HostError(f"who has {address} on {link}", "ask", why, hint="ip link shows it")
            return self._root().inside(lambda: neighbours.probe(link, found.mac, address))

    def remove(self, gone: Iterable[Proxy]) -> None:
        """Make sure that these addresses are answered for nowhere."""
        with self._locked():
            for one in gone:
                with translated(f"floating address {one.address}", "let go of"):
                    self._drop(one.address)
            with translated("proxied neighbours", "let go of"):
                self._root().inside(self._restore)

    def clear(self) -> None:
        """Make sure that no address of ours is answered for."""
        with self._locked(), translated("proxied neighbours", "let go of"):
            self._root().send([_message(RTM_DELNEIGH, 0, one) for one in self._entries()])
            self._root().inside(self._restore)

    def _drop(self, address: str, keep: int = 0) -> None:
        gone = [one for one in self._entries() if one.address == address and one.link != keep]
        self._root().send([_message(RTM_DELNEIGH, 0, one) for one in gone])

    # IPv6: the link is told to answer

    def _told(self, link: str) -> str:
        try:
            return self._root().inside(lambda: _path(link).read_text().strip())
        except OSError:
            return ""

    def _tell(self, link: str) -> None:
        path = _path(link)
        was = path.read_text().strip()
        if was == "1":
            return
        self._remember({**self._remembered(), link: was})
        path.write_text("1")

    def _restore(self) -> None:
        """Put back what links were told, where no address of ours is any more."""
        was = self._remembered()
        if not was:
            return
        links = {link.index: link.name for link in self._root().links().values()}
        used = {links.get(one.link, "") for one in self._entries() if ":" in one.address}
        for link in sorted(was.keys() - used):
            try:
                _path(link).write_text(was[link])
            except FileNotFoundError:
                log.info("%s is gone, with what it was told", link)
        self._remember({link: value for link, value in was.items() if link in used})

    def _remembered(self) -> dict[str, str]:
        try:
            found = json.loads(self._file.read_text())
            return dict(found["was"]) if found["boot"] == host.boot_id() else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _remember(self, was: dict[str, str]) -> None:
        if not was:
            files.remove(self._file)
            return
        files.folder(self._file.parent, 0o700)
        document = {"boot": host.boot_id(), "was": was}
        files.write(self._file, json.dumps(document, indent=2) + "\n", mode=0o600)


def _path(link: str) -> Path:
    return ROOT / "ipv6/conf" / link / "proxy_ndp"


def _message(kind: int, flags: int, one: _Entry) -> Message:
    address = ip_address(one.address)
    head = _NDMSG.pack(AF_INET if address.version == 4 else AF_INET6, one.link, 0, NTF_PROXY, 0)
    body = head + attribute(NDA_DST, address.packed) + u8(NDA_PROTOCOL, routes.OURS)
    absent = frozenset({errno.ENOENT, errno.ENODEV}) if kind == RTM_DELNEIGH else frozenset[int]()
    return Message(kind, flags, body, f"proxy {one.address}", absent)
