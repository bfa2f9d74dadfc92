"""Places and pace: one guest's share, and no more."""

from __future__ import annotations

import random

import pytest

from lvagent.metadata.limits import Pace, Places


def test_places_are_taken_then_waited_for_then_refused() -> None:
    places: Places[str] = Places(served=2, waiting=1)
    assert [places.enter(who) for who in "abcd"] == [True, True, False, None]
    assert places.leave() == "c"
    assert places.enter("e") is False
    assert [places.leave() for _ in range(3)] == ["e", None, None]
    assert places.unused
    assert places.enter("f") is True
    assert not places.unused


def test_those_who_wait_can_be_sent_away() -> None:
    places: Places[str] = Places(served=1, waiting=2)
    assert [places.enter(who) for who in "abc"] == [True, False, False]
    assert places.empty() == ["b", "c"]
    assert places.leave() is None
    assert places.unused


@pytest.mark.parametrize("seed", range(5))
def test_never_more_than_served_and_never_a_lost_place(seed: int) -> None:
    rng = random.Random(seed)
    places: Places[int] = Places(served=3, waiting=4)
    served: set[int] = set()
    waiting: list[int] = []
    for number in range(500):
        if rng.random() < 0.55 or not served:
            entered = places.enter(number)
            assert entered is (True if len(served) < 3 else False if len(waiting) < 4 else None)
            if entered:
                served.add(number)
            elif entered is False:
                waiting.append(number)
        else:
            served.remove(rng.choice(sorted(served)))
            following = places.leave()
            assert following == (waiting.pop(0) if waiting else None)
            if following is not None:
                served.add(following)


def test_a_burst_is_free_and_then_the_rate_holds() -> None:
    now = [0.0]
    pace = Pace(rate=10, burst=3, clock=lambda: now[0])
    assert [pace.take() for _ in range(5)] == pytest.approx([0, 0, 0, 0.1, 0.2])
    now[0] = 0.2
    assert pace.take() == pytest.approx(0.1)
    now[0] = 100
    assert [pace.take() for _ in range(4)] == pytest.approx([0, 0, 0, 0.1])
