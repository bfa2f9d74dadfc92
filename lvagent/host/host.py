"""Small facts of the host: its boot, its accelerator, its own address."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from lvagent.errors import CommandError, SpecError
from lvagent.host.run import run


def boot_id() -> str:
    """The id of the kernel's current boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def going_down() -> bool:
    """Whether the host is about to stop: then libvirt-guests(8) shuts guests down, and nobody meant them to stay so.

    systemd says so (org.freedesktop.systemd1(5), SystemState); a host without it never does.
    """
    if not Path("/run/systemd/system").is_dir():  # sd_booted(3)
        return False
    try:
        return run(["systemctl", "show", "--property=SystemState"], timeout=5).strip() == "SystemState=stopping"
    except CommandError:
        return False


def accelerator(wish: str) -> tuple[str, str]:
    """The domain type to use, and why, in one line.

    /dev/kvm alone proves nothing: under some hypervisors it opens and no guest boots. Like virt-host-validate, ``auto``
    also wants the CPU's own virtualisation flag.

    :param wish: auto, kvm or tcg.
    """
    if wish == "tcg":
        return "qemu", "software emulation, as the settings say"
    if wish == "kvm":
        return "kvm", "KVM, as the settings say"
    if wish != "auto":
        raise SpecError("guests.accel", f"{wish!r} is not known", "one of auto, kvm, tcg")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "qemu", "software emulation: /dev/kvm cannot be opened"
    if not cpu_flags(Path("/proc/cpuinfo").read_text()) & {"vmx", "svm"}:
        return "qemu", "software emulation: /dev/kvm is there, but the CPU shows neither vmx nor svm"
    return "kvm", "KVM: /dev/kvm opens and the CPU has vmx or svm"


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """The flags of the first CPU in the text of /proc/cpuinfo."""
    for row in cpuinfo.splitlines():
        name, _, value = row.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def underlay_address() -> str:
    """The address that this host would send from to the world; '' when it has no default route.

    A datagram socket that is connected sends nothing: the kernel only looks up the route.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])
