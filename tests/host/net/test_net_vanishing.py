"""What goes away between two looks: the answer says so, and the next call finds its way."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lvagent.config import Settings
from lvagent.errors import Vanished
from lvagent.host import netns, sysctl
from lvagent.host.fabric import FabricSide
from lvagent.host.links import Link
from lvagent.host.netspace import Netspace, translated
from lvagent.host.network import Network
from lvagent.host.nft import Nft
from lvagent.plan.resources import Bridge, Ruleset, Veth, Vxlan
from lvagent.spec import names
from tests.host.net.conftest import SUBNET, VPC, base, open_port, plug, port, segment

pytestmark = pytest.mark.host


def ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True)


def once(monkeypatch: pytest.MonkeyPatch, place: object, name: str, first: Callable[..., object]) -> None:
    """Have something happen right before the next call of a function."""
    function = getattr(place, name)

    def called(*args: object, **kwargs: object) -> object:
        monkeypatch.setattr(place, name, function)
        first(*args)
        return function(*args, **kwargs)

    monkeypatch.setattr(place, name, called)


def test_a_bridge_that_somebody_deletes_while_it_is_made(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    network.ensure(base())
    once(monkeypatch, sysctl, "ipv6_on", lambda bridge: ip("link", "del", bridge))
    with pytest.raises(Vanished, match="no such link"):
        network.ensure(segment())
    once(monkeypatch, Netspace, "addresses", lambda space: space.inside(lambda: ip("link", "del", "br-aaaaaaaaaa")))
    with pytest.raises(Vanished, match="set br-aaaaaaaaaa"):
        network.ensure(segment())
    network.ensure(segment())
    assert {*base(), *segment()} <= network.observe(VPC)


def test_a_link_that_is_gone_when_it_is_looked_for_again(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    network.ensure(base())
    gone = names.veth_inner(SUBNET)
    links = Netspace.links

    def without(space: Netspace) -> dict[str, Link]:
        found = links(space)
        found.pop(gone, None)
        return found

    monkeypatch.setattr(Netspace, "links", without)
    with pytest.raises(Vanished, match=f"find {gone}: No such device"):
        network.ensure(segment())


def test_the_outer_end_of_a_dead_vpc_that_ends_while_it_is_taken_away(
    network: Network, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.ensure([*base(), *segment()])
    fabric = f"{settings.paths.netns}/lvfabric"
    crossing = [one for one in segment() if isinstance(one, Bridge | Vxlan | Veth)]
    once(
        monkeypatch,
        FabricSide,
        "_refuse_used",
        lambda *_: netns.inside(fabric, lambda: ip("link", "del", names.veth_outer(SUBNET))),
    )
    network.remove(crossing)
    assert not {*crossing} & network.observe(VPC)


def test_a_filter_that_somebody_flushes_while_it_is_taken_away(
    settings: Settings, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.ensure(base())
    path = f"{settings.paths.netns}/{VPC}"

    def flush(_context: Nft, *_args: object) -> None:
        netns.inside(path, lambda: subprocess.run(["nft", "flush", "ruleset"], check=True))

    once(monkeypatch, Nft, "run", flush)
    network.remove([one for one in base() if isinstance(one, Ruleset)])
    assert not [one for one in network.observe(VPC) if isinstance(one, Ruleset)]


def test_a_vpc_or_a_tap_that_is_not_there_any_more(network: Network) -> None:
    with pytest.raises(Vanished, match="there is no such namespace"):
        network.plug(open_port(port(5)), plug(port(5)))
    network.ensure([*base(), *segment()])
    with pytest.raises(Vanished, match="there is no such tap"):
        network.plug(open_port(port(5)), plug(port(5)))


def test_a_name_that_somebody_takes_away_while_it_is_taken_away(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exists, path = netns.exists, f"{place}/{VPC}"
    netns.create(path)

    def seen(name: str) -> bool:
        there = exists(name)
        monkeypatch.setattr(netns, "exists", exists)
        subprocess.run(["umount", name], check=True)
        return there

    monkeypatch.setattr(netns, "exists", seen)
    netns.delete(path)
    assert not (place / VPC).exists()


def test_what_the_kernel_says_of_what_is_gone(settings: Settings) -> None:
    with pytest.raises(Vanished, match="there is no such namespace") as refused, translated("a namespace", "enter"):
        netns.inside(f"{settings.paths.netns}/{VPC}", lambda: None)
    assert (refused.value.status, refused.value.kind) == (503, "unavailable")
    assert "try again" in refused.value.hint
    with pytest.raises(OSError, match="there is no such link") as told:
        sysctl.ipv6_off("nosuchlink")
    assert told.value.errno == errno.ENODEV
    with pytest.raises(FileNotFoundError):
        sysctl.write({"ipv4/conf/lo/no_such_sysctl": 1})
