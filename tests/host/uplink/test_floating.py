"""Floating addresses: 1:1 for both versions, moved without loss to others, asked about first, announced, let go."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from lvagent.errors import Conflict, HostError, NotFound, SpecError
from lvagent.host import neighbours, netns
from lvagent.plan import wanted
from lvagent.plan.resources import Inward, Proxy, Uplink
from lvagent.spec.vpc import UplinkMode, VpcConfig
from tests.host.uplink.conftest import ANYTHING, NAT, A, B, Site, vm_id
from tests.host.uplink.test_published import LONG, SHORT, Killed, breaking, flow, heard
from tests.host.uplink.world import HOST, ISP, PEER, PORT, WEB, WEB6, Guest, until

FLOAT, FLOAT6, SECOND = "203.0.113.50", "2001:db8:1::50", "203.0.113.51"
FAR = 9000

PATIENCE = 3.0
"""Seconds for who answers, on a machine that may be busy; whoever does so at once is waited for no longer."""


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers for most addresses here, so that is not waited for as long."""
    monkeypatch.setattr(neighbours, "INTERVAL", 0.03)


@pytest.fixture
def pair(site: Site) -> Site:
    """Two VPCs with equal addresses and a way out, in the first two guests, in the second one; all are open."""
    for vpc, numbers in ((A, (5, 6)), (B, (5,))):
        site.wishes.put(vpc, NAT)
        for number in numbers:
            guest = site.guest(vpc, number, rules=[ANYTHING])
            site.world.serve(guest.name, f"10.0.0.{number}", PORT)
            site.world.serve(guest.name, f"fd00:a::{number}", PORT)
    site.world.serve("web", WEB, FAR)
    site.world.serve("web", WEB6, FAR)
    site.world.serve("isp", ISP, FAR)
    return site


def asks(site: Site, name: str, address: str, patience: float = 10) -> str:
    """Whom the server at a floating address saw."""
    return Guest(site.world, name).ask(address, PORT, "hello", patience=patience)


def inside(site: Site, vpc: str, number: int) -> Guest:
    return site.guests[vm_id(vpc, number)]


def test_an_address_leads_in_and_is_seen_outside(pair: Site) -> None:
    guest = inside(pair, A, 5)
    assert guest.ask(WEB, FAR, "hello") == HOST
    pair.float(FLOAT, A, 5)
    pair.float(FLOAT6, A, 5)
    for name, address, seen in (("web", FLOAT, WEB), ("web", FLOAT6, WEB6), ("isp", FLOAT, ISP), ("peer", FLOAT, PEER)):
        assert asks(pair, name, address) == seen
    assert asks(pair, "host", FLOAT) == str(pair.networks.transits()[A].host_v4.ip)
    assert guest.ask(WEB, FAR, "hello") == FLOAT
    assert guest.ask(WEB6, FAR, "hello") == FLOAT6
    assert guest.ask(ISP, FAR, "hello") == FLOAT
    assert inside(pair, A, 6).ask(WEB, FAR, "hello") == HOST
    assert inside(pair, A, 6).ask(FLOAT, PORT, "hello") == "10.0.0.6"
    assert inside(pair, B, 5).ask(FLOAT, PORT, "hello") == str(pair.networks.transits()[B].vpc_v4.ip)
    assert Guest(pair.world, "web").pings(FLOAT)


def test_the_rules_of_the_vm_decide(site: Site) -> None:
    site.wishes.put(A, NAT)
    guest = site.guest(A, 5, rules=[{"proto": "tcp", "port": PORT, "source": f"{ISP}/32", "direction": "ingress"}])
    site.world.serve(guest.name, "10.0.0.5", PORT)
    site.float(FLOAT, A, 5)
    assert asks(site, "isp", FLOAT) == ISP
    assert asks(site, "web", FLOAT, SHORT) == ""


