"""Published ports: from outside, from the host, from another VPC and from the same; not for others, and not after."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lvagent.agent import floating, networks, publications, undo
from lvagent.errors import Conflict, HostError, SpecError
from lvagent.failpoints import POINTS
from lvagent.host import inward, proxies
from lvagent.plan import wanted
from lvagent.plan.resources import Inward
from lvagent.spec.vpc import UplinkMode, VpcConfig
from tests.host.uplink.conftest import ANYTHING, NAT, A, B, Site, vm_id
from tests.host.uplink.world import HOST, HOST6, ISP, LAN, PEER, WEB, WEB6, Guest

LONG, SHORT = 10.0, 0.5
"""Seconds that are waited for an answer that must come, and for one that must not."""


@pytest.fixture
def pair(site: Site) -> Site:
    """Two VPCs with equal addresses and a way out; in each a guest that serves port 80."""
    for vpc in (A, B):
        site.wishes.put(vpc, NAT)
        guest = site.guest(vpc, 5)
        site.world.serve(guest.name, "10.0.0.5", 80)
        site.world.serve(guest.name, "fd00:a::5", 80)
    return site


def machine(site: Site, name: str) -> Guest:
    """A machine of the world as one that asks."""
    return Guest(site.world, name)


def asks(site: Site, name: str, address: str, port: int, **more: float) -> str:
    return machine(site, name).ask(address, port, "hello", **more)  # type: ignore[arg-type]


def test_a_published_port_answers_from_everywhere(pair: Site) -> None:
    assert asks(pair, "web", HOST, 8080, patience=SHORT) == ""
    pair.publish(A, 5, {"host_port": 8080, "port": 80})
    assert asks(pair, "web", HOST, 8080) == WEB
    assert asks(pair, "web", HOST6, 8080) == WEB6
    assert asks(pair, "peer", LAN, 8080) == PEER
    assert asks(pair, "host", HOST, 8080) == HOST
    assert asks(pair, "host", LAN, 8080) == LAN
    assert asks(pair, "host", HOST6, 8080) == HOST6
    transits = pair.networks.transits()
    guests = {vpc: pair.guests[vm_id(vpc, 5)] for vpc in (A, B)}
    assert guests[B].ask(HOST, 8080, "hello") == str(transits[B].vpc_v4.ip)
    assert guests[B].ask(LAN, 8080, "hello") == str(transits[B].vpc_v4.ip)
    assert guests[A].ask(HOST, 8080, "hello") == str(transits[A].host_v4.ip)
    # What is not published stays closed: the next port, loopback, the transit address, the VM's port by another VPC.
    assert asks(pair, "web", HOST, 8081, patience=SHORT) == ""
    assert asks(pair, "host", "127.0.0.1", 8080, patience=SHORT) == ""
    assert guests[B].ask(str(transits[A].vpc_v4.ip), 8080, "hello", patience=SHORT) == ""


@pytest.mark.parametrize("mode", [UplinkMode.ROUTED, UplinkMode.NAT])
def test_a_port_of_a_routed_vpc_answers_its_own_guests_too(sites: Callable[..., Site], mode: UplinkMode) -> None:
    site = sites(routed=("10.0.0.0/16", "fd00:a::/32"), ipv6="routed")
    site.wishes.put(A, VpcConfig(uplink=mode))
    guest, other = site.guest(A, 5, rules=[]), site.guest(A, 6)
    for address in ("10.0.0.5", "fd00:a::5"):
        site.world.serve(guest.name, address, 80)
    site.publish(A, 5, {"host_port": 8080, "port": 80})
    ends = site.networks.transits()[A]
    assert ends.vpc_v4 is not None
    assert ends.host_v4 is not None
    assert ends.host_v6 is not None
    for one in (other, guest):
        assert one.ask(HOST, 8080, "hello") == str(ends.host_v4.ip)
        assert one.ask(HOST6, 8080, "hello") == str(ends.host_v6.ip)
    assert asks(site, "web", HOST, 8080) == WEB
    assert asks(site, "host", HOST, 8080) == HOST
    assert other.ask(HOST, 8081, "hello", patience=SHORT) == ""
    only = {"host_port": 8080, "port": 80, "sources": [str(ends.vpc_v4.ip), str(ends.host_v4.ip)]}
    site.publish(A, 5, only)
    assert other.ask(HOST, 8080, "hello") == str(ends.host_v4.ip)
    assert asks(site, "web", HOST, 8080, patience=SHORT) == ""


def test_two_vpcs_with_equal_addresses_are_told_apart(pair: Site) -> None:
    pair.publish(A, 5, {"host_port": 8080, "port": 80, "host_address": HOST})
    pair.publish(B, 5, {"host_port": 8080, "port": 80, "host_address": LAN}, {"host_port": 9090, "port": 80})
    for number in range(20):
        assert asks(pair, "web", HOST, 8080, source=20_000 + number) == WEB
        assert asks(pair, "web", HOST, 9090, source=20_000 + number) == WEB
    assert asks(pair, "peer", LAN, 8080) == PEER
    counted = [[one.packets for one in pair.network.counted(vpc) if "80-80" in one.rule.comment] for vpc in (A, B)]
    assert all(any(counts) for counts in counted)


def test_only_those_who_may(pair: Site) -> None:
    pair.publish(A, 5, {"host_port": 8080, "port": 80, "sources": [f"{WEB}/32", WEB6]})
    assert asks(pair, "web", HOST, 8080) == WEB
    assert asks(pair, "web", HOST6, 8080) == WEB6
    for name, address in (("peer", LAN), ("isp", HOST), ("host", HOST)):
        assert asks(pair, name, address, 8080, patience=SHORT) == ""
    assert pair.guests[vm_id(B, 5)].ask(HOST, 8080, "hello", patience=SHORT) == ""


def test_ranges_keep_their_order(pair: Site) -> None:
    guest = pair.guests[vm_id(A, 5)]
    for port in (9000, 9001, 9002, 7000, 7999):
        pair.world.serve(guest.name, "10.0.0.5", port)
    pair.publish(
        A,
        5,
        {"host_port": 8000, "host_port_end": 8002, "port": 9000, "port_end": 9002},
        {"host_port": 7000, "host_port_end": 7999, "proto": "tcp"},
    )
    for port in (8000, 8001, 8002, 7000, 7999):
        assert asks(pair, "web", HOST, port) == WEB
    for port in (8003, 6999, 9000):
        assert asks(pair, "web", HOST, port, patience=SHORT) == ""


def test_datagrams_are_published_too(pair: Site) -> None:
    guest = pair.guests[vm_id(A, 5)]
    pair.publish(A, 5, {"proto": "udp", "host_port": 5353, "port": 53})
    with guest.socket(socket.SOCK_DGRAM) as server, machine(pair, "web").socket(socket.SOCK_DGRAM) as asker:
        server.bind(("10.0.0.5", 53))
        asker.sendto(b"hello", (HOST, 5353))
        said, peer = server.recvfrom(100)
        assert (said, peer[0]) == (b"hello", WEB)
        server.sendto(b"well", peer)
        assert asker.recvfrom(100) == (b"well", (HOST, 5353))
        pair.publish(A, 5)
        server.sendto(b"more", peer)
        asker.sendto(b"more", (HOST, 5353))
        for one in (server, asker):
            one.settimeout(SHORT)
            with pytest.raises(OSError):
                one.recv(100)


@contextmanager
def flow(
    site: Site, name: str, address: str, port: int, vm: str, inside: int, own: str = "10.0.0.5"
) -> Iterator[Callable[..., bool]]:
    """A connection to a port that leads to a VM; whether both ends hear each other, within so many seconds."""
    with site.guests[vm].socket() as listener:
        listener.bind((own, inside))
        listener.listen()
        with machine(site, name).socket() as asker:
            asker.connect((address, port))
            server, _ = listener.accept()
            with server:
                yield lambda seconds=LONG: heard(asker, server, seconds)


def heard(asker: socket.socket, server: socket.socket, seconds: float) -> bool:
    """Whether each of two ends of a connection hears the other within this time."""
    for one, other in ((asker, server), (server, asker)):
        other.settimeout(seconds)
        try:
            one.send(b"x")
            if not other.recv(100):
                return False
        except OSError:
            return False
    return True


def test_live_flows_are_cut_when_it_is_taken_away(pair: Site) -> None:
    """Also those of which the VM's own rules would let every packet pass, and those of the host itself."""
    vm = vm_id(A, 5)
    pair.publish(
        A, 5, {"host_port": 8081, "port": 81}, {"host_port": 8082, "port": 82}, {"host_port": 8083, "port": 83}
    )
    rest = [{"host_port": 8083, "port": 83}]
    with (
        flow(pair, "web", HOST, 8081, vm, 81) as gone,
        flow(pair, "host", HOST, 8082, vm, 82) as own,
        flow(pair, "web", HOST, 8083, vm, 83) as stays,
    ):
        assert all(one() for one in (gone, own, stays))
        pair.publish(A, 5, *rest)
        assert not gone(SHORT)
        assert not own(SHORT)
        assert stays()
        pair.publish(A, 5)
        assert not stays(SHORT)


