"""The DHCP, router advertisement and DNS server of a VPC: one dnsmasq in its namespace.

It outlives the agent and is adopted by the next one. What it serves is known from the files it was started with, so
the rule is: files are changed while it does not run, except for new reservations, which it takes in live (inotify).
Taking a reservation away is not live in dnsmasq, and an old lease keeps an address from another MAC; so for that it is
stopped, the leases that no longer hold are taken out of its lease file, and it is started again (some 30 ms; the
others' leases stay).

dnsmasq gives root up at its start: it can read its files but change none, except the lease file it has open.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from lvagent.config import Settings
from lvagent.errors import CommandError, HostError, Vanished
from lvagent.host import daemons, dnsmasq_files, files
from lvagent.host.view import View
from lvagent.plan.resources import Dhcp
from lvagent.render import dnsmasq as texts
from lvagent.spec import names

HIDDEN = (
    "/boot", "/dev/shm", "/etc/libvirt", "/etc/lvagent", "/home", "/media", "/mnt", "/opt", "/root", "/run/libvirt",
    "/run/user", "/srv", "/tmp", "/var/cache", "/var/lib/libvirt", "/var/lib/lvagent", "/var/log", "/var/spool",
    "/var/tmp",
)  # fmt: skip
"""Folders that a dnsmasq sees empty: it needs none of them. libvirt's read-only socket is in /run/libvirt."""


