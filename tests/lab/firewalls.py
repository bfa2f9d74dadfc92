"""The firewalls themselves, and Docker: set up, told and ended by their own means, as a host without systemd would."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.lab.aside import Aside, until
from tests.lab.commands import TREE, end

PACKAGES = ("firewalld", "ufw", "docker.io", "nftables", "iptables", "dbus-daemon")

BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/><allow receive_sender="*"/><allow send_destination="*" eavesdrop="true"/>
  </policy>
</busconfig>
"""


def advised(heading: str) -> list[str]:
    """The commands of a section of docs/operations.md; what stands there is what is tried."""
    text = (TREE / "docs/operations.md").read_text()
    section = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
    assert section, heading
    found = [line.strip().partition("    #")[0] for line in section[1].splitlines() if line.startswith("    ")]
    assert found
    return found


class Daemon:
    """A program that stays."""

    def __init__(self, aside: Aside) -> None:
        self.aside = aside
        self._process: subprocess.Popen[bytes] | None = None

    def _run(self, *command: str, log: str) -> None:
        with open(self.aside.path(log), "ab") as file:
            self._process = self.aside.start(*command, log=file)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it; returns when it has ended."""
        assert self._process is not None
        end(self._process, number)

    def tell(self, command: str) -> str:
        """Have a command of its own done."""
        return self.aside.run("sh", "-ec", command)


class Firewalld(Daemon):
    """firewalld with its nftables backend, on a bus of its own.

    :param settings: of firewalld.conf, over Debian's.
    """

    def __init__(self, aside: Aside, **settings: str) -> None:
        super().__init__(aside)
        aside.write("/run/dbus/bus.conf", BUS)
        aside.start("dbus-daemon", "--nofork", "--nopidfile", "--config-file=/run/dbus/bus.conf")
        assert until(aside.path("/run/dbus/system_bus_socket").exists, 60)
        conf = aside.path("/etc/firewalld/firewalld.conf")
        lines = [line for line in conf.read_text().splitlines() if line.partition("=")[0] not in settings]
        conf.write_text("\n".join([*lines, *(f"{name}={value}" for name, value in settings.items()), ""]))
        self.start()

    def start(self) -> None:
        """Start it; returns when it has its rules."""
        self._run("firewalld", "--nofork", "--nopid", log="/var/log/firewalld.out")
        assert until(self._answers, 90, 0.1), self.aside.run("cat", "/var/log/firewalld.out", "/var/log/firewalld")

    def _answers(self) -> bool:
        return self.aside.run("firewall-cmd", "--state", check=False) == "running\n"


class Dockerd(Daemon):
    """dockerd with its own containerd, and no containers: what counts here are its rules."""

    def __init__(self, aside: Aside) -> None:
        super().__init__(aside)
        self.start()

    def start(self) -> None:
        """Start it; returns when it has its rules, and its network."""
        self._run(
            "dockerd", "--data-root=/run/docker-data", "--exec-root=/run/docker-exec", "--pidfile=/run/dockerd.pid",
            "--host=unix:///run/dockerd.sock", "--storage-driver=vfs", log="/var/log/dockerd",
        )  # fmt: skip
        listening = ["curl", "-sf", "--unix-socket", "/run/dockerd.sock", "http://docker/_ping"]
        assert until(lambda: self.aside.run(*listening, check=False) == "OK", 120, 0.1), self.said()

    def said(self) -> str:
        """Its log."""
        return self.aside.path("/var/log/dockerd").read_text()


class Ufw(Daemon):
    """ufw, which is no daemon: enabled as it is after an installation."""

    def __init__(self, aside: Aside) -> None:
        super().__init__(aside)
        for name, source in _configuration(aside):
            aside.write(f"/etc/ufw/{name}", source.read_text())
        self.tell("ufw --force enable")


def _configuration(aside: Aside) -> Iterator[tuple[str, Path]]:
    """What the package's script lays into /etc/ufw; those in ``iptables`` are the rules themselves."""
    for folder in ("/usr/share/ufw", "/usr/share/ufw/iptables"):
        for path in sorted(aside.path(folder).iterdir()):
            if path.suffix in (".rules", ".init", ".conf"):
                yield path.name, path
