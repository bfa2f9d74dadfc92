"""The checks of the host itself, in virt-host-validate's manner: facts in, findings out. PURE.

Each check is a small function in ``CHECKS``; a new one is a line there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from lvagent.config import Settings
from lvagent.doctor.findings import Finding, Kind, Repair, failed, passed, warned
from lvagent.host.survey import PROBING, Daemon, FileFacts, Space
from lvagent.host.survey_libvirt import LibvirtFacts, version_text

OLDEST_KERNEL = (5, 12)
OLDEST_LIBVIRT = 9_000_000
OLDEST_DNSMASQ = (2, 80)
LEAST_FILES = 4096
LEAST_FREE = 2 << 30
"""Bytes below which a folder of disks is nearly full."""
DAY = 86_400.0
LONG_AGO = 1_704_067_200.0
"""The first of January 2024: a clock before it is wrong."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of ours. ``mode``: as the agent makes it; ``passed``: other accounts must be able to pass it."""

    facts: FileFacts
    mode: int
    passed: bool
    space: Space | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """All facts of a host. A text in place of a value is why it could not be had.

    ``accel``: with what guests run by the settings, and why; ``kvm``: the same by what is found here.
    """

    settings: Settings
    release: str
    features: Mapping[str, str]
    accel: tuple[str, str]
    kvm: tuple[str, str]
    bridge_calls: Mapping[str, int]
    bridge_conntrack: bool
    hook: FileFacts
    hook_path: str
    hook_text: str | None
    hook_wanted: str
    daemons: tuple[Daemon, ...]
    libvirt: LibvirtFacts | str
    emulator_version: str
    confinement: str
    open_files: int
    accounts: Mapping[str, bool]
    folders: Mapping[str, Folder]
    programs: Mapping[str, str]
    dnsmasq_version: str
    clock_kept: bool
    now: float
    underlay: tuple[str, int] | None
    drop_ins: Mapping[str, bool] = field(default_factory=dict)
    tokens: str = ""
    tls: float | str | None = None

    def runs(self, *names: str) -> Daemon | None:
        """The first daemon of one of these names, if it runs."""
        return next((one for one in self.daemons if one.name in names), None)


Check = Callable[[Machine], Iterator[Finding]]


def _numbers(text: str) -> tuple[int, ...]:
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def accelerator(host: Machine) -> Iterator[Finding]:
    """Whether guests run on the CPU itself."""
    kind, why = host.accel
    if kind == "kvm" and host.kvm[0] != "kvm":
        yield failed("accelerator", f"guests.accel is kvm, but: {host.kvm[1]}", "guests.accel = auto, or make KVM work")
    elif kind == "kvm":
        yield passed("accelerator", why)
    else:
        remedy = "guests run some ten times slower: switch virtualisation on in the firmware, or nested in the host"
        yield warned("accelerator", why, "" if host.settings.guests.accel == "tcg" else remedy)


def kernel(host: Machine) -> Iterator[Finding]:
    """Version and features of the kernel."""
    if _numbers(host.release)[:2] >= OLDEST_KERNEL:
        yield passed("kernel", host.release)
    else:
        yield failed("kernel", f"{host.release} is too old: mount_setattr(2) is missing", "Linux 5.12 or later")
    for name, refusal in host.features.items():
        if refusal:
            judged = warned if name == PROBING else failed
            yield judged(f"kernel: {name}", refusal, "load its module, or take a kernel that has it")
        else:
            yield passed(f"kernel: {name}", "works")


def bridge_netfilter(host: Machine) -> Iterator[Finding]:
    """br_netfilter, by which a VPC's filter sees bridged frames."""
    if not host.bridge_calls:
        yield warned("br_netfilter", "is not loaded", "modprobe br_netfilter; the agent does it when it starts")
        return
    text = ", ".join(f"{name} {value}" for name, value in host.bridge_calls.items())
    has = "has" if host.bridge_conntrack else "lacks"
    yield passed("br_netfilter", f"is loaded ({text} in root); the kernel {has} bridge conntrack, which is not used")


