"""What is said of a packet that was sent."""

from __future__ import annotations

from ipaddress import ip_address

from lvagent.host.probe import _Findings
from lvagent.plan.explain.probe import Probe
from lvagent.spec.flow import Packet


def test_a_packet_that_met_no_chain() -> None:
    packet = Packet(ip_address("203.0.113.7"), ip_address("10.7.0.5"), 6, 22)
    seen = _Findings(Probe(packet, "", "", "", (), frozenset()), []).seen()
    assert (seen.arrived, seen.where) == (
        False,
        "it met no chain: there is no way on from where it comes in",
    )
