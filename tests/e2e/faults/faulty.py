"""A host whose agent fails where it is told to."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException

from tests.e2e.faults.state import State, look
from tests.e2e.specs import Spec, nic, vm
from tests.lab.host import LabError, LabHost

SUBJECT, NEIGHBOUR = "i-0000000002", "i-0000000001"
FILE = "/run/lvagent/failpoints"
AGENT = {
    "LVAGENT_SWEEP_INTERVAL": "1",
    "LVAGENT_GUESTS_FAST_CAPABILITIES": "1",
    "LVAGENT_FAILPOINTS": FILE,
}
BOOT_ID = "/proc/sys/kernel/random/boot_id"
READ_SECONDS = 10.0
"""How long a read may take while an operation hangs; the machine may be busy with many guests."""


def agrees(one: State, others: tuple[State, ...]) -> bool:
    """Whether it is one of them; one that tells nothing is compared without what the API tells."""
    return any(not (one if other.told else dataclasses.replace(one, told=())).difference(other) for other in others)


@dataclass(slots=True)
class Faulty:
    """The lab, with words for what is done here. One VM, the neighbour, is never touched."""

    lab: LabHost
    booted: bool = False
    known: dict[str, tuple[State, State]] = field(default_factory=dict)

    # what is asked of the agent

    def put(self, spec: Spec) -> int:
        return self.lab.api("PUT", f"/v1/vms/{spec['id']}", spec).status

    def act(self, action: str) -> int:
        return self.lab.api("POST", f"/v1/vms/{SUBJECT}/{action}").status

    def peer(self, method: str, one: str, other: str) -> int:
        return self.lab.api(method, f"/v1/peerings/{one}/{other}").status

    def delete(self) -> int:
        return self.lab.api("DELETE", f"/v1/vms/{SUBJECT}?volumes=delete").status

    def want(self, vpc: str, wish: dict[str, object] | None) -> int:
        """Want this of a VPC; None: nothing any more."""
        return self.lab.api("DELETE" if wish is None else "PUT", f"/v1/vpcs/{vpc}", wish).status

    def publish(self, *ports: int) -> int:
        """Have these ports of the host lead to the neighbour."""
        return self.lab.api("PUT", f"/v1/vms/{NEIGHBOUR}/ports", [{"host_port": port} for port in ports]).status

    def float(self, address: str, *, on: bool = True) -> int:
        """Lead an address to the neighbour, or nowhere."""
        return self.lab.api(
            "PUT" if on else "DELETE", f"/v1/floating/{address}", {"vm": NEIGHBOUR} if on else None
        ).status

    # what happens to it

    def arm(self, *lines: str) -> None:
        """Write the file of failpoints, whole at any moment."""
        new = self.lab.path(f"{FILE}-new")
        new.touch(mode=0o600)
        new.write_text("".join(f"{line}\n" for line in lines))
        new.rename(self.lab.path(FILE))

    def armed(self) -> list[str]:
        return self.lab.path(FILE).read_text().splitlines()

    def start(self, *, wait: float = 90) -> None:
        self.lab.start_agent(AGENT, wait=wait)

    def revive(self) -> None:
        """Start the agent again if it has ended, nothing armed."""
        self.arm()
        if not self.lab.agent_pid:
            self.ended()
            self.start()

    def await_end(self) -> None:
        """Wait until the agent has ended by itself."""
        self.until(lambda: not self.lab.agent_pid, "the agent goes on")
        self.ended()

    def ended(self) -> None:
        """Wait for who waited for an agent that has ended."""
        with contextlib.suppress(LabError):
            self.lab.kill_agent()

    def swept(self) -> None:
        """A sweep that began after the call has ended."""
        time.sleep(2.2)

    def until(self, what: Callable[[], object], why: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, f"{why}\n{self.lab.agent_log(3000)}"
            time.sleep(0.01)

    def other_boot(self) -> None:
        """Let the kernel say another boot id."""
        self.lab.path("/run/boot_id").write_text("0" * 8 + "-0000-4000-8000-" + "0" * 12 + "\n")
        self.lab.run(["mount", "--bind", "/run/boot_id", BOOT_ID])
        self.booted = True

    def same_boot(self) -> None:
        if self.booted:
            self.lab.run(["umount", BOOT_ID])
            self.lab.path("/run/boot_id").unlink()
            self.booted = False

    # what there is

    def clear(self) -> None:
        """Bring the host to its beginning: an agent, and the neighbour."""
        if self.booted and self.lab.agent_pid:
            self.lab.kill_agent(signal.SIGKILL)
        self.same_boot()
        self.revive()
        for one in self.lab.api("GET", "/v1/peerings").json["items"]:
            self.until(lambda one=one: self.peer("DELETE", one["a"], one["b"]) in (204, 404), "it cannot be parted")
        for one in self.lab.api("GET", "/v1/vms").json["items"]:
            if one["id"] != NEIGHBOUR:
                self.until(lambda: self.delete() in (204, 404), "it cannot be deleted")
        for one in self.lab.api("GET", "/v1/floating").json["items"]:
            assert self.float(one["address"], on=False) == 204
        if self.lab.api("GET", "/v1/vms").json["items"]:
            assert self.publish() == 200
        for one in self.lab.api("GET", "/v1/vpcs").json["items"]:
            self.want(one["name"], None)
        if not self.lab.api("GET", "/v1/vms").json["items"]:
            assert self.put(vm(1, nic(host=5))) == 201
        for left in self.lab.path("/var/lib/lvagent/volumes").glob("*.qcow2"):
            left.unlink()

    def steady(self) -> State:
        """The host when it changes no more: bridges lose their carrier a moment after their last port."""
        seen = look(self.lab)
        time.sleep(0.3)
        while (now := look(self.lab)).difference(seen):
            seen = now
            time.sleep(0.3)
        return seen

    def settles(self, *wanted: State) -> None:
        """The host is, within some sweeps, as one of these."""
        seen: list[State] = []
        trouble = ""

        def fits() -> bool:
            nonlocal trouble
            try:
                seen[:] = [look(self.lab)]
            except AssertionError as error:  # what was listed was gone when it was looked at
                trouble = str(error)
                return False
            return agrees(seen[0], wanted)

        deadline = time.monotonic() + 40
        while not fits():
            if time.monotonic() > deadline:
                apart = "\n-- or --\n".join(one.told_apart(seen[0]) for one in wanted) if seen else trouble
                raise AssertionError(f"{apart}\n{self.lab.agent_log(3000)}")
            time.sleep(0.3)


class Call:
    """An operation under way beside the test. ``status`` when it has ended; 0: the agent went away."""

    def __init__(self, do: Callable[[], int]) -> None:
        self.status = 0
        self._thread = threading.Thread(target=self._run, args=(do,))
        self._thread.start()

    def _run(self, do: Callable[[], int]) -> None:
        with contextlib.suppress(OSError, ValueError, HTTPException):
            self.status = do()

    def join(self) -> int:
        self._thread.join(120)
        assert not self._thread.is_alive()
        return self.status
