"""The two processes that hold a lab host; run as a script, with nothing but the standard library.

    runner (pytest) --pipe--> keeper --fork--> init: PID 1 of the lab's own pid namespace

The runner holds the writing end of the pipe and nobody else does. When it is gone, by a close or by ``kill -9`` of the
runner, both see the end of file: the keeper kills init, with which the kernel ends every process of the lab and frees
its network and its mounts, and removes the lab's folder. When the keeper itself is killed, init ends by the signal it
asked for (PR_SET_PDEATHSIG) and the folder, whose lock is free then, is removed by the next lab.

Init reaps orphans at once: libvirt polls a dead qemu until it is reaped, so this is what makes destroying fast.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 1, 32, 4096, 8192, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1

OLD = "run/lab"
"""Where the machine's own /etc and /var/lib are found inside, for what the lab has no copy of."""

OWN_ETC = ("libvirt", "lvagent", "hosts", "hostname", "machine-id", "frr", "netns")
OWN_LIB = ("libvirt", "lvagent", "frr")

NODES = {
    "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9),
    "tty": (5, 0), "ptmx": (5, 2), "net/tun": (10, 200),
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)


def _call(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _unshare(flags: int) -> None:
    _call(_libc.unshare(flags), "unshare")


def _mount(source: str, target: str, kind: str | None, flags: int = 0, options: str = "") -> None:
    raw = kind.encode() if kind else None
    _call(_libc.mount(source.encode(), target.encode(), raw, flags, options.encode() or None), f"mount {target}")


def _bind(source: Path | str, target: Path | str, *, readonly: bool = False) -> None:
    _mount(str(source), str(target), None, MS_BIND | MS_REC)
    if readonly:
        _mount(str(source), str(target), None, MS_BIND | MS_REMOUNT | MS_RDONLY)


def _shadow(folder: Path, machine: str, own: tuple[str, ...]) -> None:
    """Fill a folder with links to the entries of the machine's folder, except those the lab has of its own.

    The lab needs entries that the machine may not have (/etc/lvagent), and nothing may be made on the machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for entry in os.listdir(machine):
        if entry not in own and not os.path.lexists(folder / entry):
            os.symlink(f"/{OLD}{machine}/{entry}", folder / entry)


def _forget(*folders: str) -> None:
    """Detach what is mounted under folders of the machine that the lab lays its own over.

    Such mounts would be hidden and still be in the lab's table of mounts. Namespaces of others (/run/netns) go out of
    it whenever they are removed on the machine. And libvirt moves aside what is mounted under /dev, for each qemu: had
    the machine a /dev/mqueue too, libvirt would find two, move the lab's, and fail at the other.
    """
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = line.split()[4]
        if place.startswith(tuple(f"{folder}/" for folder in folders)):
            # One that is gone meanwhile, or went with the one above it, is no error.
            _libc.umount2(place.encode().decode("unicode_escape").encode("latin-1"), MNT_DETACH)


def _own_tree(state: Path) -> None:
    """Lay a /run, /etc, /var/lib, /var/log and libvirt's cache of the lab's own over the machine's."""
    run = state / "run"
    run.mkdir()
    _mount("tmpfs", str(run), "tmpfs", 0, "mode=755,size=256m")
    for name in ("etc", "var/lib", "bin"):
        (run / "lab" / name).mkdir(parents=True)
    for name in ("lock", "netns"):
        (run / name).mkdir()
    _bind("/etc", run / "lab/etc")
    _bind("/var/lib", run / "lab/var/lib")
    _shadow(state / "etc", "/etc", OWN_ETC)
    _shadow(state / "var/lib", "/var/lib", OWN_LIB)
    for name in ("var/log", "var/cache/libvirt"):
        (state / name).mkdir(parents=True, exist_ok=True)
        _bind(state / name, f"/{name}")
    _bind(state / "etc", "/etc")
    _bind(state / "var/lib", "/var/lib")
    _mount(str(run), "/run", None, MS_MOVE)


def _kernel_views() -> None:
    """A /proc of the own pid namespace; a /sys of the own network, without the machine's cgroups in it."""
    _mount("proc", "/proc", "proc")
    _call(_libc.umount2(b"/sys", MNT_DETACH), "umount /sys")
    _mount("sysfs", "/sys", "sysfs")


def _devices() -> None:
    """A /dev of the lab's own: no disks, and no KVM, so that guests run the same on every machine.

    Besides, a /dev/kvm that root may open and qemu's user may not (a machine without udev) makes libvirt ask qemu for
    its capabilities anew at every definition, which takes seconds.
    """
    umask = os.umask(0)
    _mount("tmpfs", "/dev", "tmpfs", 0, "mode=755,size=1m")
    for name in ("pts", "shm", "net", "mqueue"):
        os.mkdir(f"/dev/{name}", 0o755)
    for name, (major, minor) in NODES.items():
        os.mknod(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
    for name, target in {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}.items():
        os.symlink(f"/proc/self/fd{target}", f"/dev/{name}")
    _mount("devpts", "/dev/pts", "devpts", 0, "newinstance,mode=620,ptmxmode=666,gid=5")
    _mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777")
    _mount("mqueue", "/dev/mqueue", "mqueue")
    os.umask(umask)


def _network(underlay: str) -> None:
    """Set lo up, and make an eth0 that leads nowhere: the far end of the pair is in the lab as well.

    Neither end makes itself an IPv6 address: it would come up later, and make two snapshots differ.
    """
    lines = ["link set lo up"]
    if underlay:
        lines += ["link add eth0 type veth peer name wire"]
        lines += [f"link set {name} {what}" for name in ("wire", "eth0") for what in ("addrgenmode none", "up")]
        lines += [f"addr add {underlay} dev eth0", "route add default dev eth0"]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True, timeout=60)


def _become_host(state: Path, name: str, images: str, underlay: str) -> None:
    _unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")  # else it is as on the machine
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    raw = name.encode()
    _call(_libc.sethostname(raw, len(raw)), "sethostname")
    _forget("/run", "/dev")
    _own_tree(state)
    if images:
        _bind(images, "/var/lib/lvagent/images", readonly=True)
    _kernel_views()
    _devices()
    _network(underlay)


def _exit_at_end_of(life: int) -> None:
    while os.read(life, 1):
        pass
    os._exit(0)


def _init(state: Path, name: str, images: str, underlay: str, life: int, ready: int) -> None:
    """Be PID 1: build the host, say so, then reap until the runner is gone."""
    _call(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        _become_host(state, name, images, underlay)
    except (OSError, subprocess.SubprocessError) as error:
        os.write(ready, f"failed: {error}\n".encode())
        os._exit(1)
    threading.Thread(target=_exit_at_end_of, args=(life,), daemon=True).start()
    os.write(ready, b"ready\n")
    _silence(ready)
    while True:
        signal.sigwait({signal.SIGCHLD})
        _reap()


def _silence(descriptor: int) -> None:
    """Close it without leaving its number free for the next file that is opened."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor)
    os.close(null)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _keep(child: int, state: Path, life: int) -> None:
    """Wait for the end of the runner or of init; end the host and remove its folder."""
    watched = os.pidfd_open(child)
    waiting = select.poll()
    waiting.register(life, select.POLLIN)
    waiting.register(watched, select.POLLIN)
    waiting.poll()
    signal.pidfd_send_signal(watched, signal.SIGKILL)
    os.waitpid(child, 0)
    shutil.rmtree(state, ignore_errors=True)


def main(state: str, name: str, images: str, underlay: str, life: str, lock: str) -> None:
    """Become the keeper of a new host; the line ``PID`` and then ``ready`` or ``failed: why`` go to stdout.

    :param state: a folder for the host; removed at its end.
    :param images: folder to show as /var/lib/lvagent/images, read-only; empty: none.
    :param underlay: address of eth0 with its prefix; empty: no eth0.
    :param life: number of the pipe's descriptor.
    :param lock: number of the descriptor that keeps the folder locked; only the keeper has it.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _unshare(CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.close(int(lock))
        _init(Path(state), name, images, underlay, int(life), sys.stdout.fileno())
    os.write(sys.stdout.fileno(), f"{child}\n".encode())
    _silence(sys.stdout.fileno())
    _keep(child, Path(state), int(life))


if __name__ == "__main__":
    main(*sys.argv[1:])
