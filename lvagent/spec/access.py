"""Who may do what: roles, and callers.

A role contains the lower ones. A caller may be limited to some VPCs; ``Caller.sees`` is the one place that decides what
such a caller sees and changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a caller may do: look; also use VMs that are there; also make, change and delete them."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        """Whether this role may do what needs that one."""
        order = tuple(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who was let in. ``vpcs``: the only VPCs he has to do with; None: all.

    ``token``, ``name``: of the token that he showed; empty: he came over the unix socket.
    """

    role: Role
    vpcs: frozenset[str] | None = None
    token: str = ""
    name: str = ""

    @property
    def limited(self) -> bool:
        """Whether there are VPCs that he must not learn about."""
        return self.vpcs is not None

    def sees(self, vpcs: Iterable[str]) -> bool:
        """Whether he sees, and within his role may change, a thing that is in these VPCs: all must be his.

        What is in no VPC belongs to nobody who is limited to some.
        """
        if self.vpcs is None:
            return True
        wanted = frozenset(vpcs)
        return bool(wanted) and wanted <= self.vpcs


NOBODY = Caller(Role.READ, frozenset())
"""Who asks for what anybody may know: he sees nothing else."""
