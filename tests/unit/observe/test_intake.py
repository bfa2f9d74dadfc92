"""Between libvirt's event thread and the others: nothing waits, and what is lost is marked."""

from __future__ import annotations

import threading

import libvirt
import pytest

from lvagent.observe import words
from lvagent.observe.intake import Batch, Event, Intake

VM = "i-0000000001"


def event(number: int) -> Event:
    return Event(VM, "rtc-change", {"seconds": number})


def test_all_that_waits_is_taken_at_once() -> None:
    intake = Intake()
    intake.put(event(1))
    intake.put(event(2))
    assert intake.take() == Batch((event(1), event(2)))
    intake.mark("lost")
    assert intake.take() == Batch((), "lost")


def test_a_full_one_is_marked_and_makes_nobody_wait() -> None:
    intake = Intake(most=2)
    for number in range(5):
        intake.put(event(number))
    assert intake.take() == Batch((event(0), event(1)), "too many events at once")
    intake.put(event(6))
    assert intake.take() == Batch((event(6),))


def test_a_closed_one_gives_what_it_has_then_nothing() -> None:
    intake = Intake()
    intake.put(event(1))
    intake.close()
    assert (intake.take(), intake.take()) == (Batch((event(1),)), None)


def test_who_waits_is_woken() -> None:
    intake = Intake()
    found: list[Batch | None] = []
    waiting = threading.Thread(target=lambda: found.append(intake.take()))
    waiting.start()
    intake.put(event(1))
    waiting.join(30)
    assert found == [Batch((event(1),))]


@pytest.mark.parametrize(
    ("event", "detail", "told"),
    [
        (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED, ("stopped", "crashed")),
        (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN, ("stopped", "shut down")),
        (
            libvirt.VIR_DOMAIN_EVENT_STOPPED,
            libvirt.VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT,
            ("stopped", "from snapshot"),
        ),
        (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_WAKEUP, ("started", "woken up")),
        (
            libvirt.VIR_DOMAIN_EVENT_DEFINED,
            libvirt.VIR_DOMAIN_EVENT_DEFINED_FROM_SNAPSHOT,
            ("defined", "from snapshot"),
        ),
        (libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_HOST, ("shutdown", "by the host")),
        (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_WATCHDOG, ("suspended", "watchdog")),
        (libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_POSTCOPY, ("resumed", "postcopy")),
        (99, 0, ("event 99", "0")),
        (libvirt.VIR_DOMAIN_EVENT_STOPPED, 99, ("stopped", "99")),
    ],
)
def test_the_life_of_a_domain_in_words(event: int, detail: int, told: tuple[str, str]) -> None:
    assert words.lifecycle(event, detail) == {"event": told[0], "detail": told[1]}


@pytest.mark.parametrize(
    ("ident", "values", "told"),
    [
        (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, (), {}),
        (
            libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON,
            ("/secret/path", "virtio-disk0", libvirt.VIR_DOMAIN_EVENT_IO_ERROR_PAUSE, "enospc"),
            {"device": "virtio-disk0", "action": "pause", "reason": "enospc"},
        ),
        (
            libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
            ("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT, libvirt.VIR_DOMAIN_BLOCK_JOB_CANCELED),
            {"device": "vda", "job": "commit", "status": "cancelled"},
        ),
        (libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG, (libvirt.VIR_DOMAIN_EVENT_WATCHDOG_RESET,), {"action": "reset"}),
        (
            libvirt.VIR_DOMAIN_EVENT_ID_TRAY_CHANGE,
            ("sata0-0-0", libvirt.VIR_DOMAIN_EVENT_TRAY_CHANGE_CLOSE),
            {"device": "sata0-0-0", "change": "close"},
        ),
        (
            libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
            (
                libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_DISCONNECTED,
                libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_REASON_CHANNEL,
            ),
            {"state": "disconnected", "reason": "channel"},
        ),
        (
            libvirt.VIR_DOMAIN_EVENT_ID_MEMORY_FAILURE,
            (
                libvirt.VIR_DOMAIN_EVENT_MEMORY_FAILURE_RECIPIENT_GUEST,
                libvirt.VIR_DOMAIN_EVENT_MEMORY_FAILURE_ACTION_RESET,
                0,
            ),
            {"recipient": "guest", "action": "reset"},
        ),
        (libvirt.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION, (3,), {"iteration": 3}),
    ],
)
def test_other_events_in_words(ident: int, values: tuple[object, ...], told: dict[str, object]) -> None:
    assert words.KINDS[ident].detail(values) == told
