"""Uplinks beside firewalld, Docker, ufw and nftables.service themselves, and not beside rules like theirs."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from lvagent.agent.healer import Healer
from lvagent.doctor import bystanders
from lvagent.doctor.findings import Level
from lvagent.host import netns, rootfilter
from lvagent.observe.filters import FilterWatch
from lvagent.observe.forwarding import ForwardingWatch
from tests.host.uplink.conftest import ANYTHING, NAT, A, B, Site, vm_id
from tests.host.uplink.world import HOST, HOST6, PORT, WEB, WEB6, Guest
from tests.lab.aside import Aside, until
from tests.lab.firewalls import PACKAGES, Dockerd, Firewalld, Ufw, advised
from tests.lab.unpacked import unpacked

pytestmark = pytest.mark.host

FLOAT, FLOAT6 = "203.0.113.50", "2001:db8:1::50"
SHORT = 0.7
"""Seconds that are waited for an answer that may not come."""

SOON = 8
"""Seconds in which what was heard of is put right, on a machine that may be busy. Nobody sweeps here: what was not
heard of stays as it is. For how long guests are really cut off is measured for docs/performance.md."""


@pytest.fixture(scope="session")
def tree() -> Path:
    """Their files."""
    return unpacked(*PACKAGES)


@pytest.fixture
def untouched(request: pytest.FixtureRequest) -> Iterator[None]:
    """Sees that the machine is as it was: its rules, and what is mounted and runs there."""
    machine = os.open("/proc/self/ns/net", os.O_RDONLY)  # before the test has a network of its own

    def look() -> tuple[str, list[str]]:
        rules = netns.inside(f"/proc/self/fd/{machine}", lambda: rootfilter.run(["nft", "-s", "list", "ruleset"]))
        mounts = Path(f"/proc/{os.getppid()}/mountinfo").read_text().splitlines()
        return rules, [line for line in mounts if " aside " in line or "unpacked-" in line]

    before = look()
    assert before[1] == []
    yield
    assert look() == before
    os.close(machine)


@pytest.fixture
def aside(untouched: None, tree: Path, place: Path) -> Iterator[Aside]:
    """A place for them beside the test's own host, in its network; nothing of it is left."""
    with Aside(tree) as made:
        pids = os.open(f"/proc/{made.pid}/ns/pid", os.O_RDONLY)  # kept open: its number would be given away again
        yield made
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and _pids_of(pid) == os.fstat(pids).st_ino]
    os.close(pids)


def _pids_of(pid: str) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return 0


