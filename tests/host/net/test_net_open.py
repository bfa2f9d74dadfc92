"""What is open of namespaces: one of each, and none of one that is gone."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lvagent.config import FilterSettings
from lvagent.host import netns, vpcs
from lvagent.host.netspace import Netspace, open_named
from lvagent.host.vpcs import VpcSides

pytestmark = pytest.mark.host

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
CALLERS, ROUNDS = 8, 5


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """What tests before left open in circles is closed; what is left by these must be closed without the collector."""
    gc.collect()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_many_who_enter_a_vpc_at_once_open_it_once(place: Path) -> None:
    netns.create(f"{place}/{A}")
    alone = VpcSides(str(place), FilterSettings())
    before = descriptors()
    assert alone.find(A) is not None
    one = descriptors() - before
    alone.close()
    assert descriptors() == before
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
            del found
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
    del kept
    assert descriptors() == before


def test_who_is_at_work_in_a_vpc_that_is_taken_away_stays_in_it(place: Path) -> None:
    before = descriptors()
    sides = VpcSides(str(place), FilterSettings())
    netns.create(f"{place}/{A}")
    reader = sides.needed(A)
    sides.remove(A)
    taken = [
        os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC) for _ in range(4)
    ]  # would be the reader's numbers
    assert reader.space.inside(lambda: os.stat("/proc/thread-self/ns/net").st_ino) == reader.space.inode
    assert set(reader.space.links()) == {"lo"}
    reader.space.nft.run("list ruleset", A)
    for each in taken:
        os.close(each)
    del reader
    assert descriptors() == before


def test_what_a_late_reader_opened_is_not_taken_for_what_has_the_name_now(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wirer opens the new one while the reader, a step ahead of him, tells of the old one."""
    sides = VpcSides(str(place), FilterSettings())
    path = f"{place}/{A}"
    netns.create(path)
    opened, replaced, told = threading.Event(), threading.Event(), threading.Event()

    def by_turns(name: str) -> Netspace | None:
        space = open_named(name)
        if threading.current_thread() is threading.main_thread():
            replaced.set()
            assert told.wait(30)
        else:
            opened.set()
            assert replaced.wait(30)
        return space

    def read() -> None:
        sides.find(A)
        told.set()

    monkeypatch.setattr(vpcs, "open_named", by_turns)
    reader = threading.Thread(target=read)
    reader.start()
    assert opened.wait(30)
    netns.delete(path)
    netns.create(path)
    assert sides.needed(A).space.inode == netns.inode(path)
    reader.join()


def test_a_vpc_that_is_looked_at_while_it_is_taken_away_is_not_kept_open(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descriptors()
    sides = VpcSides(str(place), FilterSettings())
    netns.create(f"{place}/{A}")
    delete = netns.delete

    def looked_at(path: str) -> None:
        assert sides.find(A) is not None
        delete(path)

    monkeypatch.setattr(netns, "delete", looked_at)
    sides.remove(A)
    assert descriptors() == before


def test_readers_of_vpcs_that_come_and_go_read_them_whole_or_not_at_all(place: Path) -> None:
    before = descriptors()
    sides = VpcSides(str(place), FilterSettings())
    over = threading.Event()
    seen = [0] * 4

    def read(number: int, vpc: str) -> None:
        while not over.is_set():
            side = sides.find(vpc)
            if side is not None:
                assert "lo" in side.space.links()
                assert side.space.inside(lambda: os.stat("/proc/thread-self/ns/net").st_ino) == side.space.inode
                seen[number] += 1

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, number, vpc) for number, vpc in enumerate((A, B, A, B))]
        try:
            for count in range(1000):  # on a busy machine one may hardly meet what the other makes
                if count >= 20 and all(seen):
                    break
                for vpc in (A, B):
                    netns.create(f"{place}/{vpc}")
                    sides.needed(vpc)
                for vpc in (A, B):
                    sides.remove(vpc)
        finally:
            over.set()
        for reader in readers:
            reader.result()
    assert all(seen)
    del reader, readers
    sides.close()
    assert descriptors() == before