class DhcpServer:
    """The dnsmasqs of this host. Calls for one VPC must not overlap; calls for different VPCs may."""

    def __init__(self, settings: Settings) -> None:
        self._base = Path(settings.paths.run) / "dnsmasq"
        self._netns = settings.paths.netns
        self._lease = settings.vpc.lease
        paths = settings.paths
        self._hidden = (*HIDDEN, paths.netns, paths.run, paths.state, paths.images, *settings.volumes.folders)

    def observe(self, vpc: str) -> Dhcp | None:
        """What the running dnsmasq of a VPC serves.

        One that runs in a namespace that is no longer the VPC's serves nobody, and is ended.

        :return: None when none runs, or when its files are not what this version would have written (then ``ensure``
            starts it anew).
        """
        if self._alive(vpc) is None:
            return None
        return dnsmasq_files.read(vpc, self._files(vpc), str(self._folder(vpc)), self._lease)

    def look(self, vpc: str) -> Dhcp | None:
        """What ``observe`` tells, and nothing is ended: for who only wants to know."""
        return dnsmasq_files.read(vpc, self._files(vpc), str(self._folder(vpc)), self._lease)

    def alive(self, vpc: str) -> bool:
        """Whether a dnsmasq of the VPC runs in the namespace that bears its name now."""
        pid = daemons.from_file(self._folder(vpc) / "pid", self._identity(vpc))
        return pid is not None and daemons.lives_in(pid, f"{self._netns}/{vpc}")

    def lease_file(self, vpc: str) -> str | None:
        """The lease file of the VPC's dnsmasq; None if there is none."""
        return _text(self._folder(vpc) / "leases")

    def leased(self, vpc: str) -> dict[str, float]:
        """When each address of the VPC was leased last (Unix time, exact to the second): first, or again."""
        lines = (line.split(" ") for line in (self.lease_file(vpc) or "").splitlines())
        found = ((texts.canonical(line[2]), line[0]) for line in lines if len(line) >= 4)
        lasts = max(self._lease, texts.MIN_LEASE)
        return {address: float(int(expiry) - lasts) for address, expiry in found if address and expiry.isdigit()}

    def renew(self, vpc: str) -> None:
        """Start the VPC's dnsmasq anew with what it was told, so that it has a lease file with no leases but its own.

        :raise HostError: it cannot be started.
        """
        there = self._files(vpc)
        if texts.CONF in there:
            self._restart(vpc, there, there, frozenset())

    def ensure(self, wanted: Dhcp) -> None:
        """Make the VPC's dnsmasq serve this. The namespace and the subnets' bridges are there.

        :raise HostError: it cannot be started (what it said is in the cause), or cannot serve this.
        """
        wish = self._wish(wanted)
        there = self._files(wanted.vpc)
        if self._alive(wanted.vpc) is None or not there.items() <= wish.items() or texts.CONF not in there:
            self._restart(wanted.vpc, there, wish, frozenset())
        else:
            self._write(wanted.vpc, dict(wish.items() - there.items()))

    def forget(self, vpc: str, vm: str) -> None:
        """Take back the DHCPv6 leases of a VM that is about to start.

        dnsmasq binds an IPv6 lease to the client's DUID and IAID and refuses its address to any other until it
        expires (``check_address`` in its rfc3315.c), but a reinstalled guest, or a client without a memory, comes with
        new ones. Costs nothing when there is no such lease, a restart of dnsmasq otherwise.
        """
        there = self._files(vpc)
        own = {path: text for path, text in there.items() if path.startswith(f"{texts.HOSTS}/{vm}-")}
        addresses = frozenset(address for address in texts.pairs(own) if ":" in address)
        if addresses and self._alive(vpc) is not None and addresses & self._leased(vpc):
            self._restart(vpc, there, there, addresses)

    def remove(self, vpc: str) -> None:
        """Make sure that the VPC has no dnsmasq and no files of one."""
        self._end(vpc)
        shutil.rmtree(self._folder(vpc), ignore_errors=True)

    def vpcs(self) -> frozenset[str]:
        """The VPCs that have files or a process."""
        with_files = {name for name in _entries(self._base) if names.VPC_NAME.match(name)}
        return frozenset(with_files | self._with_process())

    def _wish(self, wanted: Dhcp) -> dict[str, str]:
        try:
            return texts.texts(wanted, str(self._folder(wanted.vpc)), self._lease)
        except ValueError as error:
            raise HostError(f"dnsmasq of {wanted.vpc}", "write files for", str(error)) from error

    def _with_process(self) -> set[str]:
        pattern = re.compile(re.escape(f"--conf-file={self._base}/") + r"(vpc-[0-9a-z]{10})/conf")
        found = set()
        for pid in daemons.pids():
            match = pattern.search(_command_line(pid))
            if match and self._identity(match[1]).matches(pid):
                found.add(match[1])
        return found

    def _folder(self, vpc: str) -> Path:
        if not names.VPC_NAME.match(vpc):
            raise ValueError(f"{vpc!r} is no name of a VPC")
        return self._base / vpc

    def _identity(self, vpc: str) -> daemons.Identity:
        return daemons.Identity("dnsmasq", f"--conf-file={self._folder(vpc)}/{texts.CONF}")

    def _alive(self, vpc: str) -> int | None:
        identity = self._identity(vpc)
        pid = daemons.from_file(self._folder(vpc) / "pid", identity)
        if pid is None or daemons.lives_in(pid, f"{self._netns}/{vpc}"):
            return pid
        daemons.end(pid, identity)
        return None

    def _end(self, vpc: str) -> None:
        identity = self._identity(vpc)
        for pid in daemons.running(identity):
            daemons.end(pid, identity)
        daemons.let_die(self._folder(vpc) / "pid")

    def _files(self, vpc: str) -> dict[str, str]:
        folder = self._folder(vpc)
        paths = [
            texts.CONF,
            *(f"{sub}/{name}" for sub in (texts.HOSTS, texts.NAMES) for name in _entries(folder / sub)),
        ]
        read = ((path, _text(folder / path)) for path in paths)
        return {path: text for path, text in read if text is not None}

    def _leases(self, vpc: str) -> str:
        return _text(self._folder(vpc) / "leases") or ""

    def _leased(self, vpc: str) -> set[str]:
        # dnsmasq empties the file and writes it again, and a file of an IPv6 server is never empty for long.
        for _ in range(20):
            text = self._leases(vpc)
            if text.endswith("\n") and "duid " in text:
                break
            time.sleep(0.001)
        return {texts.lease_of(line) for line in text.splitlines()}

    def _restart(self, vpc: str, there: Mapping[str, str], wish: Mapping[str, str], gone: frozenset[str]) -> None:
        if there or (self._folder(vpc) / "pid").exists():
            self._end(vpc)
        with _written(vpc):
            self._make_folders(vpc)
            # Leases first: they are judged by the old files, and a crash between the two is then judged alike.
            self._clean_leases(vpc, texts.pairs(there), texts.pairs(wish), gone)
            for path in there.keys() - wish.keys():
                files.remove(self._folder(vpc) / path)
        self._write(vpc, {path: text for path, text in wish.items() if there.get(path) != text})
        self._start(vpc)

    def _clean_leases(self, vpc: str, old: Mapping[str, str], new: Mapping[str, str], gone: frozenset[str]) -> None:
        kept = {address for address, mac in old.items() if new.get(address) == mac} - gone
        leases = self._leases(vpc)
        if leases:
            files.write(self._folder(vpc) / "leases", texts.keep_leases(leases, kept), sync=False)

    def _write(self, vpc: str, wish: Mapping[str, str]) -> None:
        # Names before reservations: who has a lease has a name.
        with _written(vpc):
            for path in sorted(wish, key=lambda path: (not path.startswith(texts.NAMES), path)):
                files.write(self._folder(vpc) / path, wish[path], sync=False)

    def _make_folders(self, vpc: str) -> None:
        folder = self._folder(vpc)
        files.folder(self._base.parent)
        for path in (self._base, folder, folder / texts.HOSTS, folder / texts.NAMES):
            path.mkdir(mode=0o755, exist_ok=True)
            path.chmod(0o755)
        _check_reachable(self._base)

    def _start(self, vpc: str) -> None:
        try:
            self._spawn(vpc)
        except CommandError:
            # One that nobody knows (its files were deleted, say) holds the ports.
            if not daemons.running(self._identity(vpc)):
                raise
            self._end(vpc)
            self._spawn(vpc)

    def _spawn(self, vpc: str) -> None:
        argv = ["dnsmasq", self._identity(vpc).argument]
        view = View(str(self._folder(vpc)), self._hidden, self._netns)
        daemons.start(argv, namespace=f"{self._netns}/{vpc}", view=view, unit=f"lvagent-dnsmasq-{vpc}")


@contextlib.contextmanager
def _written(vpc: str) -> Iterator[None]:
    """Files of a dnsmasq are written: what the file system refuses is an error of ours."""
    try:
        yield
    except FileNotFoundError as error:  # somebody takes its folder away
        raise Vanished(f"dnsmasq of {vpc}", "write files for", str(error.strerror)) from error
    except OSError as error:
        raise HostError(f"dnsmasq of {vpc}", "write files for", str(error.strerror)) from error


def _check_reachable(folder: Path) -> None:
    """dnsmasq reads its folders after it has given up root, and says nothing to us when it cannot."""
    for path in (folder, *folder.parents):
        if not path.stat().st_mode & 0o001:
            raise HostError(str(folder), "use", f"dnsmasq's user cannot pass {path}", hint=f"chmod o+x {path}")


def _entries(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
