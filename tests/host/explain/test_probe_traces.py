"""What a probe leaves behind: nothing; also one whose agent is killed. And what it names: who is in the way."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lvagent.agent.explain import Explainer
from lvagent.host import netns
from lvagent.host.libvirt import DomainState
from lvagent.spec import names
from lvagent.spec.flow import Live, parse_flow
from lvagent.spec.status import State
from tests.host.uplink.conftest import ANYTHING, NAT, A, Site
from tests.host.uplink.conftest import place as place
from tests.host.uplink.conftest import site as site
from tests.host.uplink.conftest import sites as sites
from tests.host.uplink.world import PORT, WEB, Guest, until

pytestmark = pytest.mark.host

KILLED = """
import sys, time
from ipaddress import ip_address
from lvagent.host.entrance import Entrance
from lvagent.host.netspace import Netspace
from lvagent.host.probe import _tables
from lvagent.render.probe import Sign, table
from lvagent.spec.flow import Packet
space = Netspace(sys.argv[1])
text = table(Packet(ip_address("10.0.0.5"), ip_address("10.0.0.6"), 6, 22), Sign(1, 2, 3), [], bridged=True)
with _tables(space, text, bridged=True):
    entrance = Entrance(space, space.find([sys.argv[2]])[sys.argv[2]])
    print("there", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def pair(site: Site) -> tuple[str, str]:
    """Two guests of a VPC behind NAT; the second lets all in."""
    site.wishes.put(A, NAT)
    site.guest(A, 5)
    site.guest(A, 6, rules=[ANYTHING])
    one, two = sorted(site.guests)
    for vm in (one, two):
        site.index.observed(vm, DomainState(State.RUNNING, "", active=True))
    return one, two


def ask(site: Site, *words: object) -> Live:
    origin, target, proto, port = words
    assert isinstance(port, int | None)
    live = (
        Explainer(site.index, site.networks)
        .explain(parse_flow(str(origin), str(target), str(proto), port), live=True)
        .live
    )
    assert live is not None
    return live


def left(path: str) -> str:
    """The tables, links and qdiscs of a namespace."""
    look = "nft list tables; ip -o link | cut -d' ' -f2; tc qdisc"
    done = netns.inside(path, lambda: subprocess.run(["sh", "-c", look], check=True, capture_output=True, text=True))
    return done.stdout


def test_an_agent_that_is_killed_leaves_nothing(site: Site, pair: tuple[str, str]) -> None:
    inside = f"{site.settings.paths.netns}/{A}"
    before = left(inside)
    argv = [sys.executable, "-c", KILLED, inside, names.tap(pair[0], 0)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "there\n"
        assert "lvagent-probe" in left(inside)
        agent.send_signal(signal.SIGKILL)
    assert until(lambda: left(inside) == before)


def test_a_chain_of_somebody_else_that_drops_is_named(site: Site, pair: tuple[str, str]) -> None:
    assert ask(site, pair[0], WEB, "tcp", PORT).agrees
    hook = "{ type filter hook forward priority 5; policy drop; }"
    site.world.run("host", "nft", f"add table ip strange; add chain ip strange way {hook}")
    told = ask(site, pair[0], WEB, "tcp", PORT)
    assert (told.arrived, told.agrees) == (False, False)
    assert told.decider == "root: ip strange way: policy drop"
    site.world.run("host", "nft", "delete table ip strange")
    assert ask(site, pair[0], WEB, "tcp", PORT).agrees


def test_a_filter_that_was_tampered_with_is_found_out(site: Site, pair: tuple[str, str]) -> None:
    assert ask(site, *pair, "tcp", 22).agrees
    inside = f"{site.settings.paths.netns}/{A}"
    flush = ["nft", "flush", "chain", "inet", "lvagent", f"in-{pair[1].removeprefix('i-')}"]
    netns.inside(inside, lambda: subprocess.run(flush, check=True))
    drop = [*flush[:1], "add", "rule", *flush[3:], "counter", "drop", "comment", '"mine"']
    netns.inside(inside, lambda: subprocess.run(drop, check=True))
    told = ask(site, *pair, "tcp", 22)
    assert (told.arrived, told.agrees) == (False, False)
    assert told.decider.endswith('counter drop comment "mine"')


def test_flows_under_way_go_on(site: Site, pair: tuple[str, str]) -> None:
    guest: Guest = site.guests[pair[0]]
    site.world.serve("web", WEB, PORT)
    with guest.socket() as line:
        line.connect((WEB, PORT))
        for _ in range(3):
            assert ask(site, pair[0], WEB, "tcp", PORT).agrees
            assert ask(site, *pair, "tcp", 22).agrees
        line.sendall(b"token 0\n")
        assert line.recv(100).startswith(b"token")


def test_there_is_no_port_of_a_vm_that_is_only_said_to_run(
    site: Site, pair: tuple[str, str], guest_gone: Callable[[str], None]
) -> None:
    guest_gone(pair[1])
    told = ask(site, *pair, "tcp", 22)
    assert (told.sent, told.arrived, told.agrees) == (True, False, False)


@pytest.fixture
def guest_gone(site: Site) -> Callable[[str], None]:
    """Takes the tap of a guest away, for a moment, as if its qemu had ended and nobody knew."""

    def take(vm: str) -> None:
        inside = f"{site.settings.paths.netns}/{A}"
        down = ["ip", "link", "set", names.tap(vm, 0), "nomaster", "down"]
        netns.inside(inside, lambda: subprocess.run(down, check=True))

    return take
