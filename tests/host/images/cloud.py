"""A cloud of one namespace for the images' tests: taps, dnsmasq, metadata; and guests under plain qemu.

It stands for lvagent's own data path, and is as small as a guest allows: what a guest sees (reservations by MAC, router
advertisements without autoconfiguration, metadata at the link-local address) is the same.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lvagent.host import netns

MTU = 1450
DNSMASQ = """\
keep-in-foreground
log-facility={log}
no-resolv
no-hosts
user=root
pid-file=
dhcp-leasefile={leases}
bind-interfaces
except-interface=lo
dhcp-authoritative
domain=vpc.internal
enable-ra
"""
SUBNET = """\
interface={tap}
dhcp-range=set:s{number},10.9.{number}.0,static,255.255.255.0,1h
dhcp-range=set:s{number},fd09:{number}::,static,64,1h
ra-param={tap},mtu:{mtu},30,1800
dhcp-option=tag:s{number},option:mtu,{mtu}
dhcp-host={mac},10.9.{number}.5,[fd09:{number}::5],guest{number}
"""
NO_ROUTE = "dhcp-option=tag:s{number},option:router\n"


@dataclass
class Guest:
    """A running qemu: its console as lines with the seconds since the start, SSH, and its monitor."""

    process: subprocess.Popen[bytes]
    started: float
    monitor: Path
    namespace: str
    key: Path
    lines: list[tuple[float, str]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def read(self) -> None:
        """Collect the console until qemu ends; runs in a thread."""
        assert self.process.stdout
        for raw in self.process.stdout:
            with self.changed:
                self.lines.append((time.monotonic() - self.started, raw.decode(errors="replace").rstrip()))
                self.changed.notify_all()

    def wait_for(self, pattern: str, timeout: float = 180) -> tuple[float, re.Match[str]]:
        """The first line of the console that matches, and when it came."""
        end = time.monotonic() + timeout
        with self.changed:
            while True:
                for at, text in self.lines:
                    if match := re.search(pattern, text):
                        return at, match
                assert self.changed.wait(end - time.monotonic()), f"no {pattern!r} in {self.console()}"

    def console(self) -> str:
        """All that was printed so far."""
        return "\n".join(f"{at:6.2f} {text}" for at, text in self.lines)

    def ssh(self, command: str, *, address: str = "10.9.0.5", user: str = "root", timeout: float = 90) -> str:
        """Run a command in the guest; tries again while it does not answer yet.

        :raise AssertionError: it did not answer, or the command failed.
        """
        argv = ["nsenter", f"--net=/run/netns/{self.namespace}", "ssh", "-i", str(self.key)]
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=10"]
        options += ["IdentitiesOnly=yes", "LogLevel=ERROR"]
        argv += [word for option in options for word in ("-o", option)] + [f"{user}@{address}", command]
        end = time.monotonic() + timeout
        while True:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
            if done.returncode == 0:
                return done.stdout
            said = f"{command}: {done.stderr}{done.stdout}"
            assert done.returncode == 255, said
            assert time.monotonic() < end, said
            time.sleep(0.2)

    def press_power(self) -> None:
        """Press the power button (ACPI), by QMP."""
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(self.monitor))
            with link.makefile("rw") as talk:
                talk.readline()
                for command in ("qmp_capabilities", "system_powerdown"):
                    talk.write(json.dumps({"execute": command}) + "\n")
                    talk.flush()
                    talk.readline()


class Documents(http.server.BaseHTTPRequestHandler):
    """Serves the documents of its server's ``documents``; counts what was asked for."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        body = self.server.documents.get(self.path)  # type: ignore[attr-defined]
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def do_PUT(self) -> None:
        """The token of IMDSv2."""
        known = self.path == "/latest/api/token"
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", "5" if known else "0")
        self.end_headers()
        self.wfile.write(b"token" if known else b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Quiet."""


class Service(http.server.ThreadingHTTPServer):
    """Metadata on a socket that exists already (made inside the namespace)."""

    def __init__(self, listener: socket.socket, documents: Mapping[str, bytes], asked: list[str]) -> None:
        super().__init__(("", 0), Documents, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.documents = documents
        self.asked = asked


class Cloud:
    """The namespace, with ``nics`` taps (t0, t1 ..), each in a subnet of its own: 10.9.N.0/24 and fd09:N::/64.

    Only t0's subnet offers a default route by DHCPv4.
    """

    def __init__(self, folder: Path, stack: contextlib.ExitStack, nics: int = 1) -> None:
        self.folder, self.stack, self.nics = folder, stack, nics
        self.namespace = f"lvtest-{secrets.token_hex(4)}"
        self.documents: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        self._network()

    @property
    def public_key(self) -> str:
        """The public half of the key that ``Guest.ssh`` uses."""
        return self.key.with_suffix(".pub").read_text().strip()

    def mac(self, number: int) -> str:
        """The MAC of a guest's NIC."""
        return f"06:00:00:00:09:{number:02x}"

    def _network(self) -> None:
        self.stack.callback(subprocess.run, ["ip", "netns", "del", self.namespace], check=True)
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        self._ip("link set lo up", "addr add 169.254.169.254/32 dev lo", "addr add fd00:ec2::254/128 dev lo nodad")
        netns.inside(f"/run/netns/{self.namespace}", self._sysctl)
        for number in range(self.nics):
            tap = f"t{number}"
            self._ip(f"tuntap add {tap} mode tap", f"link set {tap} mtu {MTU}")
            self._ip(f"addr add 10.9.{number}.1/24 dev {tap}", f"addr add fd09:{number}::1/64 dev {tap} nodad")
            self._ip(f"link set {tap} up")

    @staticmethod
    def _sysctl() -> None:
        for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path(f"/proc/sys/net/{family}").write_text("1")

    def _ip(self, *commands: str) -> None:
        subprocess.run(["ip", "-n", self.namespace, "-batch", "-"], input="\n".join(commands), text=True, check=True)

    def serve_dhcp(self) -> None:
        """Start dnsmasq with a reservation per NIC."""
        text = DNSMASQ.format(log=self.folder / "dnsmasq.log", leases=self.folder / "leases")
        for number in range(self.nics):
            text += SUBNET.format(tap=f"t{number}", number=number, mtu=MTU, mac=self.mac(number))
            text += NO_ROUTE.format(number=number) if number else ""
        config = self.folder / "dnsmasq.conf"
        config.write_text(text)
        self._spawn(["dnsmasq", "-C", str(config)])

    def serve_metadata(self, documents: Mapping[str, bytes]) -> None:
        """Serve these documents (path to content) on both metadata addresses."""
        self.documents.update(documents)
        for family, address in ((socket.AF_INET, "169.254.169.254"), (socket.AF_INET6, "fd00:ec2::254")):
            listener = netns.inside(f"/run/netns/{self.namespace}", lambda f=family, a=address: _listen(f, a))
            service = Service(listener, self.documents, self.asked)
            self.stack.callback(service.server_close)
            thread = threading.Thread(target=service.serve_forever, daemon=True)
            self.stack.callback(thread.join)
            self.stack.callback(service.shutdown)
            thread.start()

    def _spawn(self, argv: Sequence[str], output: int | None = None) -> subprocess.Popen[bytes]:
        command = ["nsenter", f"--net=/run/netns/{self.namespace}", *argv]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output)
        self.stack.callback(_end, process)
        return process

    def boot(self, disk: Path, *options: str, memory: int = 128, translated: int = 64) -> Guest:
        """Start a guest with a NIC on each tap.

        :param memory: MiB.
        :param translated: MiB of translated code that qemu keeps. With its default of hundreds, a reboot takes 20 s:
            the new kernel is unpacked over pages that still count as code of the old one.
        """
        monitor = self.folder / f"qmp-{secrets.token_hex(4)}"
        argv = ["qemu-system-x86_64", "-machine", "q35", "-accel", f"tcg,tb-size={translated}", "-cpu", "max"]
        argv += ["-m", str(memory), "-nodefaults", "-display", "none", "-serial", "stdio", "-device", "virtio-rng-pci"]
        argv += ["-drive", f"file={disk},if=virtio,format=qcow2", "-qmp", f"unix:{monitor},server=on,wait=off"]
        for number in range(self.nics):
            argv += ["-netdev", f"tap,id=n{number},ifname=t{number},script=no,downscript=no"]
            argv += ["-device", f"virtio-net-pci,netdev=n{number},mac={self.mac(number)}"]
        started = time.monotonic()
        guest = Guest(self._spawn([*argv, *options], subprocess.PIPE), started, monitor, self.namespace, self.key)
        threading.Thread(target=guest.read, daemon=True).start()
        return guest


