"""What the rules of VMs have counted, and when each was last hit.

The kernel counts and keeps no times. So the counts are looked at now and then, and a rule was hit when they had grown
since the look before; how exact that is, is how often somebody looks. The times are memory, and lost with the agent.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable

from lvagent.host.nft_read import Counted
from lvagent.plan.firewall import directed
from lvagent.render.elements import Rule
from lvagent.render.firewall import CLOSED, chain_of, comment_of, families
from lvagent.spec.status import FirewallView, RuleView, iso_time
from lvagent.spec.vm import Direction, NetRule, VmConfig


class Counters:
    """The counters of all VPCs.

    :param read: the rules in a VPC with what they have counted.
    :param clock: Unix time.
    """

    def __init__(self, read: Callable[[str], list[Counted]], clock: Callable[[], float] = time.time) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, dict[Rule, tuple[Counted, float | None]]] = {}
        self._begun = False  # whether all has been looked at once: what comes later is new

    def look(self, vpc: str) -> None:
        """Read the counters of a VPC, and note which have grown."""
        now = self._clock()
        found = self._read(vpc)
        with self._lock:
            before = self._last.get(vpc, {})
            self._last[vpc] = {one.rule: (one, self._hit(before.get(one.rule), one, now)) for one in found}

    def forget(self, vpcs: Iterable[str]) -> None:
        """Forget all VPCs but these, which are all and have been looked at."""
        kept = frozenset(vpcs)
        with self._lock:
            self._begun = True
            self._last = {vpc: seen for vpc, seen in self._last.items() if vpc in kept}

    def view(self, vm: VmConfig, implied: Iterable[NetRule] = ()) -> FirewallView:
        """The rules of a VM in the order of its spec, with their counters of all its VPCs, as of the last look.

        :param implied: those that follow from what is published of it.
        """
        with self._lock:
            seen = [self._last.get(vpc, {}) for vpc in vm.vpcs]
        rules = [_rule_view(directed(rule, vm), vm.id, seen) for rule in vm.rules]
        rules += [dataclasses.replace(_rule_view(rule, vm.id, seen), implied=True) for rule in implied]
        dropped = {way: _sum([Rule(chain_of(vm.id, way), CLOSED)], seen) for way in Direction}
        return FirewallView(vm.id, tuple(rules), dropped[Direction.INGRESS][0], dropped[Direction.EGRESS][0])

    def _hit(self, before: tuple[Counted, float | None] | None, now: Counted, at: float) -> float | None:
        """When a rule was last hit; None: not, or in the days of an agent before this one."""
        if before is None:
            return at if self._begun and now.packets else None
        same = before[0].handle == now.handle and before[0].packets == now.packets
        return before[1] if same or not now.packets else at


Seen = dict[Rule, tuple[Counted, float | None]]


def _rule_view(rule: NetRule, vm: str, seen: list[Seen]) -> RuleView:
    chain = chain_of(vm, rule.direction or Direction.INGRESS)
    (packets, size), hit = _sum([Rule(chain, comment_of(rule, family)) for family in families(rule)], seen)
    return RuleView(rule, packets, size, None if hit is None else iso_time(hit))


def _sum(rules: list[Rule], seen: list[Seen]) -> tuple[tuple[int, int], float | None]:
    found = [one[rule] for one in seen for rule in rules if rule in one]
    hits = [hit for _, hit in found if hit is not None]
    counted = (sum(one.packets for one, _ in found), sum(one.bytes for one, _ in found))
    return counted, max(hits, default=None)