def test_a_rule_of_the_vm_does_not_keep_what_was_published(site: Site) -> None:
    site.wishes.put(A, NAT)
    site.guest(A, 5, rules=[ANYTHING])
    site.guest(A, 6, rules=[ANYTHING])
    one, narrow = {"host_port": 8081, "port": 81}, {"host_port": 8082, "port": 82}
    site.publish(A, 5, one, narrow)
    with (
        flow(site, "web", HOST, 8081, vm_id(A, 5), 81) as cut,
        flow(site, "web", HOST, 8082, vm_id(A, 5), 82) as narrowed,
    ):
        assert cut()
        assert narrowed()
        site.publish(A, 5, one, {**narrow, "sources": [f"{ISP}/32"]})
        assert not narrowed(SHORT)
        site.publish(A, 5)
        site.publish(A, 6, one)
        assert not cut(SHORT)
    with flow(site, "isp", HOST, 8081, vm_id(A, 6), 81, "10.0.0.6") as last:
        assert last()
        site.publish(A, 6)
        assert not last(SHORT)


@pytest.mark.slow
def test_what_is_published_again_to_another_host_port_keeps_the_rest(pair: Site) -> None:
    pair.publish(A, 5, {"host_port": 8081, "port": 81})
    with flow(pair, "web", HOST, 8081, vm_id(A, 5), 81) as stays:
        for port in range(8090, 8094):
            pair.publish(A, 5, {"host_port": 8081, "port": 81}, {"host_port": port, "port": 81})
            pair.publish(B, 5, {"host_port": port + 10, "port": 81})
            assert stays()


