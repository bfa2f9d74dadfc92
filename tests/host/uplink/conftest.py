"""A host with an uplink to the world, and VPCs on it that the agent's own part wires."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lvagent.agent.configs import VpcConfigs
from lvagent.agent.floating import FloatingAddresses
from lvagent.agent.index import Entry, Index, Phase
from lvagent.agent.networks import Networks
from lvagent.agent.policy import float_wishes, policy, port_wishes, uplink_policy
from lvagent.agent.publications import Publications
from lvagent.agent.vpcs import VpcWishes
from lvagent.agent.wires import Dhcps
from lvagent.config import FabricSettings, Paths, Settings
from lvagent.config_uplink import UplinkSettings
from lvagent.host import netns
from lvagent.host.listeners import holder, listeners
from lvagent.host.network import Network
from lvagent.host.wishes import WishFiles
from lvagent.plan import firewall, wanted
from lvagent.spec import names
from lvagent.spec.parse import parse_vm
from lvagent.spec.publications import parse_floating, parse_publications
from lvagent.spec.vm import VmConfig
from lvagent.spec.vpc import UplinkMode, VpcConfig
from tests.host.net.conftest import place as place  # the same host of its own for each test
from tests.host.uplink.world import DENIED, LAN, Guest, World
from tests.unit.agent.fakes import Breaker, FakeDhcp, FakeMetadata

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
NAT = VpcConfig(uplink=UplinkMode.NAT)
ANYTHING = {"proto": "any", "direction": "ingress"}


class Site:
    """The host, its VPCs and their guests."""

    def __init__(self, folder: Path, settings: Settings, dhcp: Dhcps | None = None) -> None:
        self.settings = settings
        self.world = World(folder / "world")
        self._dhcp = dhcp
        self._folder = folder
        self.guests: dict[str, Guest] = {}
        self.start()

    def start(self) -> None:
        """An agent's part that knows no VM yet: as after a restart."""
        self.index = Index()
        self.index.loaded = True
        self.network = Network(self.settings)
        rules = policy(self.settings)
        breaker = Breaker()
        self.networks = Networks(
            self.index,
            self.network,
            self._dhcp or FakeDhcp(breaker),
            FakeMetadata(breaker),
            rules,
            self._folder / "locks",
            VpcConfigs(WishFiles(Path(self.settings.paths.vpcs), names.VPC_NAME)),
            lambda: uplink_policy(self.settings, rules.local),
            port_wishes(self.settings),
            float_wishes(self.settings),
        )
        self.networks.prepare()
        self.wishes = VpcWishes(self.index, self.networks, lambda: None)
        self.floating = FloatingAddresses(self.index, self.networks)
        self.published = Publications(self.index, self.networks, listeners, holder)

    def restart(self) -> None:
        """A new agent on what is there."""
        members = [entry.spec for entry in self.index.all()]
        self.networks.close()
        self.start()
        for spec in members:
            self.index.adopt(Entry(spec, Phase.LIVE, applied=spec))

    def guest(
        self, vpc: str, number: int, *, rules: list[dict[str, object]] | None = None, net: str = "10.0.0"
    ) -> Guest:
        """A VM of a VPC at 10.0.0.<number> and fd00:a::<number>, and a namespace in its place."""
        spec = spec_of(vpc, number, rules or [], net)
        self.index.adopt(Entry(spec, Phase.LIVE, applied=spec))
        self.networks.converge(vpc)
        guest = Guest(self.world, f"guest-{vpc[4:6]}{number}")
        self.world.space(guest.name)
        self._wire(spec, guest)
        self.guests[spec.id] = guest
        return guest

    def publish(self, vpc: str, number: int, *ports: dict[str, object]) -> None:
        """Publish these ports of a VM, and no others."""
        self.published.put(self.spec(vpc, number), parse_publications(list(ports)))

    def spec(self, vpc: str, number: int) -> VmConfig:
        """What a VM carries."""
        return next(one for one in self.index.members(vpc) if one.id == vm_id(vpc, number))

    def float(self, address: str, vpc: str, number: int, interface: str = "") -> None:
        """Lead a floating address to a VM."""
        wish = parse_floating(address, {"vm": vm_id(vpc, number), "interface": interface or None})
        self.floating.put(wish, self.spec(vpc, number))

    def _wire(self, spec: VmConfig, guest: Guest) -> None:
        nic, tap = spec.networks[0], names.tap(spec.id, 0)
        inside = f"{self.settings.paths.netns}/{nic.netname}"
        add = [
            "ip",
            "link",
            "add",
            tap,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "address",
            nic.mac,
            "netns",
            guest.path,
        ]
        netns.inside(inside, lambda: subprocess.run(add, check=True))
        bound = [wanted.port_filter(spec, nic), firewall.firewall(nic.netname, spec)]
        self.network.plug(bound, wanted.plug(spec, nic, self.networks.policy))
        world, name = self.world, guest.name
        world.run(name, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=0", "net.ipv6.conf.eth0.accept_dad=0")
        world.run(name, "ip", "link", "set", "eth0", "mtu", "1450", "up")
        for address, gateway in ((nic.ipv4, nic.gateway_v4), (nic.ipv6, nic.gateway_v6)):
            more = ["nodad"] * (":" in str(address))
            world.run(name, "ip", "address", "add", str(address), "dev", "eth0", *more)
            world.run(name, "ip", "-6" if more else "-4", "route", "add", "default", "via", str(gateway))

    def drop(self, vpc: str) -> None:
        """Delete all VMs of a VPC."""
        for spec in self.index.members(vpc):
            inside = f"{self.settings.paths.netns}/{vpc}"
            gone = ["ip", "link", "del", names.tap(spec.id, 0)]
            netns.inside(inside, lambda gone=gone: subprocess.run(gone, check=True))
            self.index.drop(spec.id)
        self.networks.converge(vpc)

    def close(self) -> None:
        """End what was started."""
        for vpc in (A, B):
            self.drop(vpc)
        self.networks.close()
        self.world.close()


def vm_id(vpc: str, number: int) -> str:
    """The id of a VM of a VPC."""
    return f"i-{sum(map(ord, vpc[4:6])):05}{number:05}"


def spec_of(vpc: str, number: int, rules: list[dict[str, object]], net: str = "10.0.0") -> VmConfig:
    """A VM with one NIC."""
    short = vpc[4:6]
    return parse_vm(
        {
            "id": vm_id(vpc, number),
            "memory_mb": 64,
            "cpus": 1,
            "networks": [
                {
                    "vxlanid": 0,
                    "netname": vpc,
                    "subnetname": f"subnet-{short}00000000",
                    "position": 0,
                    "ipv4": f"{net}.{number}/24",
                    "gateway_v4": f"{net}.1",
                    "ipv6": f"fd00:a::{number}/64",
                    "gateway_v6": "fd00:a::1",
                    "mtu": 1450,
                }
            ],
            "rules": rules,
        }
    )


def settings_of(folder: Path, **uplink: object) -> Settings:
    """Settings of the test's own host."""
    paths = dataclasses.replace(
        Paths(), run=f"{folder}/run", state=f"{folder}/state", vpcs=f"{folder}/vpcs", netns=f"{folder}/netns"
    )
    ways = dataclasses.replace(UplinkSettings(deny=(f"{DENIED}/32",)), **uplink)  # type: ignore[arg-type]
    return Settings(paths=paths, fabric=FabricSettings(local=LAN), uplink=ways)


@pytest.fixture
def sites(place: Path) -> Iterator[Callable[..., Site]]:
    """Makes the site of a test."""
    made: list[Site] = []

    def make(dhcp: Callable[[Settings], Dhcps] | None = None, **uplink: object) -> Site:
        settings = settings_of(place, **uplink)
        made.append(Site(place, settings, None if dhcp is None else dhcp(settings)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def site(sites: Callable[..., Site]) -> Site:
    """A site with the usual settings."""
    return sites()
