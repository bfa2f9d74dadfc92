"""What is open of namespaces: one of each, and none of one that is gone."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lvagent.config import FilterSettings
from lvagent.host import netns
from lvagent.host.vpcs import VpcSides

pytestmark = pytest.mark.host

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
CALLERS, ROUNDS = 8, 5


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_many_who_enter_a_vpc_at_once_open_it_once(place: Path) -> None:
    netns.create(f"{place}/{A}")
    alone = VpcSides(str(place), FilterSettings())
    before = descriptors()
    assert alone.find(A) is not None
    one = descriptors() - before
    alone.close()
    together = threading.Barrier(CALLERS)

    def enter(sides: VpcSides) -> object:
        together.wait()
        return sides.find(A)

    with ThreadPoolExecutor(CALLERS) as pool:
        for _ in range(ROUNDS):
            sides = VpcSides(str(place), FilterSettings())
            found = list(pool.map(enter, [sides] * CALLERS))
            assert len(set(map(id, found))) == 1
            assert descriptors() == before + one
            sides.close()
    assert descriptors() == before


def test_a_vpc_that_somebody_else_took_away_is_let_go_of(place: Path) -> None:
    before = descriptors()
    sides = VpcSides(str(place), FilterSettings())
    for vpc in (A, B):
        netns.create(f"{place}/{vpc}")
        assert sides.find(vpc) is not None
    both = descriptors() - before
    kept = sides.find(B)
    netns.delete(f"{place}/{A}")
    sides.tidy()
    assert descriptors() == before + both // 2
    assert sides.find(B) is kept
    sides.close()
    assert descriptors() == before
