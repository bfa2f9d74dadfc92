"""The way of one packet, as it is found out step by step; it ends at the first thing that does not let it pass."""

from __future__ import annotations

from lvagent.plan.explain.facts import Facts
from lvagent.spec.flow import End, Flow, Packet, Stage, Step, Walk


class Stopped(Exception):
    """The packet goes no further."""


class Way:
    """The steps so far.

    ``packet``: as it is where it has got to; ``end``: where it is meant to arrive.
    """

    def __init__(self, flow: Flow, facts: Facts) -> None:
        self.flow = flow
        self.facts = facts
        self.end: End | None = None
        self.vpc = ""
        self.entry = ""
        self._sent: Packet | None = None
        self._now: Packet | None = None
        self._steps: list[Step] = []

    @property
    def packet(self) -> Packet:
        """The packet as it is now."""
        assert self._now is not None
        return self._now

    @packet.setter
    def packet(self, packet: Packet) -> None:
        self._sent = self._sent or packet
        self._now = packet

    def go(self, step: Step) -> None:
        """Take a step.

        :raise Stopped: it does not let the packet pass.
        """
        self._steps.append(step)
        if not step.passed:
            raise Stopped

    def passes(self, stage: Stage, where: str, element: str, text: str) -> None:
        """Take a step that lets it pass."""
        self.go(Step(stage, where, element, text))

    def stop(self, stage: Stage, where: str, element: str, text: str) -> None:
        """Take the last step."""
        self.go(Step(stage, where, element, text, False))

    def walk(self, end: End) -> Walk:
        """The whole walk.

        :param end: where it was meant to arrive, if the way did not get so far as to know.
        """
        return Walk(self.flow, tuple(self._steps), self.end or end, self._sent, self.vpc, self.entry)
