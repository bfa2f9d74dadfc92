"""What is remembered, and for how long."""

from __future__ import annotations

import pytest

from lvagent.memo import Memo, forget_unasked, remembered


class Squares:
    """Notes what it was asked to work out."""

    def __init__(self) -> None:
        self.worked_out: list[int] = []

    def __call__(self, number: int) -> int:
        self.worked_out.append(number)
        if number < 0:
            raise ValueError(number)
        return number * number


def test_what_was_worked_out_is_not_worked_out_again() -> None:
    squares = Squares()
    memo = Memo(squares, 10)
    assert [memo(2), memo(3), memo(2), memo(3)] == [4, 9, 4, 9]
    assert squares.worked_out == [2, 3]


def test_what_is_asked_for_in_each_generation_stays() -> None:
    squares = Squares()
    memo = Memo(squares, 10)
    for _ in range(5):
        assert memo(2) == 4
        memo.age()
    assert squares.worked_out == [2]


def test_what_nobody_asks_for_goes() -> None:
    squares = Squares()
    memo = Memo(squares, 10)
    memo(2)
    memo.age()
    assert len(memo) == 1
    memo.age()
    assert len(memo) == 0
    memo(2)
    assert squares.worked_out == [2, 2]


def test_keys_that_never_come_back_leave_no_more_than_two_generations() -> None:
    memo = Memo(Squares(), 10)
    for number in range(1000):
        memo(number)
    assert len(memo) == 20


def test_a_failure_is_not_remembered() -> None:
    squares = Squares()
    memo = Memo(squares, 10)
    for _ in range(2):
        with pytest.raises(ValueError):
            memo(-1)
    assert squares.worked_out == [-1, -1]
    assert len(memo) == 0


def test_all_functions_forget_together() -> None:
    @remembered(10)
    def double(number: int) -> int:
        """Twice as much."""
        return 2 * number

    assert double(2) == 4
    assert double.__doc__ == "Twice as much."
    forget_unasked()
    assert len(double) == 1
    forget_unasked()
    assert len(double) == 0


def test_the_arguments_are_told_by_position() -> None:
    def apart(first: int, second: int) -> int:
        return first - second

    memo = Memo(apart, 10)
    with pytest.raises(AssertionError):
        memo(first=2, second=1)
    assert (memo(1, 2), memo(2, 1)) == (-1, 1)
