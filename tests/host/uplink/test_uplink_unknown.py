"""What becomes of an uplink where not all VMs are known."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable

from lvagent.agent.index import Entry, Phase
from lvagent.host import netns
from lvagent.plan.resources import Uplink
from lvagent.spec import names
from lvagent.spec.vpc import UplinkMode, VpcConfig
from tests.host.uplink.conftest import A, Site, spec_of

ROUTED = VpcConfig(uplink=UplinkMode.ROUTED)


def test_who_does_not_know_all_vms_leaves_the_prefixes_of_the_others_routed(sites: Callable[..., Site]) -> None:
    """A hook that works alone, and an agent that finds the tap of nobody it knows."""
    site = sites(routed=("10.0.0.0/8", "fd00:a::/32"))
    site.wishes.put(A, ROUTED)
    site.guest(A, 5)
    other = spec_of(A, 6, [], net="10.0.7")
    nic = dataclasses.replace(other.networks[0], subnetname="subnet-zz00000000", ipv6=None, gateway_v6=None)
    other = dataclasses.replace(other, networks=(nic,))
    site.index.adopt(Entry(other, Phase.LIVE, applied=other))
    site.networks.converge(A)
    nets = ["10.0.0.0/24", "10.0.7.0/24", "fd00:a::/64"]
    assert routed(site) == nets
    site.index.drop(other.id)
    site.index.loaded = False
    site.networks.wire(A)
    assert routed(site) == nets
    site.index.loaded = True
    tap, inside = names.tap(other.id, 0), f"{site.settings.paths.netns}/{A}"
    for step in (
        ["add", tap, "type", "veth", "peer", "name", "other"],
        ["set", tap, "master", names.subnet_bridge("subnet-zz00000000"), "up"],
    ):
        netns.inside(inside, lambda step=step: subprocess.run(["ip", "link", *step], check=True))
    site.networks.converge(A)
    assert routed(site) == nets
    netns.inside(inside, lambda: subprocess.run(["ip", "link", "del", tap], check=True))
    site.networks.converge(A)
    assert routed(site) == [nets[0], nets[2]]


def routed(site: Site) -> list[str]:
    """The prefixes that root routes to the first VPC."""
    return [str(net) for one in site.network.observe(A) if isinstance(one, Uplink) for net in one.routes]
