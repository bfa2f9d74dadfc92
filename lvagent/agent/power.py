"""Power: what a caller may do to a VM that is there. The caller holds the VM's lock."""

from __future__ import annotations

import dataclasses

from lvagent.agent.index import Entry, Index, Phase
from lvagent.agent.ports import Domains, VolumeFolders
from lvagent.agent.trace import Trace
from lvagent.agent.undo import Undo
from lvagent.agent.vms import Vms
from lvagent.errors import Conflict, HostError, NotFound
from lvagent.failpoints import point
from lvagent.spec.status import Action, State

NEEDS = {
    Action.START: (State.STOPPED, State.CRASHED, State.RUNNING),
    Action.SHUTDOWN: (State.RUNNING,),
    Action.REBOOT: (State.RUNNING,),
    Action.RESET: (State.RUNNING, State.PAUSED),
    Action.PAUSE: (State.RUNNING,),
    Action.RESUME: (State.PAUSED,),
}
"""The states in which an action makes sense; the others may be asked for at any time."""

REACHED = {Action.PAUSE: State.PAUSED, Action.RESUME: State.RUNNING}
"""The state an action leads to; asking for it again is fine."""

WISHES = {Action.START: "running", Action.STOP: "stopped", Action.SHUTDOWN: "stopped"}
"""The actions that change what is wanted, and to what."""


def check(vm: str, state: State, action: Action) -> None:
    """Refuse an action that makes no sense in a state.

    :raise Conflict: it does not.
    """
    needed = NEEDS.get(action)
    if needed is not None and state not in needed:
        hint = f"it must be {' or '.join(needed)}"
        raise Conflict(f"{vm} is {state}: it cannot {action}", other=vm, hint=hint)


class Power:
    """Carries actions out, and writes the wish they express into the domain first."""

    def __init__(self, index: Index, domains: Domains, volumes: VolumeFolders, vms: Vms) -> None:
        self._index = index
        self._domains = domains
        self._volumes = volumes
        self._vms = vms

    def act(self, entry: Entry, action: Action, trace: Trace) -> None:
        """Carry out an action.

        :raise Conflict: the VM is not in a state for it.
        :raise SpecError: it is to start, and one of its volumes has become what may not be used.
        """
        vm = entry.spec.id
        state = self._domains.state(vm)
        if REACHED.get(action) is state.state:
            return
        check(vm, state.state, action)
        if action is Action.START:
            self._volumes.check(entry.spec.volumes)  # before libvirt follows what they name; the hook looks once more
        with Undo() as undo:
            wanted = WISHES.get(action, entry.power)
            if wanted != entry.power:
                undo.add(self._settle, entry, entry.power)
                self._settle(entry, wanted)
            point("power.wished")
            with trace.phase(action):
                self._try(vm, action)
            undo.forget()
        point("power.acted")
        self._look(vm)
        if action is Action.START:
            self._vms.told(vm, trace)

    def _look(self, vm: str) -> None:
        try:
            state = self._domains.state(vm)
        except NotFound:  # undefined by hand while it ran: it went with its qemu
            state = None
        self._index.observed(vm, state)

    def wish(self, vm: str, power: str) -> None:
        """Write down what is wanted of its power: running or stopped."""
        entry = self._index.get(vm)
        if entry is not None and entry.power != power:
            self._settle(entry, power)

    def _settle(self, entry: Entry, power: str) -> None:
        """Have libvirt keep the wish, and only then tell it: what was told outlives a crash."""

        def change(now: Entry) -> Entry:
            return dataclasses.replace(now, power=power, phase=Phase.LIVE)

        vm, wish = entry.spec.id, change(self._index.get(entry.spec.id) or entry)
        self._domains.set_element(vm, self._vms.element(wish, wish.spec), config=True, live=False)
        self._index.update(vm, change)

    def _try(self, vm: str, action: Action) -> None:
        """:raise Conflict: its guest, or somebody by hand, brought it into another state just now."""
        try:
            self._do(vm, action)
        except HostError:
            check(vm, self._domains.state(vm).state, action)
            raise

    def _do(self, vm: str, action: Action) -> None:
        match action:
            case Action.START:
                self._domains.start(vm)
            case Action.SHUTDOWN:
                self._domains.shutdown(vm)
            case Action.STOP:
                self._domains.destroy(vm)
            case Action.REBOOT:
                self._domains.reboot(vm)
            case Action.RESET:
                self._domains.reset(vm)
            case Action.PAUSE:
                self._domains.suspend(vm)
            case Action.RESUME:
                self._domains.resume(vm)
