"""Any rules: what the API takes the kernel takes and gives back, and it decides as the rules say.

What they say is written down here once more, as plainly as can be, and compared with what comes out of the taps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lvagent.config import Settings
from lvagent.host import nft_read
from lvagent.host.netlink import NETFILTER, Socket
from lvagent.host.network import Network
from lvagent.host.nft import Nft
from lvagent.plan import firewall
from lvagent.plan.resources import Firewall
from lvagent.render import nft
from lvagent.render.elements import by_owner
from lvagent.render.firewall import firewalls
from tests.host.net.conftest import Guest
from tests.host.net.site import GRE, SUBNET_A, SUBNET_B, A, B, C, Host, Site, datagram, document, echo, other, segment
from tests.unit.render import firewall_cases as cases

pytestmark = pytest.mark.host

SETS = 100
"""Rule sets in one transaction; with 50 examples of them: 5 000."""

fresh = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@settings(fresh, max_examples=50)
@given(st.lists(st.lists(cases.rule_documents(), max_size=4), min_size=SETS, max_size=SETS))
def test_what_the_api_takes_the_kernel_takes_and_gives_back(place: Path, sets: list[list[dict[str, object]]]) -> None:
    members = [cases.spec(number, rules) for number, rules in enumerate(sets, 2)]
    wanted = firewall.filters(cases.VPC, members)
    context, netfilter = Nft(), Socket(NETFILTER)
    try:
        context.run(nft.vpc_text(sorted(wanted, key=repr)), "the test")
        owned = by_owner(nft_read.pieces(netfilter))
        assert set(firewalls(cases.VPC, owned.items())) == {one for one in wanted if isinstance(one, Firewall)}
    finally:
        context.close()
        netfilter.close()


@pytest.fixture
def site(network: Network, settings: Settings, guest: Callable[[str], Guest], tmp_path: Path) -> Site:
    """A, B and C."""
    made = Site(network, settings, guest, tmp_path)
    made.put(document(A), document(B), document(C))
    made.start(A, B, C)
    return made


HOSTS = (A, B, C)
PORTS = (22, 53, 80, 5000)
_sports = itertools.count(10_000)


@st.composite
def rule(draw: st.DrawFn) -> dict[str, object]:
    """A rule about what the packets of this test are."""
    version = draw(st.sampled_from([4, 6]))
    wide = {4: ["10.0.0.0/23", "10.0.0.0/24", "10.0.1.9", "0.0.0.0/0"], 6: ["fd00::/31", "fd00:1::/64", "fd00:0::5"]}
    own = [one.address(version) for one in HOSTS]
    peers = st.sampled_from(["", "", *wide[version], *own, A.vm, B.vm, C.vm, SUBNET_A, SUBNET_B, "i-0000000077"])
    protos = ["tcp", "udp", "any", str(GRE), "icmp" if version == 4 else "icmpv6"]
    found: dict[str, object] = {"proto": draw(st.sampled_from(protos)), "source": draw(peers)}
    found["destination"] = draw(peers)
    if found["proto"] in ("tcp", "udp"):
        found["port"] = draw(st.sampled_from([0, *PORTS]))
        if found["port"] and draw(st.booleans()):
            found["port_end"] = draw(st.sampled_from([port for port in PORTS if port >= int(str(found["port"]))]))
    found["direction"] = draw(st.sampled_from([None, None, "ingress", "egress"]))
    return found


def is_out(rule: dict[str, object], vm: Host) -> bool:
    """Which way a rule looks, as the design has it."""
    if rule["direction"]:
        return rule["direction"] == "egress"
    own = (vm.ipv4, vm.ipv6)
    source, destination = str(rule["source"]), str(rule["destination"])
    if source == vm.vm or source in own or (source in ("fd00:0::5",) and vm is A):
        return True
    if not destination or destination in (vm.vm, vm.subnet):
        return False
    if destination.startswith(("i-", "subnet-")):
        return True
    return not any(covers(destination, address) for address in own)


def covers(peer: str, address: str) -> bool:
    """Whether a peer of a rule is this address now; every host here runs and has the addresses it always has."""
    if not peer:
        return True
    if peer.startswith(("i-", "subnet-")):
        return any(peer in (one.vm, one.subnet) and address in (one.ipv4, one.ipv6) for one in HOSTS)
    return ip_address(address) in ip_network(peer)


def allows(rule: dict[str, object], source: str, destination: str, proto: str, port: int) -> bool:
    """Whether a rule allows a flow."""
    if rule["proto"] not in ("any", proto):
        return False
    first = int(str(rule.get("port") or 0))
    last = int(str(rule.get("port_end") or first))
    if first and not first <= port <= last:
        return False
    return covers(str(rule["source"]), source) and covers(str(rule["destination"]), destination)


def expected(
    rules: dict[str, list[dict[str, object]]], sender: Host, target: Host, version: int, proto: str, port: int
) -> bool:
    flow = (sender.address(version), target.address(version), proto, port)
    out = [one for one in rules[sender.name] if is_out(one, sender)]
    inward = [one for one in rules[target.name] if not is_out(one, target)]
    return (not out or any(allows(one, *flow) for one in out)) and any(allows(one, *flow) for one in inward)


def probe(sender: Host, target: Host, version: int, proto: str, port: int) -> Callable[[bytes], bytes]:
    sport = next(_sports) % 50_000 + 10_000
    if proto == "tcp":
        return lambda said: segment(sender, target, port, sport=sport, version=version, payload=said)
    if proto == "udp":
        return lambda said: datagram(sender, target, port, sport=sport, version=version, payload=said)
    if proto == str(GRE):
        return lambda said: other(sender, target, GRE, version=version, payload=said)
    return lambda said: echo(sender, target, version=version, payload=said)


MARK_OUT = {"proto": "udp", "port": 9, "source": "", "destination": "", "direction": "egress"}


@settings(fresh, max_examples=300)
@given(st.fixed_dictionaries({one.name: st.lists(rule(), max_size=3) for one in HOSTS}), st.data())
def test_the_kernel_decides_as_the_rules_say(
    site: Site, rules: dict[str, list[dict[str, object]]], data: st.DataObject
) -> None:
    for one in HOSTS:
        if any(is_out(rule, one) for rule in rules[one.name]):
            rules[one.name].append(MARK_OUT)
    site.put(*(document(one, rules[one.name]) for one in HOSTS))
    for one in HOSTS:
        site.introduce(one)
    for sender, target in itertools.permutations(HOSTS, 2):
        version = data.draw(st.sampled_from([4, 6]))
        tunnel = [str(GRE)] if sender.name < target.name else []  # has no ports: the other way it is an answer
        proto = data.draw(st.sampled_from(["tcp", "udp", *tunnel, "icmp" if version == 4 else "icmpv6"]))
        port = data.draw(st.sampled_from(PORTS)) if proto in ("tcp", "udp") else 0
        said = expected(rules, sender, target, version, proto, port)
        got = site.reaches(sender, target, probe(sender, target, version, proto, port))
        assert got == said, (sender.name, target.name, version, proto, port)
