"""What ``explain`` says, what the probe sees and what really happens are one: flows and VPCs made up at random."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable

import pytest

from lvagent.errors import SpecError
from lvagent.host import netns
from lvagent.spec.flow import Stage
from tests.host.explain.scene import ROUTED, VPCS, Scene
from tests.host.net.conftest import Guest
from tests.host.net.conftest import guest as guest
from tests.host.uplink.conftest import Site
from tests.host.uplink.conftest import place as place
from tests.host.uplink.conftest import sites as sites
from tests.host.uplink.world import DENIED

pytestmark = pytest.mark.host

DENY = (f"{DENIED}/32", "192.168.0.0/16")


def run(
    sites: Callable[..., Site], guest: Callable[[str], Guest], seed: int, flows: int, *, joined: bool = False
) -> None:
    """Make up a scene and so many flows in it, and compare."""
    scene = Scene(sites(deny=DENY, routed=ROUTED), guest, random.Random(seed), joined=joined)
    before = left(scene)
    allowed, met = 0, set[Stage]()
    try:
        for number in range(flows):
            flow = scene.flow()
            try:
                told = scene.explain(flow)
            except SpecError:  # of what leads back to its sender nothing is said
                continue
            met |= {step.stage for step in told.walk.steps}
            case = f"seed {seed}, flow {number}: {flow}, from {flow.source}: {told.walk.why}; {told.live}"
            assert scene.flows() == [], case
            assert told.live is not None
            assert told.live.agrees is not False, case
            if told.live.sent:
                assert scene.happens(told.walk) == told.walk.allowed, case
                allowed += told.walk.allowed
        assert left(scene) == before
    finally:
        scene.close()
    assert allowed >= flows // 10, "hardly any flow was allowed: that shows nothing"
    assert not joined or {Stage.PEERING, Stage.INWARD} <= met


def left(scene: Scene) -> list[str]:
    """The tables and links of all namespaces."""
    look = "nft list tables; ip -o link | cut -d' ' -f2; tc qdisc"
    shown = []
    for vpc in ("", *VPCS):
        done = netns.inside(
            scene.path(vpc),
            lambda: subprocess.run(["sh", "-c", look], check=True, capture_output=True, text=True, timeout=30),
        )
        shown.append(done.stdout)
    return shown


def test_what_is_told_is_so(sites: Callable[..., Site], guest: Callable[[str], Guest]) -> None:
    run(sites, guest, seed=1, flows=18)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 10))
def test_what_is_told_is_so_at_length(sites: Callable[..., Site], guest: Callable[[str], Guest], seed: int) -> None:
    run(sites, guest, seed=seed, flows=25)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 16))
def test_what_is_told_of_vpcs_that_are_joined_is_so(
    sites: Callable[..., Site], guest: Callable[[str], Guest], seed: int
) -> None:
    run(sites, guest, seed=seed, flows=30, joined=True)
