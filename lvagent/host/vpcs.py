"""The VPCs' namespaces that are open, each known by its inode.

A name says little: it may have been removed and given to a namespace made anew, while the old one lives on as long as
something holds it. What is open is used only while the name still stands for it.
"""

from __future__ import annotations

import contextlib
import os
import threading

from lvagent.config import FilterSettings
from lvagent.errors import HostError
from lvagent.host import netns
from lvagent.host.netspace import Netspace, translated
from lvagent.host.vpc import VpcSide
from lvagent.spec import names

_LOOKS = 5


class VpcSides:
    """The VPCs of this host.

    :param folder: where the names of namespaces are.
    :param limits: what one guest may take of what all share.
    """

    def __init__(self, folder: str, limits: FilterSettings) -> None:
        self.folder = folder
        self._limits = limits
        self._guard = threading.Lock()
        self._open: dict[str, VpcSide] = {}

    def path(self, vpc: str) -> str:
        """The name of a VPC's namespace.

        :raise HostError: that is no name of a VPC.
        """
        if not names.VPC_NAME.match(vpc):
            raise HostError(vpc, "use", "it is not the name of a VPC")
        return f"{self.folder}/{vpc}"

    def names(self) -> frozenset[str]:
        """The VPCs that have a name in the folder; also one that a crash left half made."""
        try:
            found = os.listdir(self.folder)
        except FileNotFoundError:
            return frozenset()
        return frozenset(name for name in found if names.VPC_NAME.match(name))

    def find(self, vpc: str) -> VpcSide | None:
        """A VPC's namespace, opened; None if there is none.

        It may go away, or come anew, between the look and the entering; then it is looked for again.
        """
        for _ in range(_LOOKS):
            with contextlib.suppress(HostError):
                return self._find(vpc)
        return self._find(vpc)

    def _find(self, vpc: str) -> VpcSide | None:
        path = self.path(vpc)
        inode = netns.inode(path) if netns.exists(path) else None
        with self._guard:
            side = self._open.get(vpc)
            if side is not None and side.space.inode == inode:
                return side
            self._open.pop(vpc, None)
        if side is not None:
            side.close()
        return None if inode is None else self._enter(vpc, path)

    def _enter(self, vpc: str, path: str) -> VpcSide:
        with translated(vpc, "enter"):
            side = VpcSide(vpc, Netspace(path), self._limits)
        with self._guard:
            known = self._open.setdefault(vpc, side)
        if known is not side:  # somebody else entered it at the same time
            side.close()
        return known

    def needed(self, vpc: str) -> VpcSide:
        """A VPC's namespace, opened.

        :raise HostError: there is none.
        """
        side = self.find(vpc)
        if side is None:
            raise HostError(vpc, "use", "there is no such namespace")
        return side

    def create(self, vpc: str) -> VpcSide:
        """Make a VPC's namespace if there is none, with its sysctls and ``lo``."""
        with translated(vpc, "make the namespace of"):
            netns.create(self.path(vpc))
        side = self.needed(vpc)
        side.ensure_base()
        return side

    def remove(self, vpc: str) -> None:
        """Make sure that a VPC has no namespace. The kernel ends what is in it a moment later."""
        with self._guard:
            side = self._open.pop(vpc, None)
        if side is not None:
            side.close()
        with translated(vpc, "remove"):
            netns.delete(self.path(vpc))

    def tidy(self) -> None:
        """Let go of namespaces that are no longer there: who held one open would keep it from ending."""
        with self._guard:
            gone = [vpc for vpc, side in self._open.items() if netns.inode(self.path(vpc)) != side.space.inode]
            sides = [self._open.pop(vpc) for vpc in gone]
        for side in sides:
            side.close()

    def close(self) -> None:
        """Let go of all; they stay as they are."""
        with self._guard:
            sides, self._open = list(self._open.values()), {}
        for side in sides:
            side.close()
