"""After the host was rebooted: who is started, with what before it, and how many at once."""

from __future__ import annotations

import threading
import time

from lvagent.config import Libvirt, Settings
from lvagent.plan.resources import Netns
from lvagent.spec.status import Action, State
from tests.e2e.specs import nic
from tests.unit.agent.fakes import OFF, FakeHost
from tests.unit.agent.test_agent import spec

COUNT = 6


def fill(host: FakeHost) -> None:
    agent = host.agent()
    for number in range(1, COUNT + 1):
        agent.put(spec(number, nic(host=4 + number)))
    agent.power("i-0000000006", Action.STOP)


def reboot(host: FakeHost) -> None:
    """The kernel and qemus are new; libvirt's definitions and the disks are as they were."""
    for one in host.domains.found.values():
        one.live, one.state = None, OFF
    host.wires.there.clear()
    host.dhcp.served.clear()
    host.metadata.served.clear()


def states(host: FakeHost) -> list[bool]:
    return [one.state.active for _, one in sorted(host.domains.found.items())]


def test_those_that_were_wanted_running_run_and_no_others(host: FakeHost) -> None:
    fill(host)
    reboot(host)
    agent = host.agent(boot_id="boot-2")
    assert states(host) == [True] * 5 + [False]
    host.domains.destroy("i-0000000001")  # by hand; it stays so
    for one in (agent, host.agent(boot_id="boot-2")):
        assert one.sweep()
        assert states(host) == [False, *[True] * 4, False]
    assert agent.vm("i-0000000001").state is State.STOPPED


def test_without_a_reboot_what_was_stopped_stays_stopped(host: FakeHost) -> None:
    fill(host)
    for vm in ("i-0000000001", "i-0000000002"):
        host.domains.destroy(vm)
    assert host.agent().sweep()
    assert states(host) == [False, False, True, True, True, False]


def test_their_network_is_there_first_and_some_start_at_once(host: FakeHost) -> None:
    fill(host)
    reboot(host)
    lock, most, now, wired, together = threading.Lock(), 0, 0, [], threading.Event()
    make = host.agent(sweep=False, boot_id="boot-2", settings=Settings(libvirt=Libvirt(starts=3)))
    plug = host.domains.hook

    def hook(vm: str, xml: str) -> None:
        nonlocal most, now
        with lock:
            wired.append(any(isinstance(one, Netns) for one in host.wires.there) and bool(host.dhcp.served))
            now += 1
            most = max(most, now)
            if now == 3:
                together.set()
        together.wait(20)  # the first ones wait for each other, be the machine ever so busy
        time.sleep(0.05)  # in which one too many would come
        plug(vm, xml)
        with lock:
            now -= 1

    host.domains.hook = hook
    assert make.sweep()
    assert (most, wired) == (3, [True] * 5)


def test_one_that_cannot_start_keeps_nobody_from_it(host: FakeHost) -> None:
    fill(host)
    reboot(host)
    host.volumes.hostile.add("/v/x.qcow2")
    config = host.domains.found["i-0000000002"]
    config.config = config.config.replace(
        '"volumes":[]', '"volumes":[{"path":"/v/x.qcow2","position":0,"readonly":false}]'
    )
    agent = host.agent(boot_id="boot-2")
    assert states(host) == [True, False, True, True, True, False]
    assert "encrypted" in str(agent.vm("i-0000000002").error)
