"""The VPCs' namespaces that are open, each known by its inode.

A name says little: it may have been removed and given to a namespace made anew, while the old one lives on as long as
something holds it. What is open is used only while the name still stands for it; then it is let go of here, and is
closed when nobody is at work with it any more.
"""

from __future__ import annotations

import os
import threading

from lvagent.config import FilterSettings
from lvagent.errors import HostError, Vanished
from lvagent.host import netns
from lvagent.host.netspace import open_named, translated
from lvagent.host.vpc import VpcSide
from lvagent.spec import names


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
        path = self.path(vpc)
        while netns.exists(path):
            side = self._known(vpc, path) or self._enter(vpc, path)
            if side is not None:
                return side
        self._known(vpc, path)
        return None

    def _known(self, vpc: str, path: str) -> VpcSide | None:
        """The one that is open, if it still is what the name stands for; else it is let go of."""
        with self._guard:
            side = self._open.get(vpc)
            if side is not None and side.space.inode == netns.inode(path):
                return side
            self._open.pop(vpc, None)
        return None

    def _enter(self, vpc: str, path: str) -> VpcSide | None:
        """Open it; None if it went away meanwhile, be it that another has its name by now."""
        with translated(vpc, "enter"):
            space = open_named(path)
            if space is None:
                return None
            side = VpcSide(vpc, space, self._limits)
        with self._guard:
            if netns.inode(path) != space.inode:
                return None
            there = self._open.get(vpc)
            if there is not None and there.space.inode == space.inode:
                return there  # another thread was faster
            self._open[vpc] = side
            return side

    def needed(self, vpc: str) -> VpcSide:
        """A VPC's namespace, opened.

        :raise Vanished: there is none (any more).
        """
        side = self.find(vpc)
        if side is None:
            raise Vanished(vpc, "use", "there is no such namespace")
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
        with translated(vpc, "remove"):
            netns.delete(self.path(vpc))
        with self._guard:  # nobody opens it any more
            self._open.pop(vpc, None)

    def tidy(self) -> None:
        """Let go of namespaces that are no longer there: who held one open would keep it from ending."""
        with self._guard:
            gone = [vpc for vpc, side in self._open.items() if netns.inode(self.path(vpc)) != side.space.inode]
            for vpc in gone:
                del self._open[vpc]

    def close(self) -> None:
        """Let go of all; they stay as they are."""
        with self._guard:
            self._open = {}
