"""Whose the flows are that go by an uplink."""

from __future__ import annotations

from ipaddress import ip_address

from lvagent.plan.explain.facts import Facts
from lvagent.plan.sessions import MOST, KeptFlow, Tuple, sessions
from lvagent.spec.status import SessionsView, VmSessions
from tests.unit.plan.test_explain import A1, A2, NAT, WEB
from tests.unit.plan.test_explain import facts as facts


def flow(source: str, destination: str, seen_as: str = "", size: int = 100, met: str = "") -> KeptFlow:
    """A flow; ``seen_as``: whom the other end sees, ``met``: who answers."""
    ends = ip_address(source), ip_address(destination)
    answer = ip_address(met or destination), ip_address(seen_as or source)
    return KeptFlow(Tuple(*ends, 6, 40_000, 80), Tuple(*answer, 6, 80, 40_000), size)


def test_flows_by_the_uplink_and_no_others(facts: Facts) -> None:
    kept = [
        flow("10.0.0.5", WEB, "198.19.0.3"),
        flow("10.0.0.5", "9.9.9.9", "198.19.0.3", size=11),
        flow("fd00:a::6", "2001:db8::1", "fd6c:76a1:93d0:1::3"),
        flow("10.0.0.66", WEB, "198.19.0.3", size=7),  # an extra address
        flow(WEB, "198.19.0.3", met="10.0.0.6", size=3),  # published
        flow("10.0.0.5", "10.0.1.7"),
        flow("10.0.0.5", "10.0.0.1"),
        flow("10.0.0.5", "169.254.169.254"),
        flow("198.19.0.3", "192.0.2.53"),  # the VPC's own DNS server
        flow("10.0.0.77", WEB, "198.19.0.3"),  # nobody's
    ]
    by_vm = (VmSessions(A1, 2, 111), VmSessions(A2, 3, 110))
    assert sessions(NAT, kept, facts) == SessionsView(5, 221, True, by_vm)


def test_very_many_are_not_all_looked_at(facts: Facts) -> None:
    found = sessions(NAT, [flow("10.0.0.5", WEB, "198.19.0.3", size=1)] * MOST, facts)
    assert found == SessionsView(MOST, MOST, False, (VmSessions(A1, MOST, MOST),))
