"""The connections to libvirt: one caller on each at a time."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator

import pytest

from lvagent.errors import NotFound, Unavailable
from lvagent.host.libvirt_lines import Lines

pytestmark = pytest.mark.host


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Two, to libvirt's test driver."""
    made = Lines("test:///default", 2)
    yield made
    made.close()


def test_callers_at_the_same_time_have_different_connections(lines: Lines) -> None:
    with lines.use("a", "read") as one, lines.use("b", "read") as other:
        assert one is not other
        assert [one.isAlive(), other.isAlive()] == [1, 1]


def test_the_connection_used_last_is_used_next(lines: Lines) -> None:
    with lines.use("a", "read") as one:
        pass
    with lines.use("a", "read") as again:
        assert again is one


def test_who_finds_none_free_waits(lines: Lines) -> None:
    entered = threading.Event()

    def third() -> None:
        with lines.use("c", "read"):
            entered.set()

    with lines.use("a", "read"), lines.use("b", "read"):
        thread = threading.Thread(target=third)
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(30)
    thread.join()


def test_an_error_gives_the_connection_back(lines: Lines) -> None:
    for _ in range(3):
        with pytest.raises(NotFound), lines.use("nobody", "read") as connection:
            connection.lookupByName("nobody")


def test_what_was_closed_is_opened_again(lines: Lines) -> None:
    with lines.use("a", "read") as one:
        assert one.isAlive() == 1
    lines.close()
    with lines.use("a", "read") as other:
        assert other.isAlive() == 1


def test_without_descriptors_libvirt_is_not_called(lines: Lines) -> None:
    """GLib would end this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 3, hard))
    held = []
    try:
        for _ in range(1000):
            try:
                held.append(os.dup(0))
            except OSError:
                break
        with pytest.raises(Unavailable, match="16 file descriptors"), lines.use("a", "read"):
            raise AssertionError("it was opened")
    finally:
        for one in held:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with lines.use("a", "read") as connection:
        assert connection.isAlive() == 1