def test_conflicts_say_who(pair: Site) -> None:
    pair.publish(A, 5, {"host_port": 8080, "port": 80, "host_address": HOST})
    with pytest.raises(Conflict) as error:
        pair.publish(B, 5, {"host_port": 8000, "host_port_end": 8100, "port": 80})
    assert (error.value.path, error.value.other) == ("[0].host_port", vm_id(A, 5))
    pair.guest(A, 6)
    with pytest.raises(Conflict, match="a port leads to one VM"):
        pair.publish(A, 6, {"host_port": 8080, "port": 80, "host_address": LAN})
    with socket.create_server((HOST, 8085)), pytest.raises(Conflict, match=r"8085 of the host is .*pid") as error:
        pair.publish(B, 5, {"host_port": 8085})
    with socket.create_server(("127.0.0.1", 8086)):
        pair.publish(B, 5, {"host_port": 8086})
    with pytest.raises(SpecError, match="no address of this host"):
        pair.publish(B, 5, {"host_port": 8087, "host_address": "198.51.100.99"})
    pair.wishes.put(B, NAT)
    with pytest.raises(Conflict, match="are published"):
        pair.wishes.put(B, VpcConfig(uplink=UplinkMode.NONE))
    pair.publish(B, 5)
    pair.wishes.put(B, VpcConfig(uplink=UplinkMode.NONE))
    with pytest.raises(Conflict, match="has no uplink"):
        pair.publish(B, 5, {"host_port": 8086})