class Scene:
    """Two VPCs with ways out; a port of the one is published, and addresses are led to the other."""

    def __init__(self, site: Site) -> None:
        self.site = site
        for vpc in (A, B):
            site.wishes.put(vpc, NAT)
            guest = site.guest(vpc, 5, rules=[ANYTHING] if vpc == B else [])
            for address in ("10.0.0.5", "fd00:a::5"):
                site.world.serve(guest.name, address, 80)
        site.publish(A, 5, {"host_port": 8080, "port": 80})
        for address in (FLOAT, FLOAT6):
            site.world.serve("web", WEB6 if ":" in address else WEB, PORT)
            site.float(address, B, 5, "wan")
        ours = {"a": site.guests[vm_id(A, 5)], "b": site.guests[vm_id(B, 5)]}
        self._asked = {
            (f"{way}{'6' if ':' in to else ''}"): (ours.get(name) or Guest(site.world, name), to, port)
            for way, name, addresses, port in (
                ("out", "a", (WEB, WEB6), PORT),
                ("out by a floating address", "b", (WEB, WEB6), PORT),
                ("published", "web", (HOST, HOST6), 8080),
                ("published, from the host", "host", (HOST, HOST6), 8080),
                ("published, from another VPC", "b", (HOST,), 8080),
                ("published, from the same VPC", "a", (HOST,), 8080),
                ("floating", "web", (FLOAT, FLOAT6), 80),
                ("floating, from the link", "isp", (FLOAT,), 80),
                ("floating, from the host", "host", (FLOAT,), 80),
                ("floating, from another VPC", "a", (FLOAT,), 80),
            )
            for to in addresses
        }
        self.ways = frozenset(self._asked)

    def open(self, patience: float = SHORT) -> set[str]:
        """The ways that work."""
        with ThreadPoolExecutor(len(self._asked)) as pool:
            asked = {
                way: pool.submit(guest.ask, to, port, "hello", patience=patience)
                for way, (guest, to, port) in self._asked.items()
            }
            return {way for way, one in asked.items() if one.result()}

    def outage(self, done: Callable[[], object]) -> float:
        """For how long nothing that a guest begins reaches the world, while something is done and after it, seconds.

        New connections all the time, so it says what a guest notices, to some 50 ms.
        """
        guest, to, port = self._asked["out"]
        answered = [time.monotonic()]
        ended = threading.Event()

        def ask() -> None:
            while not ended.is_set():
                if guest.ask(to, port, "hello", patience=0.05):
                    answered.append(time.monotonic())

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            done()
            assert until(lambda: answered[-1] > time.monotonic() - 0.05, 30)
            time.sleep(0.3)
        finally:
            ended.set()
            thread.join()
        return max(later - earlier for earlier, later in itertools.pairwise([*answered, time.monotonic()]))

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Have a flow go on: begun before, used after."""
        guest, to, port = self._asked["out"]
        with guest.socket() as line:
            line.connect((to, port))
            yield
            line.sendall(b"hello 0\n")
            assert line.recv(100).startswith(b"hello ")

    def trouble(self) -> tuple[list[str], list[str]]:
        """What is told of all uplinks, and only of the VPC with floating addresses."""
        told = self.site.networks.trouble()
        return list(told[""]), list(told.get(B, ()))

    def doctor(self) -> list[tuple[Level, str]]:
        """What the doctor says of uplinks."""
        return [(one.level, one.text) for one in bystanders.uplinks(rootfilter.read(), there=2)]

    def ours_in_others(self) -> int:
        """Rules of ours in chains of others."""
        chains = rootfilter.read().chains
        return sum(rule.comment == rootfilter.UPLINK_COMMENT for chain in chains for rule in chain.rules)


@pytest.fixture
def scenes(aside: Aside, sites: Callable[..., Site]) -> Iterator[Callable[..., Scene]]:
    """Makes the scene of a test; whatever others do to root's filter is heard, as by the agent."""
    watches: list[FilterWatch | ForwardingWatch] = []

    def make(**settings: object) -> Scene:
        site = sites(**settings)
        scene = Scene(site)

        healer = Healer(site.index, site.networks)
        heard: list[str] = []

        def heal(name: str = "") -> None:
            heard.append(name)
            healer.heal(name)

        watches.append(FilterWatch(site.settings.paths.netns, "lvfabric", heal))
        watches.append(ForwardingWatch(heal))
        for one in watches:
            one.start()
        beacon = [["nft", verb, "table", "ip", "beacon"] for verb in ("add", "delete")]
        assert until(lambda: [site.world.run("host", *one) for one in beacon] and "" in heard, 30)  # until it hears
        return scene

    yield make
    for one in watches:
        one.stop()


BY_A_RULE = (
    "drops what VPCs send out, and what comes to published ports, and what comes to floating addresses and routed"
)
LED = {
    "published", "published6", "published, from the host", "published, from the host6", "published, from another VPC",
    "published, from the same VPC",
}  # fmt: skip
FROM_VPC = {"floating, from another VPC"}
OWN = {"published, from the host", "published, from the host6", "floating, from the host"}
"""What begins at the host itself meets no FORWARD chain."""


def told(scene: Scene, *beginnings: str) -> None:
    """See that all those chains are named, by the agent and by the doctor, and no others."""
    assert until(lambda: len(scene.trouble()[0]) == len(beginnings), 30), scene.trouble()
    common, _ = scene.trouble()
    for text, (level, found), beginning in zip(common, scene.doctor(), beginnings, strict=True):
        assert text.startswith(beginning), text
        assert (level, found.startswith(beginning)) == (Level.FAIL, True)


