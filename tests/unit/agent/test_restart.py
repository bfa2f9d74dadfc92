"""When a VM is started again: bounds that hold whatever happens, and the exact times of the plain case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvagent.agent import restart
from lvagent.agent.restart import FIRST, MOST, WINDOW, Tries
from lvagent.spec.vm import Restart


@pytest.mark.parametrize(
    ("policy", "crashed", "shut_down"),
    [(Restart.NEVER, False, False), (Restart.ON_FAILURE, True, False), (Restart.ALWAYS, True, True)],
)
def test_what_a_policy_covers(policy: Restart, crashed: bool, shut_down: bool) -> None:
    assert restart.covers(policy, crashed=True) is crashed
    assert restart.covers(policy, crashed=False) is shut_down


def test_each_try_waits_twice_as_long_and_the_sixth_end_is_the_last() -> None:
    tries, now, pauses = Tries(), 0.0, []
    for _ in range(MOST):
        tries = restart.ended(tries, now, "it crashed")
        assert tries.due is not None
        pauses.append(tries.due - now)
        now = tries.due
        tries = restart.tried(restart.begun(tries, now))
    tries = restart.ended(tries, now, "it crashed")
    assert pauses == [1, 2, 4, 8, 16]
    assert (tries.given_up, tries.due) == (True, None)
    assert tries.failure == "given up: started again 5 times within 10 minutes, and ended again: it crashed"
    assert restart.ended(tries, now + 10 * WINDOW, "again") == tries


def test_who_ran_long_enough_begins_anew() -> None:
    tries = Tries(begun=(0.0, 1.0, 2.0, 3.0, 4.0))
    assert restart.ended(tries, WINDOW - 0.5, "x").given_up
    assert restart.ended(tries, WINDOW + 4.5, "x") == Tries(due=WINDOW + 4.5 + FIRST, reason="x")


def test_an_end_that_is_told_twice_is_one() -> None:
    once = restart.ended(Tries(), 5, "a")
    assert restart.ended(once, 7, "b") is once
    under_way = restart.begun(once, 6)
    assert restart.ended(under_way, 6.5, "b") is under_way


def test_what_could_not_be_tried_does_not_count() -> None:
    tries = restart.begun(restart.ended(Tries(), 0, "a"), 1)
    assert restart.put_off(tries, 2) == Tries(due=3.0, reason="a")


steps = st.lists(st.tuples(st.sampled_from(["end", "begin", "tried", "put off"]), st.floats(0, 200)), max_size=80)


@given(steps)
def test_there_are_never_more_tries_in_a_window_than_allowed(steps: list[tuple[str, float]]) -> None:
    tries, now = Tries(), 0.0
    begun: list[float] = []
    for what, pause in steps:
        now += pause
        if what == "end":
            before, tries = tries, restart.ended(tries, now, "x")
            fresh = tries.due is not None and before.due is None
            assert not fresh or FIRST - 1e-6 <= (tries.due or 0) - now <= FIRST * 2 ** (MOST - 1) + 1e-6
        elif what == "begin" and tries.due is not None and tries.due <= now:
            tries = restart.begun(tries, now)
            begun.append(now)
        elif what == "tried":
            tries = restart.tried(tries)
        elif what == "put off" and tries.trying:
            tries = restart.put_off(tries, now)
            begun.pop()
        assert not (tries.given_up and (tries.due is not None or tries.trying))
        assert sum(1 for at in begun if at > now - WINDOW) <= MOST
        assert len(tries.begun) <= MOST