@contextmanager
def flows(site: Site, guest: Guest, count: int) -> Iterator[list[socket.socket]]:
    """Connections of a guest to a server outside that sends back what it hears."""
    with ExitStack() as stack:
        path = site.world.path("web")
        listener = stack.enter_context(netns.inside(path, lambda: socket.create_server((WEB, 9100), backlog=count)))
        threading.Thread(target=_echo, args=(listener, count), daemon=True).start()
        lines = []
        for _ in range(count):
            line = stack.enter_context(guest.socket())
            line.connect((WEB, 9100))
            lines.append(line)
        yield lines


@contextmanager
def outward(site: Site, guest: Guest) -> Iterator[Callable[..., bool]]:
    """A connection of a guest to a server outside; whether both ends hear each other, within so many seconds."""
    path = site.world.path("web")
    with netns.inside(path, lambda: socket.create_server((WEB, 9200))) as listener, guest.socket() as asker:
        asker.connect((WEB, 9200))
        server, _ = listener.accept()
        with server:
            yield lambda seconds=LONG: heard(asker, server, seconds)


def _echo(listener: socket.socket, count: int) -> None:
    def serve(line: socket.socket) -> None:
        with line:
            while said := line.recv(100):
                line.sendall(said)

    for _ in range(count):
        line, _ = listener.accept()
        threading.Thread(target=serve, args=(line,), daemon=True).start()


def alive(lines: list[socket.socket]) -> int:
    """How many of these are answered."""
    for line in lines:
        line.settimeout(LONG)
        line.sendall(b"x")
    return sum(answered(line) for line in lines)


def answered(line: socket.socket) -> bool:
    """Whether something is heard on a connection."""
    try:
        return line.recv(10) == b"x"
    except OSError:
        return False


@pytest.mark.parametrize("target", [(A, 6), (B, 5)])
def test_it_moves_while_others_go_on(pair: Site, target: tuple[str, int]) -> None:
    """To a VM of the same VPC, and of another; 100 flows of others of both VPCs lose nothing, not even a packet."""
    pair.float(FLOAT, A, 5)
    with flows(pair, inside(pair, A, 6), 100) as others, outward(pair, inside(pair, A, 5)) as own:
        assert own()
        stop, lost = threading.Event(), []

        def go_on() -> None:
            while not stop.is_set():
                if alive(others) != 100:
                    lost.append(1)

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            for _ in range(3):
                pair.float(FLOAT, *target)
                assert asks(pair, "web", FLOAT) == WEB
                assert inside(pair, *target).ask(WEB, FAR, "hello") == FLOAT
                assert pair.networks.floating.get(FLOAT) is not None
                pair.float(FLOAT, A, 5)
                assert asks(pair, "isp", FLOAT) == ISP
            pair.float(FLOAT, *target)
        finally:
            stop.set()
            thread.join()
        assert not lost
        assert alive(others) == 100
        assert not own(SHORT)
    seen = Guest(pair.world, "isp").ask(FLOAT, PORT, "hello")
    assert seen == ISP
    assert inside(pair, A, 5).ask(WEB, FAR, "hello") == HOST


def mac_of(site: Site, place: str, link: str) -> str:
    """The MAC of a link."""
    return site.world.run(place, "ip", "-br", "link", "show", link).split()[2]


def proxied(site: Site) -> set[str]:
    """The addresses for which the host answers."""
    told = site.world.run("host", "ip", "neigh", "show", "proxy") + site.world.run(
        "host", "ip", "-6", "neigh", "show", "proxy"
    )
    return {row.split()[0] for row in told.splitlines()}


