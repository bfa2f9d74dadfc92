"""Firewalls for the tests of their text, chosen and generated; every rule is one that a client may send."""

from __future__ import annotations

from hypothesis import strategies as st

from lvagent.plan.firewall import directed, order
from lvagent.plan.resources import Firewall
from lvagent.spec.parse import parse_vm
from lvagent.spec.vm import NetRule, VmConfig

VPC = "vpc-aaaaaaaaaa"
PEERS4 = ["10.0.0.0/8", "10.0.0.6", "0.0.0.0/0", "192.0.2.128/25", "255.255.255.255/32", "10.0.0.5"]
PEERS6 = ["fd00::/8", "fd00:a::6", "::/0", "fe80::/10", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/128", "fd00:a::5"]
NAMES = ["i-0000000005", "i-0000000006", "i-9999999999", "subnet-aaaaaaaaaa", "subnet-zzzzzzzzzz"]


@st.composite
def rule_documents(draw: st.DrawFn) -> dict[str, object]:
    """A rule as a client sends it; any that the API takes."""
    ported = draw(st.booleans())
    proto = draw(st.sampled_from(["tcp", "udp", "sctp", 6, "17"]) if ported else st.just("any") | st.integers(0, 255))
    if not ported and draw(st.booleans()):
        proto = draw(st.sampled_from(["icmp", "icmpv6", "tcp"]))
    peers = {4: PEERS4, 6: PEERS6}[draw(st.sampled_from([4, 6]))]
    if proto in ("icmp", 1):
        peers = PEERS4
    if proto in ("icmpv6", 58):
        peers = PEERS6
    either = st.just("") | st.sampled_from(peers) | st.sampled_from(NAMES)
    document: dict[str, object] = {"proto": proto, "source": draw(either), "destination": draw(either)}
    if ported:
        document["port"] = draw(st.integers(0, 65_535))
        if document["port"]:
            document["port_end"] = draw(st.none() | st.integers(document["port"], 65_535))  # type: ignore[arg-type]
    document["direction"] = draw(st.sampled_from([None, "ingress", "egress"]))
    return document


def spec(number: int, rules: list[dict[str, object]]) -> VmConfig:
    """A VM with these rules."""
    nic = {"vxlanid": 0, "netname": VPC, "subnetname": "subnet-aaaaaaaaaa", "position": 0}
    nic |= {"ipv4": f"10.0.{number >> 8}.{number & 255}/8", "gateway_v4": "10.255.255.1"}
    nic |= {"ipv6": f"fd00:a::{number:x}/64", "gateway_v6": "fd00:a::1:0"}
    return parse_vm({"id": f"i-{number:010}", "memory_mb": 64, "cpus": 1, "networks": [nic], "rules": rules})


rules = rule_documents().map(lambda document: directed(spec(5, [document]).rules[0], spec(5, [])))


def _firewall(number: int, found: list[NetRule]) -> Firewall:
    vm = f"i-{number:010}"
    return Firewall(VPC, vm, (f"t{number:010}-0",), ("10.0.0.5", "fd00:a::5"), tuple(sorted(set(found), key=order)))


firewalls = st.builds(_firewall, st.integers(0, 10**10 - 1), st.lists(rules, max_size=8))
