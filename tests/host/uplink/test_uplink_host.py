"""What an uplink does to the host, and what the host may do to it: made, told, healed, taken away."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from lvagent import failpoints
from lvagent.errors import Conflict, HostError, SpecError
from lvagent.failpoints import arm
from lvagent.host import netns, rootfilter
from lvagent.host.nft import Nft
from lvagent.observe.filters import FilterWatch
from lvagent.observe.forwarding import ForwardingWatch
from lvagent.plan.resources import Router, Uplink
from lvagent.spec.vpc import UplinkMode, VpcConfig
from tests.host.uplink.conftest import ANYTHING, NAT, A, B, Site
from tests.host.uplink.world import HOST, PORT, WEB, WEB6, until

pytestmark = pytest.mark.host

ROUTED = VpcConfig(uplink=UplinkMode.ROUTED)
DOCKER = """
table ip filter {
	chain DOCKER-USER { counter return; }
	chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }
}
table ip6 filter {
	chain FORWARD { type filter hook forward priority 0; policy drop; }
}
"""
FIREWALLD = """
table inet firewalld {
	chain filter_FORWARD {
		type filter hook forward priority 10; policy accept;
		ct state { established, related } accept
		reject with icmpx admin-prohibited
	}
}
"""


def state(site: Site) -> dict[str, object]:
    """What root has, but for counters: links, addresses, routes, tables, forwarding."""
    look = site.world.run
    names = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.accept_redirects"]
    return {
        "links": sorted(one["ifname"] for one in json.loads(look("host", "ip", "-j", "link"))),
        "routes": look("host", "ip", "route") + look("host", "ip", "-6", "route", "show", "default"),
        "tables": look("host", "nft", "-s", "list", "ruleset"),
        "sysctls": look("host", "sysctl", *names, "net.ipv6.conf.wan.accept_ra"),
    }


@pytest.fixture
def armed(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Arms one point, to fail once."""
    file = tmp_path / "points"
    file.touch(mode=0o600)

    def fail_at(name: str) -> None:
        file.write_text(f"{name} raise\n")
        arm(str(file), tmp_path)

    yield fail_at
    arm("", Path())


def test_the_last_uplink_takes_all_of_it_along(site: Site) -> None:
    before = state(site)
    for vpc in (A, B):
        site.wishes.put(vpc, NAT)
    assert state(site) == before  # nobody is in them
    site.guest(A, 5)
    site.guest(B, 5)
    made = state(site)
    assert "net.ipv4.ip_forward = 1" in str(made["sysctls"])
    assert "net.ipv6.conf.wan.accept_ra = 2" in str(made["sysctls"])  # else the host's own way out would go
    site.wishes.drop(A)
    assert {"ux-bbbbbbbbbb"} == {one for one in state(site)["links"] if one.startswith("ux-")}  # type: ignore[attr-defined]
    assert (state(site)["tables"], state(site)["sysctls"]) == (made["tables"], made["sysctls"])
    site.drop(B)
    assert state(site) == before


def test_another_agent_finds_it_sound_and_puts_the_host_back(site: Site) -> None:
    before = state(site)
    site.wishes.put(A, NAT)
    site.guest(A, 5)
    made, addresses = state(site), site.networks.transits()
    site.restart()
    assert site.networks.configs.get(A) == NAT
    assert not site.networks.preview(A, site.index.members(A))
    site.networks.bring(A)
    assert (state(site), site.networks.transits()) == (made, addresses)
    site.wishes.drop(A)
    assert state(site) == before


