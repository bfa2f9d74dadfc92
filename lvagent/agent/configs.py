"""The wishes that stand in files, in memory as they stand there: of VPCs, and what leads to VMs.

Read once at the start; every change goes through here. A file that cannot be read is no wish that could be obeyed: its
VPC keeps the way out that it has, and is told of, until the file is mended or the wish is put again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from lvagent.errors import LvagentError
from lvagent.spec.publications import (
    Floating,
    Publication,
    dump_floating,
    dump_publications,
    parse_floating,
    parse_publications,
)
from lvagent.spec.vpc import VpcConfig, dump_vpc, parse_vpc

log = logging.getLogger(__name__)

W = TypeVar("W")


class Kept(Protocol):
    """Where wishes are kept (``host.wishes.WishFiles``)."""

    def keys(self) -> frozenset[str]: ...
    def read(self, key: str) -> object | None: ...
    def write(self, key: str, document: Mapping[str, object]) -> None: ...
    def remove(self, key: str) -> None: ...


class Wishes(Generic[W]):
    """The wishes of one kind, by what they are about.

    :param kept: None: in memory alone.
    """

    def __init__(
        self, kept: Kept | None, parse: Callable[[object], W], dump: Callable[[W], Mapping[str, object]]
    ) -> None:
        self._kept = kept
        self._parse = parse
        self._dump = dump
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._read = False
        self._wishes: dict[str, W] = {}
        self._broken: dict[str, str] = {}

    def all(self) -> Mapping[str, W]:
        """All of which something was said."""
        with self._guard:
            self._load()
            return dict(self._wishes)

    def broken(self) -> Mapping[str, str]:
        """Those whose file cannot be read, with the reason."""
        with self._guard:
            self._load()
            return dict(self._broken)

    def get(self, key: str) -> W | None:
        """The wish; None: nothing was said."""
        return self.all().get(key)

    def set(self, key: str, wish: W | None) -> None:
        """From now on this is wanted, in memory; None: nothing is said."""
        with self._guard:
            self._load()
            self._broken.pop(key, None)
            if wish is None:
                self._wishes.pop(key, None)
            else:
                self._wishes[key] = wish

    def discard(self, key: str, wish: W) -> None:
        """From now on nothing is said, in memory, if it is still this that is."""
        with self._guard:
            self._load()
            if self._wishes.get(key) == wish:
                del self._wishes[key]

    def keep(self, key: str) -> None:
        """Write down what is wanted.

        :raise HostError: it could not be written.
        """
        if self._kept is None:
            return
        with self._writing:  # who writes last writes what holds
            wish = self.get(key)
            if wish is None:
                self._kept.remove(key)
            else:
                self._kept.write(key, self._dump(wish))

    def _load(self) -> None:
        if self._read or self._kept is None:
            return
        for key in sorted(self._kept.keys()):
            try:
                document = self._kept.read(key)
                if document is not None:
                    self._wishes[key] = self._parse(document)
            except LvagentError as error:
                log.error("what is wanted of %s cannot be read, it stays as it is: %s", key, error)
                self._broken[key] = str(error)
        self._read = True


class VpcConfigs(Wishes[VpcConfig]):
    """What is wanted of each VPC.

    :param kept: None: in memory alone.
    """

    def __init__(self, kept: Kept | None = None) -> None:
        super().__init__(kept, parse_vpc, dump_vpc)


class PortWishes(Wishes[tuple[Publication, ...]]):
    """What is published of each VM.

    :param kept: None: in memory alone.
    """

    def __init__(self, kept: Kept | None = None) -> None:
        super().__init__(kept, _parse_ports, lambda wish: {"ports": dump_publications(wish)})


def _parse_ports(document: object) -> tuple[Publication, ...]:
    return parse_publications(document.get("ports") if isinstance(document, dict) else None)


class FloatWishes(Wishes[Floating]):
    """Where floating addresses are led, by address.

    :param kept: None: in memory alone.
    """

    def __init__(self, kept: Kept | None = None) -> None:
        super().__init__(kept, _parse_float, lambda wish: {"address": wish.address, **dump_floating(wish)})


def _parse_float(document: object) -> Floating:
    found = dict(document) if isinstance(document, dict) else {}
    return parse_floating(str(found.pop("address", "")), found)
