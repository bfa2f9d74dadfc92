"""A network namespace held open: the sockets and the filter context that act in it.

All are made once, by a thread that entered the namespace, and serve any thread afterwards. Whoever holds one holds the
namespace itself, whatever becomes of its name; so it knows its inode, by which a dead namespace is told from the one
that bears its name now.

One that several threads use is never closed by one of them: another would be left with the number of a descriptor that
is closed, or by then stands for some other namespace. It is let go of, and closed when the last of them has done so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from lvagent.errors import HostError, Vanished
from lvagent.host import links, netns, routes
from lvagent.host.links import Address, Link
from lvagent.host.netlink import NETFILTER, Message, NetlinkError, Socket
from lvagent.host.nft import Nft
from lvagent.host.routes import Route

T = TypeVar("T")

_HINTS = {
    errno.EPERM: "the agent must run as root",
    errno.EEXIST: "something else has that name or number: remove it, or choose another",
    errno.EOPNOTSUPP: "the kernel lacks this kind of link: load its module",
}


_GONE = (errno.ENODEV, errno.ENXIO, errno.ESRCH, errno.ESTALE)
"""What the kernel says of a link, or what stands on one, that is not there any more."""


@contextlib.contextmanager
def translated(resource: str, action: str) -> Iterator[None]:
    """Turn the kernel's refusals into a HostError about this resource: Vanished, if it went away in the middle."""
    try:
        yield
    except NetlinkError as error:
        raise refusal(error, resource, action, f"{error.label}: {error.reason}") from error
    except OSError as error:
        cause = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise refusal(error, resource, action, cause) from error


def refusal(error: OSError, resource: str, action: str, cause: str) -> HostError:
    """What the kernel refused, as an error of ours."""
    if isinstance(error, netns.NameGone):
        return Vanished(resource, action, str(error.strerror))
    if error.errno in _GONE:
        return Vanished(resource, action, cause)
    return HostError(resource, action, cause, hint=_HINTS.get(error.errno or 0, ""))


class Links(dict[str, Link]):
    """Links by name; to take one that is not there is to find that it went."""

    def __missing__(self, name: str) -> Link:
        raise NetlinkError(errno.ENODEV, f"find {name}")


class Netspace:
    """A namespace, open until it is closed, or nobody has it any more.

    :param path: its name, such as /run/netns/vpc-aaaaaaaaaa; '' for the one of the calling thread.
    :raise netns.NameGone: there is no such namespace.
    :raise OSError: it cannot be entered, or there is no room for its sockets.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        netns.inside(path, self._open)

    def _open(self) -> None:
        with contextlib.ExitStack() as stack:
            self.descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, self.descriptor)
            self.inode = os.fstat(self.descriptor).st_ino
            self.route = Socket()
            stack.callback(self.route.close)
            self.netfilter = Socket(NETFILTER)
            stack.callback(self.netfilter.close)
            self.nft = Nft()
            stack.callback(self.nft.close)
            self._closing = weakref.finalize(self, stack.pop_all().close)
            self._closing.atexit = False

    def close(self) -> None:
        """Let go of the namespace now: for those who share it with nobody."""
        self._closing()

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function in a thread that is in this namespace."""
        return netns.inside(f"/proc/self/fd/{self.descriptor}", function)

    def send(self, messages: Iterable[Message]) -> None:
        """Carry out link operations, all in one system call.

        :raise NetlinkError: the first that failed.
        """
        self.route.send(list(messages))

    def links(self) -> Links:
        """All links, by name."""
        found = (links.parse(body) for body in self.route.dump(links.get_all()))
        return Links((link.name, link) for link in found)

    def ports(self, bridge: int) -> dict[str, Link]:
        """The ports of a bridge, by name."""
        found = (links.parse(body) for body in self.route.dump(links.get_ports(bridge)))
        return {link.name: link for link in found if link.master == bridge}

    def find(self, names: Iterable[str]) -> Links:
        """Those of these links that are there, by name."""
        answers = self.route.query([links.get(name) for name in names])
        return Links((link.name, link) for link in map(links.parse, filter(None, answers)))

    def find_indexes(self, indexes: Iterable[int]) -> dict[int, Link]:
        """Those of these links that are there, by index."""
        answers = self.route.query([links.get_index(index) for index in indexes])
        return {link.index: link for link in map(links.parse, filter(None, answers))}

    def routes(self, link: int = 0) -> frozenset[Route]:
        """The routes of the main table.

        :param link: index of a link: only those that leave by it.
        """
        found: set[Route] = set()
        for version in (4, 6):
            told = map(routes.parse, self.route.dump(routes.get_all(version, link)))
            found.update(one for one in told if one.table == routes.MAIN and link in (0, one.link))
        return frozenset(found)

    def addresses(self) -> dict[int, frozenset[Address]]:
        """The addresses that can be used, by the index of their link."""
        found: dict[int, set[Address]] = {}
        for pair in map(links.parse_address, self.route.dump(links.get_addresses())):
            if pair is not None:
                found.setdefault(pair[0], set()).add(pair[1])
        return {index: frozenset(there) for index, there in found.items()}


def open_named(path: str) -> Netspace | None:
    """The namespace of a name, open; None if there is none, or none any more.

    :raise OSError: it cannot be entered.
    """
    try:
        return Netspace(path)
    except netns.NameGone:
        return None


@contextlib.contextmanager
def opened(path: str) -> Iterator[Netspace | None]:
    """A namespace, open for a while; None if there is none of that name.

    :raise OSError: it cannot be entered.
    """
    space = open_named(path)
    try:
        yield space
    finally:
        if space is not None:
            space.close()
