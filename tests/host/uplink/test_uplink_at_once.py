"""Everything that changes what leads into VPCs and out of them, at once, beside sweeps and reads."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from lvagent.agent.index import Entry, Phase
from lvagent.errors import Conflict, NotFound
from lvagent.host import neighbours
from lvagent.plan import wanted
from lvagent.spec.vpc import UplinkMode, VpcConfig
from tests.host.uplink.conftest import ANYTHING, NAT, A, B, Site, spec_of
from tests.host.uplink.world import HOST, PORT, WEB, Guest

C = "vpc-cccccccccc"
FLOAT = "203.0.113.50"
SECONDS = 6


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_many_at_once(site: Site, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(neighbours, "INTERVAL", 0.01)
    for vpc, numbers in ((A, (5, 6)), (B, (5,))):
        site.wishes.put(vpc, NAT)
        for number in numbers:
            guest = site.guest(vpc, number, rules=[ANYTHING])
            site.world.serve(guest.name, f"10.0.0.{number}", PORT)
    networks, chance, end = site.networks, random.Random(seed), time.monotonic() + SECONDS
    passing = spec_of(C, 5, [])

    def comes_and_goes() -> None:
        site.index.adopt(Entry(passing, Phase.LIVE, applied=passing))
        networks.converge(C)
        site.wishes.put(C, NAT)
        site.publish(C, 5, {"host_port": 9000})
        networks.unpublish(passing.id)
        site.index.drop(passing.id)
        networks.converge(C)
        networks.tidy_fabric()

    def published() -> None:
        site.publish(A, 5, *[{"host_port": 8080, "port": PORT}] * chance.randrange(2))

    def ways() -> None:
        site.wishes.put(B, chance.choice((NAT, VpcConfig(uplink=UplinkMode.NONE))))

    def swept() -> None:
        networks.prepare()
        for vpc in (A, B, C):
            networks.bring(vpc)
        networks.tidy_fabric()

    def read() -> None:
        networks.transits()
        networks.trouble()
        for vpc in (A, B, C):
            networks.flows(vpc, 100)
            site.network.counted(vpc)

    def floats() -> None:
        site.float(FLOAT, *chance.choice(((A, 5), (A, 6), (B, 5))))
        if chance.random() < 0.3:
            site.floating.drop(FLOAT)

    def again(act: Callable[[], None]) -> int:
        done = 0
        while (now := time.monotonic()) < end or (not done and now < end + 60):  # once at least
            try:
                act()
                done += 1
            except (Conflict, NotFound):
                threading.Event().wait(0.01)
        return done

    acts = (comes_and_goes, published, published, ways, swept, read, floats, floats)
    with ThreadPoolExecutor(len(acts)) as pool:
        done = list(pool.map(again, acts))
    print(done)
    assert min(done) > 0
    for vpc in (A, B, C):
        networks.bring(vpc)
    for vpc in (A, B):
        assert site.network.observe(vpc) >= wanted.network(vpc, site.index.members(vpc), networks.policy)
    assert not site.network.vpcs() & {C}
    site.wishes.put(B, NAT)
    site.publish(A, 5, {"host_port": 8080, "port": PORT})
    site.float(FLOAT, B, 5)
    outside = Guest(site.world, "web")
    assert outside.ask(HOST, 8080, "in") == WEB
    assert outside.ask(FLOAT, PORT, "in") == WEB