def hook(host: Machine) -> Iterator[Finding]:
    """The libvirt hook: there, a real file, ours, executable, and known to libvirt."""
    there, path = host.hook, host.hook_path
    repair = Repair(Kind.HOOK, path)
    install = "lvagent hook install, then: systemctl reload libvirtd (or virtqemud)"
    if there.kind == "absent":
        yield failed("hook", f"{path} is not there: VMs would start without their network", install, repair)
    elif there.kind != "file":
        yield failed("hook", f"{path} is a {there.kind}; libvirt's AppArmor profile runs files only", install)
    elif "lvagent" not in (host.hook_text or ""):
        yield failed("hook", f"{path} is not of lvagent", "move it away, then lvagent hook install")
    elif there.mode & 0o111 != 0o111 or there.mode & 0o022 or there.uid != 0:
        text = f"{path} has mode {there.mode:04o} and owner {there.uid}, not 0755 and root"
        yield failed("hook", text, install, repair)
    elif host.hook_text != host.hook_wanted:
        yield warned("hook", f"{path} is of another version or installation", install, repair)
    else:
        yield from _known_to_libvirt(host)


def _known_to_libvirt(host: Machine) -> Iterator[Finding]:
    daemon = host.runs("virtqemud", "libvirtd")
    if daemon is not None and host.hook.changed > daemon.started + 1:
        text = f"{host.hook_path} was written after {daemon.name} began, which finds new hooks at a reload only"
        yield warned("hook", text, f"if it was not done since: systemctl reload {daemon.name}")
    else:
        yield passed("hook", f"{host.hook_path} is installed and current")


def libvirt(host: Machine) -> Iterator[Finding]:
    """libvirt: connection, version, daemons, emulator."""
    found = host.libvirt
    if isinstance(found, str):
        yield failed("libvirt", found, f"is its daemon running? virsh -c {host.settings.libvirt.uri} version")
        return
    if found.version < OLDEST_LIBVIRT:
        yield failed("libvirt", f"{version_text(found.version)} is too old", "libvirt 9.0 or later")
    else:
        daemon = host.runs("virtqemud", "libvirtd")
        kinds = {"virtqemud": "modular daemons", "libvirtd": "one daemon, libvirtd"}
        how = kinds.get(daemon.name, "") if daemon else "its daemon is not seen from here"
        yield passed("libvirt", f"{version_text(found.version)} answers at {host.settings.libvirt.uri}; {how}")
    if found.emulator:
        version = host.emulator_version or version_text(found.hypervisor)
        yield passed("qemu", f"{found.emulator}, {version}")
    else:
        yield failed("qemu", "libvirt has no emulator for its domains", "install qemu-system-x86")


def confinement(host: Machine) -> Iterator[Finding]:
    """What confines qemu."""
    if host.confinement.startswith("neither"):
        remedy = "a qemu that its guest took over may write to every running VM's volumes: switch one of them on"
        yield warned("confinement", host.confinement, remedy)
    else:
        yield passed("confinement", host.confinement)


def limits(host: Machine) -> Iterator[Finding]:
    """How many files the agent may have open."""
    if host.open_files < LEAST_FILES:
        yield failed("open files", f"at most {host.open_files}", "LimitNOFILE=262144 in the unit, or ulimit -Hn")
    else:
        yield passed("open files", f"at most {host.open_files}")


def accounts(host: Machine) -> Iterator[Finding]:
    """The accounts that parts run as."""
    absent = [name for name, there in host.accounts.items() if not there]
    if absent:
        yield failed("accounts", f"there is no {', '.join(absent)}", "sudo make serve makes them; or useradd --system")
    else:
        yield passed("accounts", ", ".join(host.accounts))


def folders(host: Machine) -> Iterator[Finding]:
    """Folders: owner, mode, room."""
    for path, folder in host.folders.items():
        wrong = _wrong(folder)
        if wrong:
            repair = Repair(Kind.FOLDER, path, value=folder.mode) if folder.facts.kind in ("folder", "absent") else None
            yield failed(path, wrong, f"chown root: and chmod {folder.mode:04o} {path}", repair)
        else:
            yield from _room(path, folder)


def _wrong(folder: Folder) -> str:
    there = folder.facts
    if there.kind != "folder":
        return "is not there" if there.kind == "absent" else f"is a {there.kind}, not a folder"
    if there.uid != 0:
        return f"belongs to uid {there.uid}"
    if there.mode & 0o022:
        return f"has mode {there.mode:04o}: others may write to it"
    if folder.passed and not there.mode & 0o001:
        return f"has mode {there.mode:04o}: qemu and dnsmasq cannot pass it"
    return f"has mode {there.mode:04o}: others may look into it" if not folder.passed and there.mode & 0o077 else ""


