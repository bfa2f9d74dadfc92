"""Commands for qemu's monitors: what hangs holds nobody up, and what comes back is looked at.

libvirt's own test driver has domains and no monitors, so what sends is a small one of the test's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import libvirt
import pytest

from lvagent.errors import Conflict, HostError, MonitorError, NotFound, Unavailable
from lvagent.host.libvirt_lines import Domain
from lvagent.host.qmp import MAX_ANSWER, PLACES, Monitor
from lvagent.spec.monitor import Hmp, Qmp
from lvagent.spec.names import ELEMENT_NAMESPACE
from tests.host.test_libvirt_races import error

pytestmark = pytest.mark.host

URI = "test:///default"
STATUS = Qmp("query-status")


class Qemu:
    """Answers as a monitor would. ``answer``: what it says; ``gate``: while it is not set, it says nothing."""

    def __init__(self) -> None:
        self.answer = '{"return": {"status": "running"}, "id": "libvirt-7"}'
        self.gate = threading.Event()
        self.gate.set()
        self.seen: list[tuple[str, str, int]] = []

    def __call__(self, domain: Domain, text: str, flags: int, /) -> str:
        self.seen.append((domain.name(), text, flags))
        assert self.gate.wait(20), "the test left the gate shut"
        return self.answer


@pytest.fixture(autouse=True)
def domain() -> Iterator[Any]:
    """The test driver's domain, which runs and bears our element. There is one in this process, for all connections."""
    connection = libvirt.open(URI)
    found = connection.lookupByName("test")
    if not found.isActive():
        found.create()
    element = (libvirt.VIR_DOMAIN_METADATA_ELEMENT, "<vm/>", "lvagent", ELEMENT_NAMESPACE)
    found.setMetadata(*element, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    yield found
    connection.close()


@pytest.fixture
def qemu() -> Iterator[Qemu]:
    made = Qemu()
    yield made
    made.gate.set()


def test_what_is_sent_and_what_comes_back(qemu: Qemu) -> None:
    monitor = Monitor(URI, seconds=5, send=qemu)
    assert monitor.qmp("test", STATUS) == {"status": "running"}
    assert monitor.qmp("test", Qmp("x", {"a": [1, "\u00e9"]})) == {"status": "running"}
    qemu.answer = "VM status: running\r\n"
    assert monitor.hmp("test", Hmp("info status")) == "VM status: running\r\n"
    assert qemu.seen == [
        ("test", '{"execute": "query-status"}', 0),
        ("test", '{"execute": "x", "arguments": {"a": [1, "\\u00e9"]}}', 0),
        ("test", "info status", 1),
    ]
    monitor.close()


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        ('{"error": {"class": "CommandNotFound", "desc": "no\\nsuch"}}', MonitorError, "CommandNotFound: no such"),
        ('{"error": {}}', MonitorError, "GenericError"),
        ('{"error": 5}', HostError, "neither"),
        ("{}", HostError, "neither"),
        ("[1]", HostError, "neither"),
        ("oops", HostError, "not JSON"),
        ("[" * 100_000, HostError, "not JSON"),
        ('{"return": "' + "x" * MAX_ANSWER + '"}', MonitorError, "TooLarge"),
    ],
)
def test_what_is_no_good_answer(qemu: Qemu, answer: str, error: type[Exception], text: str) -> None:
    qemu.answer = answer
    with pytest.raises(error, match=text):
        Monitor(URI, seconds=5, send=qemu).qmp("test", STATUS)


def test_what_libvirt_says() -> None:
    real = Monitor(URI, seconds=5)
    with pytest.raises(NotFound):
        real.qmp("absent", STATUS)
    with pytest.raises(HostError, match="not supported"):
        real.qmp("test", STATUS)

    with pytest.raises(Unavailable, match="libvirtd"):
        Monitor("qemu+unix:///system?socket=/nonexistent/sock", seconds=5).qmp("test", STATUS)


def test_of_a_domain_that_is_not_ours_nothing_is_asked(qemu: Qemu, domain: Any) -> None:  # noqa: ANN401 - untyped
    monitor = Monitor(URI, seconds=5, send=qemu)
    domain.setMetadata(
        libvirt.VIR_DOMAIN_METADATA_ELEMENT, None, None, ELEMENT_NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_LIVE
    )
    with pytest.raises(Conflict, match="not of lvagent"):
        monitor.qmp("test", STATUS)
    domain.destroy()
    with pytest.raises(Conflict, match="does not run"):
        monitor.qmp("test", STATUS)
    assert qemu.seen == []


@pytest.mark.parametrize(
    "text", ["domain is no longer running", "Unable to read from monitor: Connection reset by peer"]
)
def test_of_one_that_ends_while_it_is_asked_libvirt_may_not_know_yet(text: str) -> None:
    def ends(_one: Domain, _text: str, _flags: int, /) -> str:
        raise error(libvirt.VIR_ERR_SYSTEM_ERROR, text)

    with pytest.raises(Conflict, match="test does not run"):
        Monitor(URI, seconds=5, send=ends).qmp("test", STATUS)


def test_of_one_that_ends_while_it_is_asked_it_is_told_that_it_does_not_run(qemu: Qemu, domain: Any) -> None:  # noqa: ANN401 - untyped
    def ends(one: Domain, _text: str, _flags: int, /) -> str:
        one.destroy()
        raise libvirt.libvirtError("domain is no longer running")

    with pytest.raises(Conflict, match="test does not run"):
        Monitor(URI, seconds=5, send=ends).qmp("test", STATUS)
    domain.create()


def test_one_that_hangs_is_left_after_its_time(qemu: Qemu) -> None:
    monitor = Monitor(URI, seconds=0.3, send=qemu)
    qemu.gate.clear()
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"within 0\.3 s"):
        monitor.qmp("test", STATUS)
    assert time.monotonic() - began < 15  # what hangs does so for 20
    with pytest.raises(Conflict, match="is at work"):
        monitor.qmp("test", STATUS)
    assert len(qemu.seen) == 1
    qemu.gate.set()
    until(lambda: not monitor._busy)
    monitor._seconds = 20
    assert monitor.qmp("test", STATUS) == {"status": "running"}


def test_few_hang_at_once(qemu: Qemu) -> None:
    """Each keeps a worker of libvirtd, and those are everybody's."""
    monitor = Monitor(URI, seconds=0.2, send=qemu)
    monitor._busy.update(f"vm {number}" for number in range(PLACES))
    with pytest.raises(Unavailable, match="a place"):
        monitor.qmp("test", STATUS)
    assert qemu.seen == []
    monitor._busy.clear()
    monitor._seconds = 20
    assert monitor.qmp("test", STATUS)


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)