def whole(site: Site, vpc: str) -> bool:
    """Whether what leads into a VPC is there as it is wanted; or nothing, if nothing is."""
    wish = {
        one for one in wanted.network(vpc, site.index.members(vpc), site.networks.policy) if isinstance(one, Inward)
    }
    return {one for one in site.network.observe(vpc) if isinstance(one, Inward)} == wish


def test_it_is_healed_and_survives_restarts(pair: Site) -> None:
    pair.publish(A, 5, {"host_port": 8081, "port": 81}, {"host_port": 8080, "port": 80})
    vm = vm_id(A, 5)
    with flow(pair, "web", HOST, 8081, vm, 81) as stays:
        pair.restart()
        assert whole(pair, A)
        pair.networks.converge(A)
        assert stays()
        pair.world.run("host", "nft", "flush", "ruleset")
        assert not whole(pair, A)
        pair.networks.heal_router()
        assert whole(pair, A)
        assert stays()
        subprocess.run(
            ["nsenter", f"--net={pair.settings.paths.netns}/{A}", "nft", "flush", "ruleset"], check=True, timeout=10
        )
        pair.networks.heal(A)
        assert whole(pair, A)
        assert stays()
    assert asks(pair, "web", HOST, 8080) == WEB
    pair.world.run("host", "ip", "link", "del", f"ux-{A[4:]}")
    assert not whole(pair, A)
    pair.networks.converge(A)
    assert whole(pair, A)
    assert asks(pair, "web", HOST, 8080) == WEB


@pytest.mark.slow
def test_it_goes_with_its_vm(pair: Site) -> None:
    pair.publish(A, 5, {"host_port": 8080, "port": 80})
    pair.networks.unpublish(vm_id(A, 5))
    pair.drop(A)
    assert not any(isinstance(one, Inward) for one in pair.network.observe(A))
    assert asks(pair, "web", HOST, 8080, patience=SHORT) == ""
    pair.publish(B, 5, {"host_port": 8080, "port": 80})
    assert asks(pair, "web", HOST, 8080) == WEB


STEPS = ("ports.wished", "network.made", "inward.led", "inward.opened", "ports.converged", "ports.kept")


def test_whole_or_gone_whatever_breaks(pair: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails leaves what was; an agent that ends there is followed by one that makes it whole."""
    before, after = {"host_port": 8080, "port": 80}, {"host_port": 8081, "port": 80}
    for step in STEPS:
        pair.publish(A, 5, before)
        with breaking(monkeypatch, step, HostError("x", "y", "z")), pytest.raises(HostError):
            pair.publish(A, 5, after)
        assert whole(pair, A)
        assert answers_at(pair, 8080)
        with breaking(monkeypatch, step, Killed()), pytest.raises(Killed):
            pair.publish(A, 5, after)
        pair.restart()
        pair.networks.converge(A)
        assert whole(pair, A)
        assert answers_at(pair, 8081 if step == "ports.kept" else 8080)


def answers_at(site: Site, port: int) -> bool:
    """Whether this one of two ports leads to the guest from outside, and the other does not."""
    (other,) = {8080, 8081} - {port}
    return (asks(site, "web", HOST, port), asks(site, "web", HOST, other, patience=SHORT)) == (WEB, "")


class Killed(BaseException):
    """The agent ended here: nothing is undone."""


@contextmanager
def breaking(monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException) -> Iterator[None]:
    """At this point this is raised, once."""
    met: list[str] = []

    def point(name: str) -> None:
        if name == step and not met:
            met.append(name)
            raise error

    def nothing(self: object, *_: object) -> None:
        return None

    with monkeypatch.context() as patch:
        for module in (networks, publications, floating, inward, proxies):
            patch.setattr(module, "point", point)
        if isinstance(error, Killed):
            patch.setattr(undo.Undo, "__exit__", nothing)
        yield
    assert met, step
    assert step in POINTS
