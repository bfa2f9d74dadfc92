"""A way into the stack as by a link that somebody else holds: what is written here comes as from that link's other end.

A tap of our own, which has an ingress qdisc that redirects all that comes by it to the ingress of the link. So the
kernel takes the frame as one of that link, at the very beginning: the bridge, its filters and conntrack see what they
would see of the guest's. The tap is not persistent: with its descriptor, and so with this process, it is gone, and the
qdisc with it. Sources: tc-mirred(8), linux/rtnetlink.h, pkt_cls.h, tc_act/tc_mirred.h, if_tun.h.
"""

from __future__ import annotations

import fcntl
import os
import struct

from lvagent.host import links, sysctl
from lvagent.host.links import Link
from lvagent.host.netlink import CREATE, EXCLUSIVE, Message, attribute, nest, text
from lvagent.host.netspace import Netspace

NAME = "lvagent-probe"
_TUNSETIFF = 0x400454CA
_TAP, _PLAIN, _EXCLUSIVE = 0x0002, 0x1000, 0x8000
_NEWQDISC, _NEWTFILTER = 36, 44
_KIND, _OPTIONS = 1, 2
_INGRESS, _HANDLE = 0xFFFFFFF1, 0xFFFF0000
_SELECTOR, _ACTIONS = 5, 7
_ACTION_KIND, _ACTION_OPTIONS = 1, 2
_MIRRED = 2
_STOLEN, _INGRESS_REDIRECT = 4, 3
_ALL = 0x0003
_TCMSG = struct.Struct("=BxxxiIII")


class Entrance:
    """Open as long as it is not closed.

    :param space: the namespace of the link.
    :param mac: what the kernel shall take for its own address where no bridge does; '' where one does.
    :raise OSError: the kernel lacks what this needs, or the entrance is in use.
    """

    def __init__(self, space: Netspace, link: Link, mac: str = "") -> None:
        self._descriptor = space.inside(_tap)
        try:
            space.inside(lambda: sysctl.ipv6_off(NAME))
            own = space.find([NAME])[NAME]
            identity = [links.address(NAME, mac)] if mac else []
            there = [_qdisc(own.index), _redirect(own.index, link.index), links.change(NAME, mtu=link.mtu, up=True)]
            space.send([*identity, *there])
        except BaseException:
            os.close(self._descriptor)
            raise

    def send(self, frame: bytes) -> None:
        """Have a frame come by the link."""
        os.write(self._descriptor, frame)

    def close(self) -> None:
        """Take it away."""
        os.close(self._descriptor)


def _tap() -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", NAME.encode(), _TAP | _PLAIN | _EXCLUSIVE))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _qdisc(index: int) -> Message:
    body = _TCMSG.pack(0, index, _HANDLE, _INGRESS, 0) + text(_KIND, "ingress")
    return Message(_NEWQDISC, CREATE | EXCLUSIVE, body, f"add an ingress qdisc to {NAME}")


def _redirect(index: int, to: int) -> Message:
    """A filter that matches all, with the one action."""
    priority = 1 << 16 | int.from_bytes(struct.pack("!H", _ALL), "little")
    anything = struct.pack("=BBBxHHhhI", 1, 0, 1, 0, 0, 0, 0, 0) + struct.pack("=IIii", 0, 0, 0, 0)
    mirred = struct.pack("=IIiiiiI", 0, 0, _STOLEN, 0, 0, _INGRESS_REDIRECT, to)
    action = nest(1, text(_ACTION_KIND, "mirred"), nest(_ACTION_OPTIONS, attribute(_MIRRED, mirred)))
    body = _TCMSG.pack(0, index, 0, _HANDLE, priority) + text(_KIND, "u32")
    body += nest(_OPTIONS, attribute(_SELECTOR, anything), nest(_ACTIONS, action))
    return Message(_NEWTFILTER, CREATE | EXCLUSIVE, body, f"redirect what comes by {NAME}")