def test_it_is_let_go_and_its_flows_are_cut(pair: Site) -> None:
    pair.float(FLOAT, A, 5)
    pair.float(FLOAT6, A, 5)
    assert proxied(pair) == {FLOAT, FLOAT6}
    proxy_ndp = "net.ipv6.conf.wan.proxy_ndp"
    assert pair.world.run("host", "sysctl", "-n", proxy_ndp) == "1\n"
    with flow(pair, "web", FLOAT, 81, vm_id(A, 5), 81) as comes, outward(pair, inside(pair, A, 5)) as goes:
        assert comes()
        assert goes()
        pair.floating.drop(FLOAT)
        assert not comes(SHORT)
        assert not goes(SHORT)
    assert proxied(pair) == {FLOAT6}
    assert asks(pair, "web", FLOAT6) == WEB6
    pair.floating.drop(FLOAT6)
    assert proxied(pair) == set()
    assert pair.world.run("host", "sysctl", "-n", proxy_ndp) == "0\n"
    assert FLOAT not in pair.world.run("host", "ip", "route")
    with pytest.raises(NotFound):
        pair.floating.drop(FLOAT)
    assert whole(pair, A)


def test_a_strangers_entries_stay(pair: Site) -> None:
    pair.world.run("host", "ip", "neigh", "add", "proxy", SECOND, "dev", "wan")
    pair.float(FLOAT, A, 5)
    pair.floating.drop(FLOAT)
    pair.drop(A)
    pair.drop(B)
    pair.networks.tidy_fabric()
    assert proxied(pair) == {SECOND}


def test_who_answers_on_the_wire_keeps_it(pair: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "INTERVAL", PATIENCE)
    for address, place, link in ((SECOND, "isp", "isp0"), ("2001:db8:1::51", "isp", "isp0")):
        pair.world.run(
            place,
            "ip",
            "address",
            "add",
            f"{address}/{128 if ':' in address else 32}",
            "dev",
            link,
            *["nodad"] * (":" in address),
        )
        mac = mac_of(pair, place, link)
        with pytest.raises(Conflict, match=f"{mac} answers for {address} on wan") as error:
            pair.float(address, A, 5)
        assert error.value.other == mac
        assert pair.networks.floating.get(address) is None
        assert proxied(pair) == set()


REFUSED: tuple[tuple[str, str, type[Exception], str], ...] = (
    (HOST, "", Conflict, "an address of this host itself"),
    (ISP, "", Conflict, "a router of this host"),
    ("2001:db8:1::fe", "", Conflict, "a router of this host"),
    ("198.51.100.77", "", SpecError, "not of the network of wan"),
    ("203.0.113.255", "", SpecError, "not of the network of wan"),
    (FLOAT, "lan", SpecError, "not of the network of lan"),
    (FLOAT, "eth9", Conflict, "no link eth9"),
    ("10.0.0.77", "", Conflict, "is in 10.0.0.0/24 of vpc-aaaaaaaaaa"),
    ("127.0.0.9", "", SpecError, "loopback"),
)


def test_addresses_that_cannot_be(pair: Site) -> None:
    for address, interface, kind, message in REFUSED:
        with pytest.raises(kind, match=message):
            pair.float(address, A, 5, interface)
    with pytest.raises(Conflict, match="the pool of uplinks"):
        pair.float(str(pair.networks.transits()[B].vpc_v4.ip), A, 5, f"ux-{B[4:]}")
    assert proxied(pair) == set()


@pytest.mark.slow
def test_a_link_that_went_is_told_and_keeps_nothing_else_from_going_on(pair: Site) -> None:
    pair.world.run("host", "ip", "link", "add", "extra", "type", "veth", "peer", "name", "extra2")
    pair.world.run("host", "ip", "address", "add", "198.18.0.1/24", "dev", "extra")
    for link in ("extra", "extra2"):
        pair.world.run("host", "ip", "link", "set", link, "up")
    pair.float("198.18.0.50", A, 5, "extra")
    pair.float(FLOAT, A, 6)
    pair.world.run("host", "ip", "link", "del", "extra")
    pair.networks.prepare()
    pair.networks.converge(A)
    assert any("there is no link extra" in why for why in pair.networks.trouble()[A])
    assert asks(pair, "web", FLOAT) == WEB
    assert whole(pair, A)


