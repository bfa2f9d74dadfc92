"""What happens to VMs, made up: the API, hands with virsh, crashes of the agent, libvirtd that comes and goes.

The model knows which VMs are there and which run. After each step the agent, libvirt, the kernel and dnsmasq must agree
about them, within a sweep or two.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.e2e.faults.agreement import disagreement
from tests.e2e.faults.faulty import Faulty
from tests.e2e.faults.operations import A, B, C
from tests.e2e.specs import Spec, nic, vm
from tests.lab.host import LabHost

pytestmark = pytest.mark.e2e

RUNS, STEPS = 8, 7
MANY_RUNS, MANY_STEPS = 60, 15
SECONDS = 40
NUMBERS = (2, 3)

PLACES = {
    "one": lambda n: [nic(A, host=10 + n)],
    "two": lambda n: [nic(A, host=10 + n), nic(B, "subnet-bbbbbbbbbb", net=1, vni=0, host=10 + n, position=1)],
    "away": lambda n: [nic(C, "subnet-cccccccccc", net=2, vni=300, host=10 + n)],
}
"""Where a VM may have its NICs."""


def spec(number: int, place: str, rules: int) -> Spec:
    return vm(number, *PLACES[place](number), rules=[{"proto": "tcp", "port": 80 + i} for i in range(rules)])


numbers = st.sampled_from(NUMBERS)
wishes = st.tuples(numbers, st.sampled_from(sorted(PLACES)), st.integers(0, 2))


def without_element(xml: str) -> str:
    """A domain's XML without its metadata."""
    begin, end = xml.index("<metadata>"), xml.index("</metadata>") + len("</metadata>")
    return xml[:begin] + xml[end:]


class Model(RuleBasedStateMachine):
    """``faulty`` is set by the test."""

    faulty: Faulty

    def __init__(self) -> None:
        super().__init__()
        self.faulty.clear()
        self.specs: dict[str, Spec] = {}
        self.running: dict[str, bool] = {}

    @property
    def lab(self) -> LabHost:
        return self.faulty.lab

    def agree(self) -> None:
        """All say the same, and what the model says."""
        self.wait(lambda: disagreement(self.lab))
        self.wait(lambda: [] if self.told() == self.running else [f"model {self.running}, told {self.told()}"])

    def wait(self, wrong: Callable[[], list[str]]) -> None:
        deadline = time.monotonic() + SECONDS
        while found := wrong():
            assert time.monotonic() < deadline, "\n".join([*found, self.lab.agent_log(2500)])
            time.sleep(0.1)

    def told(self) -> dict[str, bool]:
        vms = self.lab.api("GET", "/v1/vms").json["items"]
        return {one["id"]: one["state"] == "running" for one in vms if one["id"] != "i-0000000001"}

    def ask(self, method: str, path: str, body: object = None) -> int:
        status = self.lab.api(method, path, body).status
        assert isinstance(status, int)
        return status

    # the API

    @rule(wish=wishes)
    def put(self, wish: tuple[int, str, int]) -> None:
        wanted = spec(*wish)
        name = wanted["id"]
        known = name in self.specs
        assert self.faulty.put(wanted) == (200 if known else 201)
        self.specs[name] = wanted
        self.running.setdefault(name, True)
        self.agree()

    @rule(number=numbers)
    def delete(self, number: int) -> None:
        name = f"i-{number:010}"
        assert self.ask("DELETE", f"/v1/vms/{name}") == (204 if name in self.specs else 404)
        self.gone(name)

    def gone(self, name: str) -> None:
        self.specs.pop(name, None)
        self.running.pop(name, None)
        self.agree()

    @rule(number=numbers, action=st.sampled_from(["start", "stop"]))
    def power(self, number: int, action: str) -> None:
        name = f"i-{number:010}"
        assert self.ask("POST", f"/v1/vms/{name}/{action}") == (200 if name in self.specs else 404)
        if name in self.running:
            self.running[name] = action == "start"
        self.agree()

    # hands

    @rule(number=numbers)
    def virsh_power(self, number: int) -> None:
        name = f"i-{number:010}"
        if name in self.running:
            self.lab.virsh("destroy" if self.running[name] else "start", name)
            self.running[name] = not self.running[name]
            self.agree()

    @rule(number=numbers)
    def virsh_undefine(self, number: int) -> None:
        """A stopped one is gone; one that runs goes on, and can be deleted."""
        name = f"i-{number:010}"
        if name in self.specs:
            self.lab.virsh("undefine", name)
            if self.running[name]:
                self.agree()
                assert self.ask("DELETE", f"/v1/vms/{name}") == 204
            self.gone(name)

    def define(self, xml: str) -> None:
        self.lab.path("/run/by-hand.xml").write_text(xml)
        self.lab.virsh("define", "/run/by-hand.xml")
        self.lab.path("/run/by-hand.xml").unlink()

    @rule(number=numbers, place=st.sampled_from(sorted(PLACES)))
    def define_old_xml(self, number: int, place: str) -> None:
        """Shown and not obeyed; the next PUT puts it right."""
        name = f"i-{number:010}"
        if name in self.specs:
            old = self.lab.virsh("dumpxml", "--inactive", name).stdout
            self.put((number, place, 1))
            self.put((number, place, 2))
            self.define(old)
            self.agree()
            self.put((number, place, 2))
            assert self.lab.virsh("dumpxml", "--inactive", name).stdout != old

    @rule(number=numbers)
    def edit_the_element_away(self, number: int) -> None:
        """One that runs is ours as long as it runs; one that does not is nobody's any more, and not touched."""
        name = f"i-{number:010}"
        if name not in self.specs:
            return
        self.define(without_element(self.lab.virsh("dumpxml", "--inactive", name).stdout))
        if self.running[name]:
            self.agree()
            assert self.faulty.put(self.specs[name]) == 200
            self.agree()
            return
        self.wait(lambda: [name] if name in self.told() else [])
        assert name in self.lab.virsh("list", "--all", "--name").stdout.split()
        self.lab.virsh("undefine", name)
        self.gone(name)

    # crashes

    @rule()
    def crash(self) -> None:
        self.lab.kill_agent(signal.SIGKILL)
        self.faulty.start()
        self.agree()

    @rule(killed=st.booleans())
    def restart_libvirtd(self, killed: bool) -> None:
        (self.lab.kill_libvirtd if killed else self.lab.stop_libvirtd)()
        self.lab.start_libvirtd()
        self.faulty.until(lambda: self.lab.api("GET", "/readyz").status == 200, "it does not see libvirtd")
        self.agree()

    def teardown(self) -> None:
        """The last sweeps change nothing; the next run begins on an empty host."""
        self.faulty.swept()
        self.agree()
        for name in list(self.specs):
            assert self.ask("DELETE", f"/v1/vms/{name}") == 204


def happen(faulty: Faulty, runs: int, steps: int, number: int) -> None:
    """So many runs of so many steps; the same for the same ``number``."""
    print(f"{runs} runs, --fuzz-seed {number}")
    machine = seed(number)(type("ModelHere", (Model,), {"faulty": faulty}))
    how = settings(
        max_examples=runs, stateful_step_count=steps, database=None, deadline=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=how)


def test_all_agree_whatever_happens(faulty: Faulty, fuzz_seed: int) -> None:
    happen(faulty, RUNS, STEPS, fuzz_seed)


@pytest.mark.slow
@pytest.mark.faults
def test_all_agree_for_long(faulty: Faulty, fuzz_seed: int) -> None:
    happen(faulty, MANY_RUNS, MANY_STEPS, fuzz_seed + 1)
