"""What the pure part calls a filter, the kernel takes and gives back."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from lvagent.config import FilterSettings
from lvagent.errors import HostError
from lvagent.host import links, netlink
from lvagent.host import nft_read as kernel
from lvagent.host.filters import VpcFilter
from lvagent.host.netlink import NETFILTER, Message, Socket
from lvagent.host.netspace import Netspace
from lvagent.host.nft import Nft
from lvagent.plan.resources import PortFilter
from lvagent.render import nft
from lvagent.render.elements import BRIDGE_SETS, Element, Piece, by_owner
from lvagent.render.firewall import firewalls
from tests.host.net.conftest import port, wall
from tests.unit.render.nft_cases import PLAIN, RICH, SUBNET, VPC, ports

pytestmark = pytest.mark.host


def test_each_text_is_taken_and_its_digest_read(place: Path) -> None:
    context, netfilter = Nft(), Socket(NETFILTER)
    assert kernel.table_comment(netfilter) is None
    assert kernel.elements(netfilter, BRIDGE_SETS) == frozenset()
    for template in ("guard.nft.j2", "fabric.nft.j2", "vpc.nft.j2"):
        context.run(nft.base(template), "the test")
        assert kernel.table_comment(netfilter) == nft.base_digest(template)
    context.run(nft.vpc_text([PLAIN, RICH]), "the test")
    assert nft.port_filters(VPC, by_owner(kernel.elements(netfilter, BRIDGE_SETS))) == {PLAIN, RICH}
    context.close()
    netfilter.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ports)
def test_any_port_is_taken_read_back_and_taken_away(place: Path, port: PortFilter) -> None:
    context, netfilter = Nft(), Socket(NETFILTER)
    context.run(nft.base(), "the test")
    context.run(nft.change((), nft.gateway_elements(SUBNET)), "the test")
    before = kernel.elements(netfilter, BRIDGE_SETS)
    added = nft.port_elements(port)
    context.run(nft.change((), added), "the test")
    assert kernel.elements(netfilter, BRIDGE_SETS) == before | added
    context.run(nft.change(added, ()), "the test")
    assert kernel.elements(netfilter, BRIDGE_SETS) == before
    context.close()
    netfilter.close()


def test_a_refused_transaction_changes_nothing_and_says_why(place: Path) -> None:
    context, netfilter = Nft(), Socket(NETFILTER)
    context.run(nft.base(), "the test")
    absent = Element("own4", ("t0000000009-0", "10.0.0.9"))
    with pytest.raises(HostError, match=r"nft: .*No such file or directory"):
        context.run(nft.change((absent,), nft.port_elements(PLAIN)), "the test")
    assert by_owner(kernel.elements(netfilter, BRIDGE_SETS)) == {}
    context.close()
    with pytest.raises(HostError, match="closed"):
        context.run("list ruleset", "the test")
    netfilter.close()


def test_contexts_of_many_threads_do_not_disturb_each_other(place: Path) -> None:
    context, netfilter = Nft(), Socket(NETFILTER)
    context.run(nft.base(), "the test")
    failures: list[Exception] = []

    def work(number: int) -> None:
        own = Nft()
        port = PortFilter(
            VPC, "subnet-aaaaaaaaaa", f"t{number:010d}-0", f"06:00:00:00:00:{number:02x}", None, None, None, None
        )
        try:
            for _ in range(20):
                own.run(nft.change((), nft.port_elements(port)), "the test")
                own.run(nft.change(nft.port_elements(port), ()), "the test")
        except HostError as error:
            failures.append(error)
        own.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    context.close()
    netfilter.close()


def test_who_only_looks_while_a_filter_is_changed_leaves_no_rule_behind(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what he read before the change nothing is believed when the next one is made."""
    space = Netspace("")
    filters = VpcFilter(VPC, space, FilterSettings())
    closed, opened = wall(port(5), rules=()), wall(port(5))
    filters.ensure_base([closed])
    read = kernel.pieces

    def overtaken(netfilter: Socket) -> frozenset[Piece]:
        found = read(netfilter)
        monkeypatch.setattr(kernel, "pieces", read)
        filters.put([opened])
        return found

    monkeypatch.setattr(kernel, "pieces", overtaken)
    filters.read()
    filters.put([closed])
    fresh = VpcFilter(VPC, space, FilterSettings())
    assert set(firewalls(VPC, fresh.read().items())) == {closed}
    space.close()


def test_what_changes_while_it_is_read_is_read_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two parts of a list the kernel loses its place: what stays is left out, or half of a VM is there."""
    context, netfilter = Nft(), Socket(NETFILTER)
    context.run(nft.vpc_text([PLAIN]), "the test")
    dump = Socket.dump

    def torn(socket: Socket, message: Message, most: int | None = None) -> list[bytes]:
        found = dump(socket, message, most)
        monkeypatch.setattr(Socket, "dump", dump)
        context.run(nft.change((), nft.port_elements(RICH)), "the test")
        return found[1:]

    for read in (lambda: kernel.elements(netfilter, BRIDGE_SETS), lambda: kernel.pieces(netfilter)):
        monkeypatch.setattr(Socket, "dump", torn)
        assert nft.port_filters(VPC, by_owner(read())) == {PLAIN, RICH}
        context.run(nft.change(nft.port_elements(RICH), ()), "the test")
    context.close()
    netfilter.close()


def test_links_that_change_while_they_are_listed_are_listed_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says so in the flags of its answer."""
    replies = netlink._replies
    kernel_socket = Socket()
    kernel_socket.send([links.create_bridge("one", "06:00:00:00:00:01", 0)])

    def interrupted(raw: bytes) -> list[netlink._Reply]:
        monkeypatch.setattr(netlink, "_replies", replies)
        return [dataclasses.replace(replies(raw)[-1], flags=netlink._INTERRUPTED)]

    whole = kernel_socket.dump(links.get_all())
    monkeypatch.setattr(netlink, "_replies", interrupted)
    assert kernel_socket.dump(links.get_all()) == whole
    kernel_socket.close()
