"""Between peered VPCs, by published ports, by floating addresses: ``explain`` says what the host does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lvagent.agent.explain import Explainer
from lvagent.agent.index import Entry, Phase
from lvagent.host.libvirt import DomainState
from lvagent.plan import firewall, wanted
from lvagent.spec import names
from lvagent.spec.flow import parse_flow
from lvagent.spec.parse import parse_vm
from lvagent.spec.peerings import peering
from lvagent.spec.publications import parse_floating, parse_publications
from lvagent.spec.status import State
from lvagent.spec.vm import VmConfig
from tests.host.net.conftest import Guest
from tests.host.net.conftest import guest as guest
from tests.host.uplink.conftest import NAT, Site
from tests.host.uplink.conftest import place as place
from tests.host.uplink.conftest import sites as sites
from tests.host.uplink.world import HOST, HOST6, LAN, WEB

pytestmark = pytest.mark.host

A, B, P = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb", "vpc-pppppppppp"
A1, A2, B1, P1 = (f"i-{number:010}" for number in range(1, 5))
FLOAT, LATER = "203.0.113.50", "203.0.113.51"
UNDERLAY = f"{LAN.rsplit('.', 1)[0]}.2"


def spec(vm: str, vpc: str, net: int, host: int, *rules: dict[str, object], extra: tuple[str, ...] = ()) -> VmConfig:
    nic = {
        "vxlanid": 0,
        "netname": vpc,
        "subnetname": f"subnet-{vpc[4:]}",
        "position": 0,
        "ipv4": f"10.0.{net}.{host}/24",
        "gateway_v4": f"10.0.{net}.1",
        "ipv6": f"fd00:{net}::{host}/64",
        "gateway_v6": f"fd00:{net}::1",
        "mtu": 1400,
        "extra_addresses": list(extra),
    }
    return parse_vm({"id": vm, "memory_mb": 64, "cpus": 1, "networks": [nic], "rules": list(rules)})


def rule(port: int, source: str) -> dict[str, object]:
    return {"proto": "tcp", "port": port, "source": source, "direction": "ingress"}


SPECS = (
    spec(A1, A, 0, 5, rule(5000, f"subnet-{P[4:]}"), rule(22, "10.0.0.0/24")),
    spec(A2, A, 0, 6, {"proto": "any", "destination": "10.0.0.0/8", "direction": "egress"}, extra=("10.9.9.9",)),
    spec(B1, B, 0, 5, rule(22, "0.0.0.0/0")),
    spec(P1, P, 20, 5, rule(22, A2), {"proto": "icmpv6"}),
)


@pytest.fixture
def site(sites: Callable[..., Site], guest: Callable[[str], Guest]) -> Iterator[Site]:
    """A and B have equal addresses and a way out; P has none, and is peered with A."""
    made = sites()
    for vpc in (A, B):
        made.wishes.put(vpc, NAT)
    for one in SPECS:
        made.index.adopt(Entry(one, Phase.LIVE, applied=one, domain=DomainState(State.RUNNING, "", True)))
    for vpc in (A, B, P):
        made.networks.converge(vpc)
    for one in SPECS:
        guest(names.tap(one.id, 0))
        nic = one.networks[0]
        made.network.plug(
            [wanted.port_filter(one, nic), firewall.firewall(nic.netname, one)],
            wanted.plug(one, nic, made.networks.policy),
        )
    yield made
    for one in SPECS:
        made.networks.unpublish(one.id)
    for one in SPECS:
        made.index.drop(one.id)
    for vpc in (A, B, P):
        made.networks.converge(vpc)


def check(site: Site, cases: dict[str, bool]) -> None:
    """See that the walk, the host, and what is expected of a flow agree: ``from to proto [port] [source]``."""
    explainer = Explainer(site.index, site.networks)
    for words, allowed in cases.items():
        origin, target, proto, *more = words.split()
        port = next((int(word) for word in more if word.isdecimal()), None)
        source = next((word for word in more if not word.isdecimal()), "")
        told = explainer.explain(parse_flow(origin, target, proto, port, source), live=True)
        assert told.live is not None
        assert told.live.sent, (words, told.live)
        assert (told.walk.allowed, told.live.arrived) == (allowed, allowed), (words, told.walk.why, told.live)


def test_between_vpcs_that_are_peered(site: Site) -> None:
    apart = {f"{P1} {A1} tcp 5000": False}
    check(site, apart)
    site.index.peer(peering(A, P))
    site.networks.meet(A, P)
    cases = {
        f"{A2} {P1} tcp 22": True,
        f"{A1} {P1} tcp 22": False,
        f"{A1} {P1} icmpv6": True,
        f"{P1} {A1} tcp 5000": True,
        f"{P1} {A1} tcp 22": False,
        f"{A2} {P1} tcp 22 10.9.9.9": False,
        f"{A2} 10.0.20.1 icmp": False,
        f"{P1} {WEB} tcp 22": False,
    }
    check(site, cases)
    site.index.part(peering(A, P))
    site.networks.meet(A, P)
    check(site, apart)


def test_by_a_published_port(site: Site) -> None:
    one = parse_publications([{"host_port": 8080, "port": 80, "sources": ["198.51.100.0/24", "198.19.0.0/16"]}])
    site.published.put(SPECS[0], (*one, *parse_publications([{"host_port": 9000, "proto": "udp"}])))
    cases = {
        f"world:{WEB} {HOST} tcp 8080": True,
        f"world:{WEB} {LAN} tcp 8080": True,
        f"world:{UNDERLAY} {HOST} tcp 8080": False,
        f"world:{WEB} {HOST} udp 9000": True,
        f"world:2001:db8:5::10 {HOST6} udp 9000": True,
        f"world:{WEB} {A1} tcp 8080": True,
        f"{B1} {HOST} tcp 8080": True,
        f"{B1} {LAN} tcp 8080": True,
        f"{B1} {HOST} tcp 8081": False,
        f"{A1} {HOST} tcp 8080": True,
        f"{A2} {HOST} tcp 8080": False,
        f"{A2} {A1} udp 9000": True,
        f"{P1} {HOST} tcp 8080": False,
    }
    check(site, cases)
    ends = site.networks.transits()[A]  # of who asks from his own VPC root sees the one end, the VM the other
    for sources, allowed in (([ends.vpc_v4], False), ([ends.host_v4], False), ([ends.vpc_v4, ends.host_v4], True)):
        wish = [{"host_port": 8080, "port": 80, "sources": [str(one.ip) for one in sources]}]
        site.published.put(SPECS[0], parse_publications(wish))
        check(site, {f"{A1} {HOST} tcp 8080": allowed})


def test_by_a_floating_address(site: Site) -> None:
    site.floating.put(parse_floating(FLOAT, {"vm": A1}), SPECS[0])
    site.floating.put(parse_floating(LATER, {"vm": B1}), SPECS[2])
    cases = {
        f"world:{WEB} {LATER} tcp 22": True,
        f"world:{WEB} {LATER} tcp 23": False,
        f"world:{WEB} {FLOAT} tcp 22": False,
        f"{A1} {WEB} tcp 80": True,
        f"{A1} {LATER} tcp 22": True,
        f"{B1} {FLOAT} tcp 22": False,
    }
    check(site, cases)
    site.floating.put(parse_floating(FLOAT, {"vm": A2}), SPECS[1])
    check(site, {f"{A1} {FLOAT} tcp 22": False, f"{A2} {WEB} tcp 80": False, f"{B1} {FLOAT} icmp": False})