def _listen(family: socket.AddressFamily, address: str) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, 80))
    listener.listen(32)
    return listener


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


@contextlib.contextmanager
def cloud(nics: int = 1) -> Iterator[Cloud]:
    """A cloud; all of it is gone afterwards."""
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="lvtest-"))
        stack.callback(shutil.rmtree, folder)
        yield Cloud(folder, stack, nics)


def overlay(image: Path, folder: Path, size: str) -> Path:
    """A qcow2 over an image, grown to ``size``, as a VM gets it."""
    path = folder / f"{image.stem}-{secrets.token_hex(4)}.qcow2"
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image), str(path), size]
    subprocess.run(argv, check=True)
    return path


def ec2(instance: str, hostname: str, keys: Sequence[str], user_data: bytes | None = None) -> dict[str, bytes]:
    """The part of an EC2 metadata tree that the tiny image reads."""
    tree = {
        "meta-data/instance-id": instance.encode(),
        "meta-data/local-hostname": f"{hostname}.vpc.internal".encode(),
        "meta-data/public-keys/": "".join(f"{number}=key-{number}\n" for number, _ in enumerate(keys)).encode(),
    }
    for number, key in enumerate(keys):
        tree[f"meta-data/public-keys/{number}/openssh-key"] = key.encode()
    if user_data is not None:
        tree["user-data"] = user_data
    return {f"/latest/{name}": content for name, content in tree.items()}