def opens(scene: Scene, ways: set[str] | frozenset[str]) -> None:
    """See that these ways work, once the neighbours have found each other, and no others."""
    assert until(lambda: scene.open() == ways, 30), scene.open() ^ ways


def sound(scene: Scene) -> None:
    """See that all works, and that nothing else is told."""
    opens(scene, scene.ways)
    assert until(lambda: scene.trouble() == ([], []), 30), scene.trouble()
    assert [level for level, _ in scene.doctor()] == [Level.PASS]


@pytest.mark.parametrize("zone", ["public", pytest.param("drop", marks=pytest.mark.slow)])
def test_firewalld_forwards_when_it_is_told_to(aside: Aside, scenes: Callable[..., Scene], zone: str) -> None:
    firewalld = Firewalld(aside, DefaultZone=zone, IPv6_rpfilter="yes")
    scene = scenes()
    opens(scene, LED | OWN)  # firewalld lets pass what was led by a DNAT
    chain = "table inet firewalld, chain filter_FORWARD"
    told(
        scene,
        f"{chain}: a rule in chain filter_FWD_{zone} (firewalld) drops what VPCs send out, and what comes to floating",
    )
    # The zone that trusts is half of it: what comes to an address of a VPC is of the zone of the link that it comes by.
    firewalld.tell("firewall-cmd --zone=trusted --add-interface=ux-+")
    assert until(lambda: scene.trouble()[0] == [], 30)
    assert "drops what comes to floating addresses and routed prefixes" in scene.trouble()[1][0]
    assert [level for level, _ in scene.doctor()] == [Level.WARN]
    opens(scene, scene.ways - ({way for way in scene.ways if way.startswith("floating")} - OWN - FROM_VPC))
    firewalld.tell("firewall-cmd --zone=trusted --remove-interface=ux-+")
    for command in advised("firewalld"):
        firewalld.tell(command)
    sound(scene)
    assert scene.outage(lambda: firewalld.tell("firewall-cmd --reload")) < SOON
    firewalld.stop()
    assert "firewalld" not in firewalld.tell("nft list tables")
    sound(scene)
    firewalld.start()
    sound(scene)


def test_a_rule_of_ours_in_firewalld_outlives_what_firewalld_does(aside: Aside, scenes: Callable[..., Scene]) -> None:
    firewalld = Firewalld(aside)
    scene = scenes(foreign="accept")
    sound(scene)
    for name in ("reload", "complete-reload"):
        with scene.under_way():
            assert scene.outage(lambda name=name: firewalld.tell(f"firewall-cmd --{name}")) < SOON, name  # type: ignore[misc]
        sound(scene)
        assert until(lambda: scene.ours_in_others() == 2, 30)
    firewalld.stop(signal.SIGKILL)
    assert scene.outage(firewalld.start) < SOON
    sound(scene)
    for vpc in (A, B):
        scene.site.drop(vpc)
    assert scene.ours_in_others() == 0


@pytest.mark.slow
def test_a_flush_takes_firewalld_away_and_not_uplinks(aside: Aside, scenes: Callable[..., Scene]) -> None:
    """firewalld does not notice. A restart mends it; a reload fails half-way and leaves the host itself closed."""
    firewalld = Firewalld(aside)
    scene = scenes(foreign="accept")
    for _ in range(2):
        assert scene.outage(lambda: firewalld.tell("nft flush ruleset")) < SOON
        sound(scene)
        firewalld.stop()
        assert scene.outage(firewalld.start) < SOON
        sound(scene)
    firewalld.tell("nft flush ruleset")
    assert "COMMAND_FAILED" in firewalld.tell("firewall-cmd --reload || true")
    opens(scene, scene.ways - OWN)  # the host itself is closed
    assert "firewalld_policy_drop" in firewalld.tell("nft list tables")
    firewalld.stop()
    firewalld.start()
    sound(scene)


