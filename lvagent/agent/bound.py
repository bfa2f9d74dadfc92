"""How much one sweep may take away.

A sweep that finds most of a host unwanted is more likely wrong about what is wanted (libvirt's definitions were moved
away, say) than right. So it first only looks; is it too much, nothing is removed until somebody says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

log = logging.getLogger(__name__)

FEW = 4
"""Of fewer VPCs than this any number may go."""


class Bound:
    """Decides whether a sweep may remove what it found.

    :param most: objects.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.trouble = ""
        """Why the last sweep removed nothing; empty if it did, or had nothing to remove."""

    def admits(self, objects: Mapping[str, int], *, gone: int, vpcs: int, force: bool) -> bool:
        """Whether so much may go.

        :param objects: how many, by VPC.
        :param gone: VPCs that would go whole, of so many ``vpcs``.
        :param force: somebody said so.
        """
        count = sum(objects.values())
        why = ""
        if count > self._most:
            why = f"{count} objects would go, more than {self._most} (sweep.removals)"
        elif gone >= FEW and gone * 2 > vpcs:
            why = f"{gone} of {vpcs} VPCs would go"
        if why and not force:
            trouble = f"nothing is removed: {why}. Is libvirt whole? GET /v1/strays lists them; lvagent sweep --force"
            if trouble != self.trouble:
                log.error("%s", trouble)
            self.trouble = trouble
            return False
        if why:
            log.warning("removing, as was asked: %s", why)
        self.trouble = ""
        return True
