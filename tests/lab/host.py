"""A libvirt host made of namespaces: a machine of its own for one test module, gone without a trace afterwards.

    with LabHost() as lab:
        lab.start_libvirtd()
        lab.start_agent()
        assert lab.api("GET", "/v1/vms").json == {"items": [], "next": None}

It has its own mounts, network, pids, hostname and IPC, and a /run, /etc/libvirt, /etc/lvagent, /var/lib/libvirt,
/var/lib/lvagent and /var/log of its own; everything else it sees is the machine's. Its processes end with the runner's,
however that ends (see init.py). Paths, pids and sockets inside can be used from outside: ``path``, ``libvirt_uri``,
``api``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from tests.lab import daemons
from tests.lab.commands import (
    SSH_FAILED,
    SSH_OPTIONS,
    TREE,
    child_of,
    end,
    environment,
    freeze,
    thaw,
    tree_environment,
)
from tests.lab.folders import claim, remove_leftovers
from tests.lab.http import Answer, request
from tests.lab.snapshot import Snapshot, take

INIT = Path(__file__).with_name("init.py")

__all__ = ["TREE", "Answer", "LabError", "LabHost", "Result", "Snapshot", "child_of", "end", "tree_environment"]

Result = subprocess.CompletedProcess[str]


class LabError(Exception):
    """The lab itself could not do it: a host that does not come up, a daemon that does not answer."""


class LabHost:
    """One host. Made by ``with``; several may exist at once, also in several test runs.

    :param name: its hostname; empty: one of its own.
    :param images: folder on the machine to show, read-only, as /var/lib/lvagent/images.
    :param underlay: address and prefix of its eth0, over which its default route leads; empty: neither.
    """

    def __init__(self, name: str = "", *, images: Path | None = None, underlay: str = "192.0.2.10/24") -> None:
        self.name = name or f"lab-{uuid.uuid4().hex[:8]}"
        self.host_uuid = str(uuid.uuid4())
        self.pid = 0
        """PID of its init, as seen from the machine."""
        self.folder = Path()
        """Where its files are, on the machine."""
        self._images = str(images) if images else ""
        self._underlay = underlay
        self._life = -1
        self._lock = -1
        self._keeper: subprocess.Popen[str] | None = None
        self._agent: subprocess.Popen[bytes] | None = None

    # its life

    def __enter__(self) -> LabHost:
        remove_leftovers()
        self.folder, self._lock = claim()
        daemons.write_configuration(self.folder / "etc/libvirt", self.host_uuid)
        self._write_names()
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _write_names(self) -> None:
        etc = self.folder / "etc"
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {self.name}\n")
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "machine-id").write_text(f"{uuid.UUID(self.host_uuid).hex}\n")
        for folder in ("etc/lvagent", "var/lib/lvagent/images", "var/lib/lvagent/volumes"):
            (self.folder / folder).mkdir(parents=True)

    def _start(self) -> None:
        life, self._life = os.pipe()
        argv = [sys.executable, "-IS", str(INIT), str(self.folder), self.name, self._images, self._underlay]
        with open(self.folder / "init.log", "wb") as log:
            self._keeper = subprocess.Popen(
                [*argv, str(life), str(self._lock)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                text=True, pass_fds=[life, self._lock], start_new_session=True, cwd="/",
            )  # fmt: skip
        os.close(life)
        os.close(self._lock)
        assert self._keeper.stdout is not None
        lines = self._keeper.stdout.read().split("\n")
        self.pid = next((int(line) for line in lines if line.isdigit()), 0)
        if "ready" not in lines:
            raise LabError(f"no host came up: {lines} {(self.folder / 'init.log').read_text()}")
        self._write_wrapper()

    def _write_wrapper(self) -> None:
        """Let ``lvagent`` be a command inside, of this tree."""
        wrapper = self.path("/run/lab/bin/lvagent")
        variables = " ".join(f"{name}={value}" for name, value in tree_environment().items())
        wrapper.write_text(f'#!/bin/sh\nexec env {variables} {sys.executable} -P -m lvagent "$@"\n')
        wrapper.chmod(0o755)

    def _stop(self) -> None:
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        if self._agent is not None:
            self._agent.wait(timeout=60)
            self._agent = None
        if self._keeper is not None:
            self._keeper.wait(timeout=60)
            self._keeper = None
        shutil.rmtree(self.folder, ignore_errors=True)
        self.pid = 0

    # what is in it

    @property
    def root(self) -> Path:
        """Its file system as seen from the machine."""
        return Path(f"/proc/{self.pid}/root")

    def path(self, inside: str | Path) -> Path:
        """A path of the lab as seen from the machine.

        Absolute symbolic links are followed in the machine's file system, not in the lab's: use /run, not /var/run.
        """
        return self.root / str(inside).lstrip("/")

    @property
    def libvirt_uri(self) -> str:
        """URI of its libvirtd, for clients outside."""
        return f"qemu+unix:///system?socket={self.path('/run/libvirt/libvirt-sock')}"

    def namespaces(self) -> list[str]:
        """Names of its network namespaces, sorted."""
        return sorted(os.listdir(self.path("/run/netns")))

    def snapshot(self) -> Snapshot:
        """All that exists in it, to be compared: ``before == after``, or ``before.difference(after)``."""
        return take(self)

    # commands

    def argv(self, command: Sequence[str], *, netns: str = "") -> list[str]:
        """The command line that runs a command in it; ended with its parent.

        :param netns: name of a network namespace of the lab to run it in.
        """
        enter = ["nsenter", "-t", str(self.pid), "-m", "-n", "-u", "-i", "-p", "--"]
        within = ["ip", "netns", "exec", netns] if netns else []
        return [*enter, "setpriv", "--pdeathsig", "KILL", *within, *command]

    def run(
        self,
        command: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 60,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        netns: str = "",
    ) -> Result:
        """Run a command in it to its end.

        :param check: raise when it ends with another code than 0.
        :param timeout: seconds, after which it is killed.
        :param env: variables over PATH, HOME and LC_ALL.
        :raise AssertionError: it ended badly; the text has its output.
        """
        running = subprocess.Popen(
            self.argv(command, netns=netns), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", env=environment(env), cwd="/",
        )  # fmt: skip
        try:
            stdout, stderr = running.communicate(stdin, timeout)
        finally:
            end(running)
        done = subprocess.CompletedProcess(list(command), running.returncode, stdout, stderr)
        if check and done.returncode:
            raise AssertionError(f"{list(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def popen(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        netns: str = "",
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start a command in it. The process returned waits for it; ``end`` ends it, ``child_of`` gives its pid."""
        return subprocess.Popen(
            self.argv(command, netns=netns), env=environment(env), cwd="/", stdin=stdin, stdout=stdout, stderr=stderr
        )

    def virsh(self, *args: str, check: bool = True, timeout: float = 60) -> Result:
        """Run virsh in it."""
        return self.run(["virsh", "-q", "-c", "qemu:///system", *args], check=check, timeout=timeout)

    # libvirt

    def start_libvirtd(self) -> None:
        """Start virtlogd and libvirtd; returns when libvirtd answers (0.5-1 s)."""
        daemons.start(self)

    def stop_libvirtd(self) -> None:
        """End libvirtd in an orderly way; guests go on, as does virtlogd."""
        daemons.stop(self, signal.SIGTERM)

    def kill_libvirtd(self) -> None:
        """``kill -9`` libvirtd; guests go on, as does virtlogd."""
        daemons.stop(self, signal.SIGKILL)

    def reload_libvirtd(self) -> None:
        """Let libvirtd look for hooks again (it finds new ones only at start or reload)."""
        daemons.reload(self)

    # the agent

    def start_agent(
        self, env: Mapping[str, str] | None = None, *, wait: float = 90, within: Sequence[str] = ()
    ) -> float:
        """Start ``lvagent serve`` of this tree in it; its output goes to /var/log/lvagent.log.

        :param env: settings (``LVAGENT_SWEEP_INTERVAL``) over the defaults.
        :param wait: seconds to wait for /readyz; 0: do not wait.
        :param within: a command that executes it (``setpriv ...``), and becomes it by that.
        :return: seconds until it was ready.
        :raise LabError: it ended, or was not ready in time; the text has the end of its log.
        """
        if self._agent is not None and self._agent.poll() is None:
            raise LabError("the agent runs")
        command = [*within, sys.executable, "-P", "-m", "lvagent", "serve"]
        started = time.monotonic()
        with open(self.path("/var/log/lvagent.log"), "ab") as log:
            self._agent = self.popen(command, env={**tree_environment(), **(env or {})}, stdout=log, stderr=log)
        if wait:
            self._wait_ready(started + wait)
        return time.monotonic() - started

    def _wait_ready(self, deadline: float) -> None:
        while not self._ready():
            if self._agent is None or self._agent.poll() is not None:
                raise LabError(f"the agent ended\n{self.agent_log()}")
            if time.monotonic() > deadline:
                raise LabError(f"the agent is not ready\n{self.agent_log()}")
            time.sleep(0.02)

    def _ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.api("GET", "/readyz").status == 200
        return False

    @property
    def agent_pid(self) -> int:
        """The agent's pid as seen from the machine; 0 when it does not run."""
        return child_of(self._agent) if self._agent is not None and self._agent.poll() is None else 0

    def kill_agent(self, number: signal.Signals = signal.SIGKILL, *, wait: float = 60) -> int:
        """Send the agent a signal and wait for its end.

        :return: its exit code, negative for a signal.
        """
        if self._agent is None:
            raise LabError("there is no agent")
        code = end(self._agent, number, wait=wait)
        self._agent = None
        return code

    def freeze_agent(self) -> None:
        """SIGSTOP: the agent hangs, with its sockets open, until ``thaw_agent``."""
        if self._agent is None:
            raise LabError("there is no agent")
        freeze(self._agent)

    def thaw_agent(self) -> None:
        """Let a frozen agent go on."""
        if self._agent is None:
            raise LabError("there is no agent")
        thaw(self._agent)

    def agent_log(self, tail: int = 4000) -> str:
        """The end of what the agent wrote, at most ``tail`` characters."""
        log = self.path("/var/log/lvagent.log")
        return log.read_text(errors="replace")[-tail:] if log.exists() else ""

    def api(self, method: str, path: str, body: object = None, *, timeout: float = 120, **headers: str) -> Answer:
        """Call the agent over its unix socket.

        :param body: sent as JSON; bytes are sent as they are; None: no body.
        :param headers: more headers, ``Prefer="respond-async"``; an underscore stands for a hyphen.
        :raise OSError: nobody listens.
        """
        return request(str(self.path("/run/lvagent/api.sock")), method, path, body, timeout=timeout, headers=headers)

    # guests

    def guest_ssh(
        self,
        vpc: str,
        address: str,
        command: str,
        key: Path,
        *,
        wait: float = 0,
        user: str = "root",
        check: bool = True,
    ) -> Result:
        """Run a command in a guest over SSH, from inside its VPC's namespace.

        :param key: private key, a path of the machine that the lab sees too.
        :param wait: go on trying for this many seconds until the guest answers.
        :raise AssertionError: it never answered, or (with ``check``) the command ended badly.
        """
        deadline = time.monotonic() + wait
        ssh = ["ssh", "-F", "none", "-i", str(key), *SSH_OPTIONS, f"{user}@{address}", command]
        while True:
            done = self.run(ssh, netns=vpc, check=False, timeout=60)
            if done.returncode != SSH_FAILED or time.monotonic() > deadline:
                break
            time.sleep(0.3)
        if done.returncode == SSH_FAILED or (check and done.returncode):
            raise AssertionError(f"ssh {address} {command!r}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def guest_console(self, vm: str) -> str:
        """What a guest wrote to its serial console, as its log file has it; empty if there is none."""
        return daemons.console(self, vm)
