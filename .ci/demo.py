#!/usr/bin/python3
"""The demo: two VPCs with the same addresses, two VMs in each, made over HTTP; waits until all answer and shows it.

Run again, it finds the VMs as they are: the agent answers an equal PUT with 200 and does nothing.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOCKET = "/run/lvagent/api.sock"
KEY = Path("/run/lvagent/demo/id_ed25519")
PATIENCE = 300  # seconds until a guest must have answered; some 15 are usual without KVM

SSH = [
    "ssh", "-F", "none", "-i", str(KEY), "-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-oConnectTimeout=3",
    "-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR", "-oIdentitiesOnly=yes",
]  # fmt: skip


@dataclass(frozen=True)
class Vm:
    """One VM of the demo: ``host`` is the last part of its addresses."""

    ident: str
    vpc: str
    subnet: str
    vni: int
    host: int

    @property
    def v4(self) -> str:
        return f"10.77.0.{self.host}"

    @property
    def v6(self) -> str:
        return f"fd00:77::{self.host}"

    def spec(self, key: str) -> dict[str, object]:
        """What is sent to the agent."""
        network = {"vxlanid": self.vni, "netname": self.vpc, "subnetname": self.subnet, "position": 0}
        network |= {"ipv4": f"{self.v4}/24", "gateway_v4": "10.77.0.1"}
        network |= {"ipv6": f"{self.v6}/64", "gateway_v6": "fd00:77::1"}
        volume = {"path": f"/var/lib/lvagent/volumes/{self.ident}.qcow2", "position": 0, "image": "tiny"}
        rules = [{"proto": "tcp", "port": 22}, {"proto": "icmp"}, {"proto": "icmpv6"}]
        return {
            "id": self.ident, "memory_mb": 128, "cpus": 1, "volumes": [volume], "networks": [network],
            "rules": rules, "keys": [key],
        }  # fmt: skip


RED, BLUE = ("vpc-demo00red0", "subnet-demo00red0", 7701), ("vpc-demo0blue0", "subnet-demo0blue0", 7702)
VMS = [
    Vm("i-7700000001", *RED, host=11),
    Vm("i-7700000002", *RED, host=12),
    Vm("i-7700000003", *BLUE, host=11),
    Vm("i-7700000004", *BLUE, host=13),
]


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the agent's socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(SOCKET)


def call(method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
    connection = UnixConnection("localhost", timeout=300)
    raw = None if body is None else json.dumps(body)
    connection.request(method, path, raw, {"Content-Type": "application/json"} if raw else {})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else {}


def make_key() -> str:
    """A fresh key, kept for as long as the host is up; its public line."""
    KEY.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not KEY.exists():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lvagent-demo", "-f", str(KEY)], check=True
        )
    return KEY.with_suffix(".pub").read_text().strip()


def create(vm: Vm, key: str) -> str:
    """PUT it; a line of what came of it."""
    status, found = call("GET", f"/v1/vms/{vm.ident}")
    if status == 200 and vm.vpc not in json.dumps(found):
        raise SystemExit(f"{vm.ident} exists and is not of the demo: it is left alone")
    began = time.monotonic()
    status, answer = call("PUT", f"/v1/vms/{vm.ident}", vm.spec(key))
    if status not in (200, 201):
        raise SystemExit(f"{vm.ident}: {status} {json.dumps(answer)}")
    word = "created" if status == 201 else "was there"
    return f"  {vm.ident}  {vm.vpc}  {vm.v4}  {word} in {(time.monotonic() - began) * 1000:.0f} ms"


def ssh(vm: Vm, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the guest, from inside its VPC."""
    argv = ["ip", "netns", "exec", vm.vpc, *SSH, f"root@{vm.v4}", command]
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)


def wait_for(vm: Vm) -> float:
    """Wait until it answers over SSH; the seconds that took."""
    began = time.monotonic()
    while True:
        done = ssh(vm, "true")
        if done.returncode == 0:
            return time.monotonic() - began
        if time.monotonic() - began > PATIENCE:
            raise SystemExit(f"{vm.ident} does not answer over SSH: {done.stderr.strip()}")
        time.sleep(0.5)


def pings(vm: Vm, address: str) -> bool:
    """Whether the guest reaches an address."""
    return ssh(vm, f"ping -c 1 -W 2 {address} >/dev/null 2>&1").returncode == 0


def check(what: str, got: bool, wanted: bool) -> None:
    say(f"  {what}: {'reached' if got else 'not reached'}{'' if got == wanted else '   WRONG'}")
    if got != wanted:
        raise SystemExit(1)


def show_reach() -> None:
    """Neighbours are reached, the other VPC is not."""
    red1, red2, blue1, blue2 = VMS
    check(f"{red1.ident} -> {red2.v4}  its neighbour {red2.ident}", pings(red1, red2.v4), True)
    check(f"{blue1.ident} -> {blue2.v4}  its neighbour {blue2.ident}", pings(blue1, blue2.v4), True)
    check(f"{red1.ident} -> {blue2.v4}  {blue2.ident} of the other VPC", pings(red1, blue2.v4), False)
    check(f"{blue1.ident} -> {red2.v4}  {red2.ident} of the other VPC", pings(blue1, red2.v4), False)


def show_table(seconds: list[float]) -> None:
    say(f"  {'VM':13} {'VPC':15} {'IPv4':12} {'IPv6':14} {'state':8} SSH after")
    for vm, waited in zip(VMS, seconds, strict=True):
        state = call("GET", f"/v1/vms/{vm.ident}")[1].get("state", "?")
        say(f"  {vm.ident:13} {vm.vpc:15} {vm.v4:12} {vm.v6:14} {state!s:8} {waited:.0f} s")


def show_commands() -> None:
    vm = VMS[0]
    options = "-oStrictHostKeyChecking=no -oUserKnownHostsFile=/dev/null"
    say("Try:")
    say(f"  curl -s --unix-socket {SOCKET} http://localhost/v1/vms/{vm.ident}")
    say("  lvagent vm ls")
    say(f"  virsh -c qemu:///system dumpxml {vm.ident}")
    say(f"  ip -n {vm.vpc} addr")
    say(f"  ip netns exec {vm.vpc} ssh -i {KEY} {options} root@{vm.v4}")


def main() -> None:
    """Make the VMs, wait for them, show them."""
    if os.geteuid() != 0:
        raise SystemExit("this needs root")
    key = make_key()
    say("creating the VMs:")
    with ThreadPoolExecutor(len(VMS)) as together:
        for line in together.map(lambda vm: create(vm, key), VMS):
            say(line)
        say("waiting until they answer over SSH ...")
        seconds = list(together.map(wait_for, VMS))
    say()
    show_table(seconds)
    say()
    show_reach()
    say()
    show_commands()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