def test_a_host_that_forwards_already_goes_on(site: Site) -> None:
    site.world.run("host", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    before = state(site)
    site.wishes.put(A, NAT)
    site.guest(A, 5)
    site.wishes.drop(A)
    assert state(site) == before


SPOILT = [
    ["sysctl", "-qw", "net.ipv4.ip_forward=0"],
    ["sysctl", "-qw", "net.ipv6.conf.all.forwarding=0"],
    ["nft", "flush", "ruleset"],
    ["nft", "delete", "table", "inet", "lvagent"],
    ["ip", "link", "del", "ux-aaaaaaaaaa"],
    ["ip", "link", "set", "ux-aaaaaaaaaa", "down"],
    ["ip", "link", "set", "ux-aaaaaaaaaa", "mtu", "1400"],
    ["ip", "address", "flush", "dev", "ux-aaaaaaaaaa"],
    ["ip", "address", "add", "10.66.0.1/24", "dev", "ux-aaaaaaaaaa"],
    ["sysctl", "-qw", "net.ipv6.conf.ux-aaaaaaaaaa.disable_ipv6=1"],
    ["sysctl", "-qw", "net.ipv4.conf.ux-aaaaaaaaaa.forwarding=0"],
]


def test_a_sweep_heals_what_somebody_did_in_root(site: Site) -> None:
    site.wishes.put(A, NAT)
    guest = site.guest(A, 5)
    made = state(site)
    site.world.serve("web", WEB, PORT)
    for command in SPOILT:
        site.world.run("host", *command)
        assert site.networks.preview(A, site.index.members(A)), command
        site.networks.bring(A)
        assert not site.networks.preview(A, site.index.members(A)), command
        assert state(site) == made, command
        assert guest.ask(WEB, PORT, "healed") == HOST, command


SPOILT_INSIDE = [
    ["nft", "delete", "table", "inet", "uplink"],
    ["ip", "link", "del", "ui-aaaaaaaaaa"],
    ["ip", "route", "del", "default"],
    ["ip", "-6", "route", "del", "default"],
    ["ip", "address", "flush", "dev", "ui-aaaaaaaaaa"],
]


def test_a_sweep_heals_what_somebody_did_in_the_vpc(site: Site) -> None:
    site.wishes.put(A, NAT)
    guest = site.guest(A, 5)
    inside = f"{site.settings.paths.netns}/{A}"
    for address in (WEB, WEB6):
        site.world.serve("web", address, PORT)
    for command in SPOILT_INSIDE:
        netns.inside(inside, lambda command=command: subprocess.run(command, check=True))  # type: ignore[misc]
        assert site.networks.preview(A, site.index.members(A)), command
        site.networks.bring(A)
        assert not site.networks.preview(A, site.index.members(A)), command
        assert guest.ask(WEB, PORT, "healed"), command
        assert guest.ask(WEB6, PORT, "healed"), command


class LateWatch(FilterWatch):
    """One whose thread is slow to begin, as on a busy machine."""

    def __init__(self, folder: str, fabric: str, changed: Callable[[str], None]) -> None:
        super().__init__(folder, fabric, changed)
        self.late = threading.Event()

    def _listen(self) -> None:
        self.late.wait(30)
        super()._listen()


def test_a_flush_in_root_is_noticed_and_healed_at_once(site: Site) -> None:
    site.wishes.put(A, NAT)
    site.guest(A, 5)
    heard: list[str] = []

    def heal(name: str) -> None:
        heard.append(name)
        if not name:
            site.networks.heal_router()

    made = site.world.run("host", "nft", "-s", "list", "ruleset")
    assert "masquerade" in made
    watch = LateWatch(site.settings.paths.netns, "lvfabric", heal)
    watch.start()
    try:
        site.world.run("host", "nft", "flush", "ruleset")  # before its thread has run at all
        watch.late.set()
        for _ in range(3):
            assert until(lambda: site.world.run("host", "nft", "-s", "list", "ruleset") == made)
            site.world.run("host", "nft", "flush", "ruleset")
        assert until(lambda: site.world.run("host", "nft", "-s", "list", "ruleset") == made)
        quiet = len(heard)
        site.networks.bring(A)
        assert not until(lambda: len(heard) > quiet, 0.3)  # our own transactions are nothing to hear
    finally:
        watch.stop()


class SlowWatch(FilterWatch):
    """One that is held up before it finds out whose doing it was."""

    def __init__(self, folder: str, fabric: str, changed: Callable[[str], None]) -> None:
        super().__init__(folder, fabric, changed)
        self.looks, self.free = threading.Event(), threading.Event()

    def _own_ports(self, name: str) -> set[int]:
        self.looks.set()
        assert self.free.wait(30)
        return super()._own_ports(name)


@pytest.mark.parametrize("goes", [False, True], ids=["stays", "goes"])
def test_a_vpc_that_goes_is_nobody_elses_change(site: Site, goes: bool) -> None:
    site.guest(A, 5)
    heard: list[str] = []
    watch = SlowWatch(site.settings.paths.netns, "lvfabric", heard.append)
    watch.start()
    try:
        inside = f"{site.settings.paths.netns}/{A}"
        netns.inside(inside, lambda: subprocess.run(["nft", "add", "table", "inet", "theirs"], check=True))
        assert watch.looks.wait(30)
        if goes:  # with the sockets that could tell that it was us
            site.drop(A)
        watch.free.set()
        assert until(lambda: A in heard, 1 if goes else 30) is not goes
    finally:
        watch.free.set()
        watch.stop()


def test_forwarding_that_somebody_switches_off_is_on_again_at_once(site: Site) -> None:
    site.wishes.put(A, NAT)
    site.guest(A, 5)
    watch = ForwardingWatch(site.networks.heal_router)
    watch.start()
    try:
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            site.world.run("host", "sysctl", "-qw", f"{name}=0")
            assert until(lambda name=name: site.world.run("host", "sysctl", "-n", name) == "1\n"), name  # type: ignore[misc]
    finally:
        watch.stop()


def test_a_strangers_link_is_not_taken(site: Site) -> None:
    site.world.run("host", "ip", "link", "add", "ux-aaaaaaaaaa", "type", "bridge")
    site.guest(A, 5)
    with pytest.raises(HostError, match="is not ours"):
        site.wishes.put(A, NAT)
    assert site.networks.configs.get(A) is None
    assert "bridge" in site.world.run("host", "ip", "-d", "link", "show", "ux-aaaaaaaaaa")
    assert not site.networks.preview(A, site.index.members(A))


def test_a_pool_that_the_host_has_a_way_to_is_refused(site: Site) -> None:
    site.world.run("host", "ip", "route", "add", "198.19.7.0/24", "via", "203.0.113.254")
    site.guest(A, 5)
    before = state(site)
    with pytest.raises(HostError, match=r"the pool 198.19.0.0/16: this host has a route to 198.19.7.0/24"):
        site.wishes.put(A, NAT)
    assert state(site) == before


def test_a_pool_that_is_used_up_is_told(sites: Callable[..., Site]) -> None:
    site = sites(pool_v4="198.19.0.0/29", pool_v6="fd6c::/125")  # three slots, but for the first
    others = [f"vpc-{letter * 10}" for letter in "cde"]
    for vpc in others:
        site.wishes.put(vpc, NAT)
        site.guest(vpc, 5)
    assert len({one.vpc_v4 for one in site.networks.transits().values()}) == 3
    site.guest(A, 5)
    before = state(site)
    with pytest.raises(Conflict, match=r"no address is left for the uplink of vpc-aaaaaaaaaa: all 3 of 198.19.0.0/29"):
        site.wishes.put(A, NAT)
    assert state(site) == before
    assert not (Path(site.settings.paths.vpcs) / f"{A}.json").exists()
    site.drop(others[0])
    site.wishes.put(A, NAT)
    for vpc in others[1:]:
        site.drop(vpc)


def test_a_pool_that_a_subnet_overlaps_is_refused(site: Site) -> None:
    site.guest(A, 5, net="198.19.3")
    with pytest.raises(Conflict, match=r"198.19.3.0/24 of vpc-aaaaaaaaaa overlaps 198.19.0.0/16, the pool") as caught:
        site.wishes.put(A, NAT)
    assert caught.value.path == "uplink"


def test_a_forwarder_that_is_the_host_itself_is_refused(site: Site) -> None:
    with pytest.raises(SpecError, match=r"203.0.113.1 is an address of this host"):
        site.wishes.put(A, dataclasses.replace(NAT, forwarders=(WEB, HOST)))


MADE = ("router.filtered", "router.forwarding", "uplink.closed", "uplink.linked", "uplink.addressed")
GONE = ("uplink.removed", "router.restored")


def test_every_step_of_an_uplink_is_tried_here() -> None:
    ours = {name for name in failpoints.POINTS if name.startswith(("uplink.", "router."))}
    assert ours == {*MADE, *GONE}


def test_a_change_that_fails_at_any_step_leaves_it_as_it_was(site: Site, armed: Callable[[str], None]) -> None:
    site.guest(A, 5)
    before = state(site)
    for name in (*MADE, "vpc.wished", "vpc.converged", "vpc.kept"):
        armed(name)
        with pytest.raises(HostError, match="a fault was asked for"):
            site.wishes.put(A, NAT)
        assert state(site) == before, name
        assert site.networks.configs.get(A) is None, name
        assert not list(Path(site.settings.paths.vpcs).glob("*.json")), name
        assert not site.networks.preview(A, site.index.members(A)), name
    site.wishes.put(A, NAT)
    assert site.networks.transits().keys() == {A}


def crashes(
    site: Site, armed: Callable[[str], None], points: Iterable[str], config: VpcConfig | None, as_before: object
) -> None:
    """At each point of a change that is in memory alone, a crash; the next agent makes all as the file says."""
    for name in points:
        armed(name)
        site.networks.configs.set(A, config)
        with pytest.raises(HostError, match="a fault was asked for"):
            site.networks.converge(A)
        site.restart()
        site.networks.converge(A)
        assert state(site) == as_before, name


def test_a_crash_at_any_step_is_mended_by_the_next_agent(site: Site, armed: Callable[[str], None]) -> None:
    """The undoing of a crash is nobody's: what was made lies there until another agent looks.

    The wish is what the file says: a crash before it is written has changed nothing.
    """
    site.guest(A, 5)
    before = state(site)
    crashes(site, armed, MADE, NAT, before)
    site.wishes.put(A, NAT)
    made = state(site)
    crashes(site, armed, GONE, None, made)
    site.wishes.drop(A)
    assert state(site) == before


def test_a_chain_of_others_that_drops_is_named(site: Site) -> None:
    site.world.run("host", "nft", DOCKER)
    site.wishes.put(A, NAT)
    guest = site.guest(A, 5)
    site.world.serve("web", WEB, PORT)
    told = site.networks.trouble()[""]
    assert [text.partition(":")[0] for text in told] == [
        "table ip filter, chain FORWARD",
        "table ip6 filter, chain FORWARD",
    ]
    assert "policy drop (Docker)" in told[0]
    assert guest.ask(WEB, PORT, "dropped", patience=0.5) == ""
    rules = [f'rule ip filter DOCKER-USER {way} "ux-*" accept' for way in ("iifname", "oifname")]
    for rule in rules:
        site.world.run("host", "nft", f"add {rule}")  # behind the rule that leaves the chain: nothing is met by it
    site.networks.heal_router()
    assert len(site.networks.trouble()[""]) == 2
    assert guest.ask(WEB, PORT, "dropped", patience=0.5) == ""
    for rule in rules:
        site.world.run("host", "nft", f"insert {rule}")
    site.networks.heal_router()
    assert len(site.networks.trouble()[""]) == 1
    assert guest.ask(WEB, PORT, "passed") == HOST


@pytest.mark.parametrize(("name", "ruleset"), [("docker", DOCKER), ("firewalld", FIREWALLD)])
def test_by_setting_a_chain_of_others_lets_uplinks_pass(sites: Callable[..., Site], name: str, ruleset: str) -> None:
    site = sites(foreign="accept")
    site.world.run("host", "nft", ruleset)
    before = state(site)
    site.wishes.put(A, NAT)
    guest = site.guest(A, 5)
    for address in (WEB, WEB6):
        site.world.serve("web", address, PORT)
        assert guest.ask(address, PORT, name)
    assert site.networks.trouble()[""] == ()
    site.world.run("host", "nft", "flush", "ruleset")
    site.world.run("host", "nft", ruleset)  # as a reload of theirs does
    site.networks.heal_router()
    assert guest.ask(WEB, PORT, name) == HOST
    site.drop(A)
    after = state(site)
    if name == "docker":  # it found forwarding on, and lives by it now
        assert "net.ipv4.ip_forward = 1" in str(after.pop("sysctls"))
        del before["sysctls"]
    assert after == before
    assert not [rule for chain in rootfilter.read().chains for rule in chain.rules if rule.comment]


def test_a_table_that_others_own_is_told_of(sites: Callable[..., Site]) -> None:
    """As firewalld 2.1 and later has it: nobody else may change it while it runs."""
    site = sites(foreign="accept")
    site.wishes.put(A, NAT)
    site.guest(A, 5)
    owner = Nft()
    try:
        owner.run(FIREWALLD.replace("{\n\tchain", "{\n\tflags owner\n\tchain", 1), "firewalld")
        site.networks.heal_router()
        (text,) = site.networks.trouble()[""]
        assert "find out why no rule of ours stays there: cannot let uplinks pass in table inet firewalld" in text
        assert "Operation not permitted" in text
    finally:
        owner.close()
    site.networks.heal_router()
    assert site.networks.trouble()[""] == ()


# routed


def test_routed_prefixes_go_as_they_are_and_rules_decide_who_comes(sites: Callable[..., Site]) -> None:
    site = sites(routed=("10.0.0.0/16", "fd00:a::/32"))
    site.wishes.put(A, ROUTED)
    guest = site.guest(A, 5, rules=[{"proto": "tcp", "port": PORT, "direction": "ingress"}])
    for address in (WEB, WEB6):
        site.world.serve("web", address, PORT)
    for place, way, way6 in (
        ("isp", HOST, "2001:db8:1::1"),
        ("far", "203.0.114.1", "2001:db8:2::1"),
        ("web", "198.51.100.1", "2001:db8:5::1"),
    ):
        site.world.run(place, "ip", "route", "add", "10.0.0.0/24", "via", way)
        site.world.run(place, "ip", "-6", "route", "add", "fd00:a::/64", "via", way6)
    assert guest.ask(WEB, PORT, "out") == "10.0.0.5"
    assert guest.ask(WEB6, PORT, "out") == "fd00:a::5"
    site.world.serve(guest.name, "10.0.0.5", PORT)
    site.world.serve(guest.name, "10.0.0.5", PORT + 1)
    caller = dataclasses.replace(guest, name="web")
    assert caller.ask("10.0.0.5", PORT, "in") == "198.51.100.10"
    assert caller.ask("10.0.0.5", PORT + 1, "in", patience=0.5) == ""
    routes = {one for one in site.network.observe(A) if isinstance(one, Uplink)}.pop().routes
    assert [str(net) for net in routes] == ["10.0.0.0/24", "fd00:a::/64"]


def test_a_prefix_that_may_not_be_routed_is_refused(sites: Callable[..., Site]) -> None:
    site = sites(routed=("10.1.0.0/16", "fd00:a::/32"))
    site.guest(A, 5)
    with pytest.raises(Conflict, match=r"10.0.0.0/24 of vpc-aaaaaaaaaa may not be routed here"):
        site.wishes.put(A, ROUTED)


def test_one_prefix_is_routed_to_one_vpc(sites: Callable[..., Site]) -> None:
    site = sites(routed=("10.0.0.0/16", "fd00:a::/32"))
    for vpc in (A, B):
        site.guest(vpc, 5)
    site.wishes.put(A, ROUTED)
    with pytest.raises(Conflict, match="which is routed to vpc-aaaaaaaaaa"):
        site.wishes.put(B, ROUTED)


def test_a_prefix_that_the_host_has_a_way_to_is_not_taken(sites: Callable[..., Site]) -> None:
    site = sites(routed=("10.0.0.0/16", "fd00:a::/32"))
    site.world.run("host", "ip", "route", "add", "10.0.0.128/25", "via", "203.0.113.254")
    site.guest(A, 5)
    before = state(site)
    with pytest.raises(HostError, match=r"cannot route 10.0.0.0/24 to .*: this host has a route to 10.0.0.128/25"):
        site.wishes.put(A, ROUTED)
    assert state(site) == before


def test_what_is_observed_is_what_was_wanted(site: Site) -> None:
    site.wishes.put(A, NAT)
    site.guest(A, 5, rules=[ANYTHING])
    found = site.network.observe(A)
    ways = site.networks.policy.uplinks
    assert ways is not None
    assert [one for one in found if isinstance(one, Router)] == [ways.router]
    (uplink,) = (one for one in found if isinstance(one, Uplink))
    assert (uplink.mtu, uplink.ipv6, uplink.routes) == (1500, True, ())
    ends = site.networks.transits()[A]
    assert ends.vpc_v4 == IPv4Interface(f"{ends.host_v4.ip + 1}/31")