def test_docker_leaves_uplinks_alone_when_it_is_told_to(aside: Aside, scenes: Callable[..., Scene]) -> None:
    docker = Dockerd(aside)
    scene = scenes()
    opens(scene, {way for way in scene.ways if way.endswith("6")} | OWN)  # ip6tables it does not use
    told(scene, f"table ip filter, chain FORWARD: policy drop (Docker) {BY_A_RULE}")
    for command in advised("Docker"):
        docker.tell(command)
    sound(scene)
    docker.stop()
    assert scene.outage(docker.start) < SOON
    sound(scene)


@pytest.mark.slow
def test_docker_drops_nothing_if_uplinks_came_first(aside: Aside, scenes: Callable[..., Scene]) -> None:
    scene = scenes()
    docker = Dockerd(aside)
    assert "-P FORWARD ACCEPT" in docker.tell("iptables -S")
    sound(scene)


@pytest.mark.slow
def test_a_reload_of_firewalld_makes_docker_forget_what_it_was_told(aside: Aside, scenes: Callable[..., Scene]) -> None:
    firewalld, docker = Firewalld(aside), Dockerd(aside)
    scene = scenes()
    opens(scene, OWN | {"published6"})
    assert ["(firewalld)" in text or "(Docker)" in text for text in scene.trouble()[0]] == [True, True]
    for command in advised("firewalld"):  # with a reload at the end
        firewalld.tell(command)
    assert until(lambda: "-A DOCKER-USER" in docker.tell("iptables -S"), 30)
    for command in advised("Docker"):
        docker.tell(command)
    sound(scene)
    firewalld.tell("firewall-cmd --reload")
    assert until(lambda: "-A DOCKER-USER" in docker.tell("iptables -S"), 30)
    time.sleep(SHORT)
    told(scene, f"table ip filter, chain FORWARD: policy drop (Docker) {BY_A_RULE}")
    assert "ux-" not in docker.tell("iptables -S")


@pytest.mark.slow
def test_rules_of_ours_outlive_docker_and_firewalld_on_one_host(aside: Aside, scenes: Callable[..., Scene]) -> None:
    firewalld, docker = Firewalld(aside), Dockerd(aside)
    scene = scenes(foreign="accept")
    sound(scene)
    for command in ("firewall-cmd --reload", "firewall-cmd --complete-reload"):
        assert scene.outage(lambda command=command: firewalld.tell(command)) < SOON, command  # type: ignore[misc]
        sound(scene)
    docker.stop()
    docker.start()
    sound(scene)


def test_rules_of_ours_in_docker_outlive_what_docker_does(aside: Aside, scenes: Callable[..., Scene]) -> None:
    docker = Dockerd(aside)
    scene = scenes(foreign="accept")
    sound(scene)
    assert "-A DOCKER-USER -i ux-+" in docker.tell("iptables -S")  # it reads them as its own
    docker.stop()
    assert scene.outage(docker.start) < SOON
    sound(scene)
    assert scene.outage(lambda: docker.tell("nft flush ruleset")) < SOON
    sound(scene)
    forwarding = ("host", "sysctl", "-n", "net.ipv4.ip_forward")
    for vpc in (A, B):
        scene.site.drop(vpc)
    assert (scene.ours_in_others(), scene.site.world.run(*forwarding)) == (0, "1\n")


def test_ufw_forwards_when_it_is_told_to(aside: Aside, scenes: Callable[..., Scene]) -> None:
    ufw = Ufw(aside)
    scene = scenes()
    opens(scene, OWN)
    assert scene.site.guests[vm_id(A, 5)].pings(WEB)  # which says little
    told(scene, *(f"table {ip} filter, chain FORWARD: policy drop (ufw) {BY_A_RULE}" for ip in ("ip", "ip6")))
    for command in advised("ufw"):
        ufw.tell(command)
    sound(scene)
    ufw.tell("ufw reload")
    sound(scene)