def _room(path: str, folder: Folder) -> Iterator[Finding]:
    mode, room = f"mode {folder.facts.mode:04o}", folder.space
    if room is None:
        yield passed(path, mode)
    elif room.free < LEAST_FREE or (room.inodes and room.inodes_free < 1000):
        text = f"{room.free / 2**30:.1f} GiB and {room.inodes_free} files are left"
        yield warned(path, text, "make room: guests stop at I/O errors when it is full")
    else:
        yield passed(path, f"{mode}, {room.free / 2**30:.1f} GiB free")


def programs(host: Machine) -> Iterator[Finding]:
    """The programs that are run; dnsmasq's version."""
    absent = [name for name, place in host.programs.items() if not place]
    if absent:
        yield failed("programs", f"there is no {', '.join(absent)}", "apt-get install dnsmasq-base curl dash nftables")
    else:
        yield passed("programs", ", ".join(host.programs))
    version = _numbers(host.dnsmasq_version)
    if version and version < OLDEST_DNSMASQ:
        yield failed("dnsmasq", f"{host.dnsmasq_version} is too old", "dnsmasq 2.80 or later")
    elif version:
        yield passed("dnsmasq", ".".join(map(str, version)))


def clock(host: Machine) -> Iterator[Finding]:
    """The clock: tokens expire by it, and TLS needs it."""
    if host.now < LONG_AGO:
        yield failed("clock", "it is years behind", "set it: timedatectl set-ntp true")
    elif not host.clock_kept:
        yield warned("clock", "nobody keeps it right", "timedatectl set-ntp true, or install chrony")
    else:
        yield passed("clock", "is kept right")


def mtu(host: Machine) -> Iterator[Finding]:
    """The underlay's MTU against the one that VMs' MTUs are computed from."""
    wanted = host.settings.fabric.mtu
    if host.underlay is None:
        yield passed("underlay", "no address to send VXLAN from: this host is alone")
        return
    name, there = host.underlay
    if there < wanted:
        remedy = f"fabric.mtu = {there}, or a larger MTU on {name}"
        yield failed("underlay", f"{name} has MTU {there}, fabric.mtu says {wanted}: large packets are lost", remedy)
    else:
        yield passed("underlay", f"{name} has MTU {there}, fabric.mtu is {wanted}")


NETWORK_DAEMONS = {"NetworkManager": "NetworkManager/", "systemd-networkd": "systemd/network/"}


def network_daemons(host: Machine) -> Iterator[Finding]:
    """Whether daemons that manage links are told to leave ours alone."""
    for name, place in NETWORK_DAEMONS.items():
        files = {path: current for path, current in host.drop_ins.items() if place in path}
        if host.runs(name) is None:
            continue
        if all(files.values()):
            yield passed(name, "runs, and is told to leave our links alone")
        else:
            yield warned(name, "runs, and may act on our links while they are made", "lvagent service install")


def tokens(host: Machine) -> Iterator[Finding]:
    """The token file."""
    if host.tokens:
        yield failed("tokens", host.tokens, "until it is mended nobody comes in over TCP: chmod 600, or move it away")
    else:
        yield passed("tokens", "the token file is sound, or there is none")


def tls(host: Machine) -> Iterator[Finding]:
    """Certificate and key: they load, pair, and are not about to expire."""
    if host.tls is None:
        return
    if isinstance(host.tls, str):
        yield failed("TLS", host.tls, "renew api.tls_cert and api.tls_key, then restart the agent")
        return
    days = (host.tls - host.now) / DAY
    text = f"the certificate ends in {days:.0f} days"
    yield warned("TLS", text, "renew it, then restart the agent") if days < 21 else passed("TLS", text)


CHECKS: tuple[Check, ...] = (
    accelerator,
    kernel,
    bridge_netfilter,
    hook,
    libvirt,
    confinement,
    limits,
    accounts,
    folders,
    programs,
    clock,
    mtu,
    network_daemons,
    tokens,
    tls,
)


def judge(host: Machine) -> list[Finding]:
    """All findings about a host, in the order of the table."""
    return [finding for check in CHECKS for finding in check(host)]
