"""What is of the whole host, and what is everybody's, as a caller sees it who is limited to some VPCs."""

from __future__ import annotations

from collections.abc import Sequence

from lvagent.agent.tally import Tally
from lvagent.api.problems import Forbidden
from lvagent.api.protocol import Agent
from lvagent.spec.access import Caller
from lvagent.spec.metrics import Metrics, narrow
from lvagent.spec.status import ImageView, Readiness
from lvagent.spec.strays import StraysView, StrayView, SweepView


class LimitedHost:
    """The part of ``api.limited.Limited`` that has to do with the host."""

    def __init__(self, agent: Agent, caller: Caller) -> None:
        self._agent = agent
        self._caller = caller

    def strays(self) -> StraysView:
        """The host's strays, which are nobody's who is limited to VPCs."""
        self._check_host()
        return self._agent.strays()

    def kill_stray(self, pid: int, identity: str) -> StrayView:
        """As ``strays``."""
        self._check_host()
        return self._agent.kill_stray(pid, identity)

    def sweep_now(self, *, force: bool) -> SweepView:
        """A sweep is of the whole host."""
        self._check_host()
        return self._agent.sweep_now(force=force)

    def _check_host(self) -> None:
        """See that the caller may have to do with what is in no VPC.

        :raise Forbidden: he may not.
        """
        if not self._caller.sees(()):
            raise Forbidden("this is of the whole host; the token is limited to some VPCs")

    def metrics(self) -> Metrics:
        """What is measured of his VPCs and VMs."""
        return narrow(self._agent.metrics(), self._caller.sees)

    @property
    def tally(self) -> Tally:
        """Where is counted what is asked."""
        return self._agent.tally

    # what is everybody's

    def images(self) -> Sequence[ImageView]:
        """The images; they are everybody's."""
        return self._agent.images()

    def readiness(self) -> Readiness:
        """Whether the agent can serve."""
        return self._agent.readiness()