def test_rules_of_ours_in_ufw_outlive_what_ufw_does(aside: Aside, scenes: Callable[..., Scene]) -> None:
    ufw = Ufw(aside)
    scene = scenes(foreign="accept")
    sound(scene)
    for command in ("ufw disable", "ufw --force enable"):
        ufw.tell(command)
        sound(scene)
        assert until(lambda: scene.ours_in_others() == 4, 30)
    for vpc in (A, B):
        scene.site.drop(vpc)
    assert scene.ours_in_others() == 0


def test_nftables_service_flushes_and_uplinks_go_on(aside: Aside, scenes: Callable[..., Scene]) -> None:
    scene = scenes()
    for command in (("nft", "-f", "/etc/nftables.conf"), ("nft", "flush", "ruleset")):  # its start, reload and stop
        assert scene.outage(lambda command=command: aside.run(*command)) < SOON, command  # type: ignore[misc]
        sound(scene)


@pytest.mark.slow
def test_for_how_long_guests_are_cut_off(aside: Aside, scenes: Callable[..., Scene]) -> None:
    """For docs/performance.md: medians of five, with the agent's rules in firewalld's chain."""
    firewalld = Firewalld(aside)
    scene = scenes(foreign="accept")

    def measured(command: str) -> float:
        found = [scene.outage(lambda: firewalld.tell(command)) for _ in range(5)]
        print(f"{command}: {statistics.median(found) * 1000:.0f} ms, at most {max(found) * 1000:.0f}")
        return max(found)

    assert measured("firewall-cmd --reload") < SOON
    assert measured("firewall-cmd --complete-reload") < SOON
    firewalld.stop()
    assert measured("nft -f /etc/nftables.conf") < SOON
    assert measured("nft flush ruleset") < SOON


def test_flows_that_begin_while_the_filter_is_gone_are_led_after_it(aside: Aside, scenes: Callable[..., Scene]) -> None:
    """An entry of conntrack is never translated anew; and whoever sends datagrams on and on, keeps it."""
    scene = scenes()
    world, guest = scene.site.world, scene.site.guests[vm_id(A, 5)]
    published = {"proto": "udp", "host_port": 5353, "port": 53}
    scene.site.publish(A, 5, {"host_port": 8080, "port": 80}, published)
    with Echo(Guest(world, "web"), WEB, 4000), Echo(guest, "10.0.0.5", 53), ExitStack() as stack:
        flows: list[tuple[socket.socket, tuple[str, int]]] = []

        def begin() -> None:
            for asker, to in ((guest, (WEB, 4000)), (Guest(world, "web"), (HOST, 5353))):
                flows.append((stack.enter_context(asker.socket(socket.SOCK_DGRAM)), to))
            for line, there in flows:
                with contextlib.suppress(OSError):  # the host says that nobody listens
                    line.sendto(b"hello", there)

        flush = threading.Timer(0.1, lambda: aside.run("nft", "flush", "ruleset"))
        flush.start()
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            begin()
            time.sleep(0.004)
        flush.join()
        opens(scene, scene.ways)
        assert [to for line, to in flows if not answered(line, to)] == []


class Echo:
    """A server that sends datagrams back, in a namespace."""

    def __init__(self, guest: Guest, address: str, port: int) -> None:
        self._line = guest.socket(socket.SOCK_DGRAM)
        self._line.bind((address, port))
        self._line.settimeout(0.05)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> None:
        self._thread.start()

    def _serve(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(OSError):
                self._line.sendto(*self._line.recvfrom(100))

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._line.close()


def answered(line: socket.socket, to: tuple[str, int]) -> bool:
    """Whether what is sent now comes back, whatever came before."""
    word = secrets.token_bytes(8)
    line.settimeout(0.5)
    for _ in range(20):
        with contextlib.suppress(OSError):
            line.sendto(word, to)
            while (got := line.recv(100)) != word:
                assert got == b"hello"
            return True
    return False
