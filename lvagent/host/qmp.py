"""qemu's monitors, by way of libvirt: one command, one answer.

libvirt sets no time limit for a monitor command, so a guest whose qemu hangs would hold its caller for ever. Each
command runs in a thread of its own on a connection that nothing else uses; the caller waits for his time and goes.
What hangs keeps its thread, and its worker in libvirtd, until that qemu answers or ends (a stop ends it): so few may
run at once, and one for each VM.

libvirt marks a domain that was sent such a command as tainted (``custom-monitor``): it no longer vouches for it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Protocol, cast

import libvirt
import libvirt_qemu

from lvagent.errors import Conflict, HostError, LvagentError, MonitorError, Unavailable
from lvagent.host.libvirt_lines import Domain, Lines, code_of, ended
from lvagent.spec.monitor import Hmp, Qmp
from lvagent.spec.names import ELEMENT_NAMESPACE

PLACES = 4
"""Commands that may run at once; libvirtd has 20 workers for everybody."""

MAX_ANSWER = 1 << 20
"""Characters of an answer that is passed on."""


REFUSALS = {
    libvirt.VIR_ERR_OPERATION_INVALID: ("{vm} does not run: it has no monitor", "start it"),
    libvirt.VIR_ERR_NO_DOMAIN_METADATA: ("the domain {vm} is not of lvagent", "look at it: virsh dumpxml {vm}"),
}
"""What libvirt says to who asks about a domain that does not run, or that is a stranger's by now."""


class Send(Protocol):
    """Sends a text to a domain's monitor (``libvirt_qemu.qemuMonitorCommand``)."""

    def __call__(self, domain: Domain, text: str, flags: int, /) -> str: ...


class Monitor:
    """The monitors of the domains on one libvirtd. May be called by many threads.

    :param seconds: how long a command may take.
    :param send: how it is sent.
    """

    def __init__(self, uri: str, *, seconds: float, send: Send = libvirt_qemu.qemuMonitorCommand) -> None:
        self._lines = Lines(uri, PLACES)
        self._seconds = seconds
        self._send = send
        self._guard = threading.Lock()
        self._busy: set[str] = set()

    def qmp(self, vm: str, command: Qmp) -> object:
        """Send a QMP command.

        :return: what qemu returned, as JSON has it.
        :raise MonitorError: qemu refused it.
        :raise Conflict: the VM does not run, its domain is not ours, or another command of its monitor is at work.
        :raise Unavailable: no answer in time, no place left, or no libvirtd.
        """
        more = {} if command.arguments is None else {"arguments": command.arguments}
        raw = self._ask(vm, json.dumps({"execute": command.execute, **more}), 0)
        return returned(raw)

    def hmp(self, vm: str, command: Hmp) -> str:
        """Send an HMP command. Errors as ``qmp``, but that HMP tells its own in its text.

        :return: the text that qemu answered.
        """
        return self._ask(vm, command.command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)

    def _ask(self, vm: str, text: str, flags: int) -> str:
        self._enter(vm)
        call = _Call(lambda: self._sent(vm, text, flags), lambda: self._leave(vm))
        threading.Thread(target=call.run, name="monitor", daemon=True).start()
        if not call.done.wait(self._seconds):
            hint = "its qemu hangs, or the command takes long; stopping the VM ends it"
            raise Unavailable(f"an answer of the monitor of {vm} within {self._seconds:g} s", hint=hint)
        if call.failure is not None:
            raise call.failure
        if len(call.answer) > MAX_ANSWER:
            raise MonitorError(
                "TooLarge", f"the answer has {len(call.answer)} characters", hint=f"at most {MAX_ANSWER}"
            )
        return call.answer

    def _enter(self, vm: str) -> None:
        with self._guard:
            if vm in self._busy:
                raise Conflict(f"another monitor command of {vm} is at work", other=vm, hint="wait for its end")
            if len(self._busy) >= PLACES:
                raise Unavailable("a place for a monitor command", hint=f"{PLACES} are at work; try again soon")
            self._busy.add(vm)

    def _leave(self, vm: str) -> None:
        with self._guard:
            self._busy.discard(vm)

    def _sent(self, vm: str, text: str, flags: int) -> str:
        with self._lines.use(vm, "ask the monitor of") as connection:
            domain = connection.lookupByName(vm)
            try:
                domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, ELEMENT_NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_LIVE)
                return self._send(domain, text, flags)
            except libvirt.libvirtError as error:
                code = libvirt.VIR_ERR_OPERATION_INVALID if ended(error) or _ended(domain) else code_of(error)
                if code in REFUSALS:
                    message, hint = REFUSALS[code]
                    raise Conflict(message.format(vm=vm), other=vm, hint=hint.format(vm=vm)) from error
                raise

    def close(self) -> None:
        """Close the connection; a command that hangs ends with the process."""
        if not self._busy:
            self._lines.close()


def _ended(domain: Domain) -> bool:
    """Whether it runs no more: libvirt has several words for one that ends while it is asked."""
    try:
        return not domain.isActive()
    except libvirt.libvirtError:
        return False


class _Call:
    """One command in a thread of its own."""

    def __init__(self, work: Callable[[], str], leave: Callable[[], None]) -> None:
        self._work = work
        self._leave = leave
        self.answer = ""
        self.failure: LvagentError | None = None
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self.answer = self._work()
        except LvagentError as error:
            self.failure = error
        finally:
            self._leave()
            self.done.set()


def returned(raw: str) -> object:
    """What qemu returned.

    :param raw: its answer (QMP specification, 2.4.2 and 2.4.3).
    :raise MonitorError: it is an error.
    :raise HostError: it is no answer.
    """
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise HostError("the monitor's answer", "read", "it is not JSON") from error
    if isinstance(answer, Mapping) and "return" in answer:
        return cast(object, answer["return"])
    refusal = answer.get("error") if isinstance(answer, Mapping) else None
    if not isinstance(refusal, Mapping):
        raise HostError("the monitor's answer", "read", "it is neither a return nor an error")
    raise MonitorError(str(refusal.get("class", "GenericError")), " ".join(str(refusal.get("desc", "")).split()))