def test_it_is_announced(pair: Site) -> None:
    """A neighbour that knew another MAC for the address goes on with ours."""
    pair.world.run("isp", "ip", "neigh", "replace", FLOAT, "lladdr", "02:00:00:00:00:09", "dev", "isp0", "nud", "stale")
    pair.world.run(
        "isp", "ip", "-6", "neigh", "replace", FLOAT6, "lladdr", "02:00:00:00:00:09", "dev", "isp0", "nud", "stale"
    )
    pair.float(FLOAT, A, 5)
    pair.float(FLOAT6, A, 5)
    mac = mac_of(pair, "host", "wan")
    for address in (FLOAT, FLOAT6):
        assert until(lambda address=address: mac in pair.world.run("isp", "ip", "neigh", "show", address)), address  # type: ignore[misc]


KINDS = Inward | Proxy | Uplink


def whole(site: Site, vpc: str) -> bool:
    """Whether the ways in and out of a VPC are as they are wanted."""
    wish = {one for one in wanted.network(vpc, site.index.members(vpc), site.networks.policy) if isinstance(one, KINDS)}
    return {one for one in site.network.observe(vpc) if isinstance(one, KINDS)} == wish


def test_it_is_healed_and_survives_restarts(pair: Site) -> None:
    pair.float(FLOAT, A, 5)
    pair.restart()
    assert whole(pair, A)
    for harm in (
        ("nft", "flush", "ruleset"),
        ("ip", "neigh", "del", "proxy", FLOAT, "dev", "wan"),
        ("ip", "route", "del", FLOAT),
        ("ip", "link", "del", f"ux-{A[4:]}"),
    ):
        pair.world.run("host", *harm)
        pair.networks.heal_router()
        pair.networks.converge(A)
        assert whole(pair, A)
        assert asks(pair, "web", FLOAT) == WEB
        assert inside(pair, A, 5).ask(WEB, FAR, "hello") == FLOAT


@pytest.mark.slow
def test_it_goes_with_its_vm_and_holds_its_way_out(pair: Site) -> None:
    pair.float(FLOAT, A, 5)
    with pytest.raises(Conflict, match="floating addresses are led to it"):
        pair.wishes.put(A, VpcConfig(uplink=UplinkMode.NONE))
    pair.networks.unpublish(vm_id(A, 5))
    pair.networks.converge(A)
    assert proxied(pair) == set()
    assert whole(pair, A)
    pair.float(FLOAT, B, 5)
    assert asks(pair, "web", FLOAT) == WEB


STEPS = ("floating.wished", "inward.led", "floating.proxied", "floating.converged", "floating.kept")


def test_whole_or_gone_whatever_breaks(pair: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A move that fails leaves it where it was; an agent that ends there is followed by one that makes it whole."""
    for step in STEPS:
        pair.float(FLOAT, A, 5)
        with breaking(monkeypatch, step, HostError("x", "y", "z")), pytest.raises(HostError):
            pair.float(FLOAT, B, 5)
        assert all(whole(pair, vpc) for vpc in (A, B))
        assert seen_outside(pair) == [FLOAT, HOST]
        with breaking(monkeypatch, step, Killed()), pytest.raises(Killed):
            pair.float(FLOAT, B, 5)
        pair.restart()
        for vpc in (A, B):
            pair.networks.converge(vpc)
        assert all(whole(pair, vpc) for vpc in (A, B))
        assert seen_outside(pair) == ([HOST, FLOAT] if step == "floating.kept" else [FLOAT, HOST])
        assert asks(pair, "web", FLOAT) == WEB


def seen_outside(site: Site) -> list[str]:
    """As what the first guest of each VPC is seen outside."""
    return [inside(site, vpc, 5).ask(WEB, FAR, "hello") for vpc in (A, B)]
