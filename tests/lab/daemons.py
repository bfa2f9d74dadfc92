"""virtlogd and libvirtd in a lab host: how they are set, started and ended."""

from __future__ import annotations

import secrets
import shutil
import signal
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lab.host import LabHost

CACHE = Path("/var/cache/lvagent/lab-capabilities")
"""What libvirt found out about qemu, kept for the next lab: finding it out takes 2-4 s. libvirt itself checks that what
it reads there is of its own version, of this qemu and of this kernel."""

CAPABILITIES = "/var/cache/libvirt/qemu/capabilities"
LIBVIRTD_PID = "/run/libvirtd.pid"

LIBVIRTD = """\
host_uuid = "{uuid}"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""

QEMU = """\
security_driver = "none"
remember_owner = 0
cgroup_controllers = []
"""
"""AppArmor profiles and cgroups belong to the whole machine, so the lab makes none. Owners of images are remembered in
extended attributes that name the host's uuid, of which a lab has a new one each time."""


DEFINED = "<domain type='qemu'><name>{name}</name><memory>1024</memory><os><type>hvm</type></os></domain>\n"


def write_configuration(folder: Path, host_uuid: str) -> None:
    """Write libvirt's settings for one host into its /etc/libvirt."""
    for name in ("hooks", "qemu", "nwfilter", "secrets", "storage"):
        (folder / name).mkdir(parents=True)
    (folder / "libvirtd.conf").write_text(LIBVIRTD.format(uuid=host_uuid))
    (folder / "qemu.conf").write_text(QEMU)
    (folder / "virtlogd.conf").write_text("")
    (folder / "libvirt.conf").write_text("")


def start(lab: LabHost) -> None:
    """Start both and wait until libvirtd answers; virtlogd may run already."""
    lab.run(["mkdir", "-p", "/run/libvirt", "/var/log/libvirt/qemu"])
    seeded = _seed(lab.path(CAPABILITIES))
    if not alive(lab, "/run/virtlogd.pid"):
        lab.run(["virtlogd", "-d"])
    lab.run(["libvirtd", "-d"])
    lab.virsh("list")
    if not seeded:
        lab.virsh("capabilities", timeout=120)
        _keep(lab.path(CAPABILITIES))


def _seed(folder: Path) -> bool:
    """Give a lab what is kept. Says whether there was anything."""
    if folder.exists():
        return True
    try:
        shutil.copytree(CACHE, folder)
    except FileNotFoundError:
        return False
    return True


def _keep(folder: Path) -> None:
    """Keep what a lab's libvirt found out; several labs may do so at once."""
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{CACHE.name}-", dir=CACHE.parent))
    shutil.copytree(folder, new, dirs_exist_ok=True)
    try:
        new.rename(CACHE)
    except OSError:  # another lab was first
        shutil.rmtree(new)


def pid(lab: LabHost, file: str) -> int:
    """The pid in a pid file of the lab; 0 if there is none. It is a pid of the lab's own numbering."""
    try:
        return int(lab.path(file).read_text())
    except (OSError, ValueError):
        return 0


def alive(lab: LabHost, file: str) -> bool:
    """Whether the process of a pid file of the lab is there."""
    number = pid(lab, file)
    return bool(number) and lab.path(f"/proc/{number}").exists()


def stop(lab: LabHost, number: signal.Signals) -> None:
    """Send libvirtd a signal and wait until it is gone."""
    inside = pid(lab, LIBVIRTD_PID)
    lab.run(["kill", f"-{number.value}", str(inside)])
    deadline = time.monotonic() + 60
    while lab.path(f"/proc/{inside}").exists():
        if time.monotonic() > deadline:
            raise AssertionError(f"libvirtd ({inside}) does not end")
        time.sleep(0.005)


def reload(lab: LabHost) -> None:
    """SIGHUP; returns when it has looked for hooks again.

    It does so in a thread of its own, and nothing tells its end. But after the hooks it reads the definitions: once it
    knows one that was written just now, it knows the hooks too (``daemonReloadHandlerThread``, ``virHookCall``).
    """
    name = f"lab-reload-{secrets.token_hex(4)}"
    lab.path(f"/etc/libvirt/qemu/{name}.xml").write_text(DEFINED.format(name=name))
    lab.run(["kill", "-HUP", str(pid(lab, LIBVIRTD_PID))])
    deadline = time.monotonic() + 60
    while name not in lab.virsh("list", "--all", "--name").stdout.split():
        assert time.monotonic() < deadline, "libvirtd does not reload"
        time.sleep(0.01)
    lab.virsh("undefine", name)


def console(lab: LabHost, vm: str) -> str:
    """The serial log of a domain: the file its XML names."""
    document = ElementTree.fromstring(lab.virsh("dumpxml", vm).stdout)
    places = [*document.iterfind("devices/serial/log"), *document.iterfind("devices/console/log")]
    files = [place.get("file") for place in places] or [
        source.get("path") for source in document.iterfind("devices/serial[@type='file']/source")
    ]
    log = lab.path(files[0]) if files and files[0] else None
    return log.read_text(errors="replace") if log and log.exists() else ""
