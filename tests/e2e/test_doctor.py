"""The doctor on a real host: well it says so; each thing broken by hand is found, named, and repaired if it is ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lvagent.spec.names import nic_mac
from tests.e2e.specs import nic, vm
from tests.lab.host import LabHost

pytestmark = pytest.mark.e2e

A, VM = "vpc-aaaaaaaaaa", "i-0000000001"
TAP = "t0000000001-0"
SLOW_SWEEPS = {"LVAGENT_SWEEP_INTERVAL": "3600"}
VOLUMES = "/var/lib/lvagent/volumes"
STRANGER = "lvx998"

Said = dict[str, Any]


def doctor(lab: LabHost, *more: str) -> tuple[int, Said]:
    done = lab.run(["lvagent", "-o", "json", "doctor", *more], check=False, timeout=60)
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


def bad(said: Said) -> list[str]:
    return [f"{one['subject']}: {one['text']}" for one in said["findings"] if one["level"] in ("FAIL", "UNKNOWN")]


@pytest.fixture(scope="module")
def host(agent_lab: LabHost) -> LabHost:
    """A host with a VM that runs, and an agent that does not sweep by itself."""
    agent_lab.kill_agent()
    agent_lab.start_agent(SLOW_SWEEPS)
    disk = {"path": f"{VOLUMES}/{VM}.qcow2", "position": 0, "size_gb": 1}
    assert agent_lab.api("PUT", f"/v1/vms/{VM}", vm(1, nic(host=5), volumes=[disk])).status == 201
    agent_lab.run(["ip", "link", "add", STRANGER, "type", "bridge"])
    return agent_lab


def test_a_well_host(host: LabHost) -> None:
    code, said = doctor(host)
    assert (code, bad(said), said["repairs"], said["done"]) == (0, [], [], [])
    assert STRANGER not in json.dumps(said)
    told = {one["subject"]: one["text"] for one in said["findings"] if one["level"] == "PASS"}
    assert {"libvirt", "qemu", "dnsmasq", "hook", A, "links", "domains", "underlay", "tokens"} <= told.keys()
    text = host.run(["lvagent", "doctor"]).stdout
    assert f"PASS    {A}: namespace" in text
    assert "FAIL" not in text


def in_vpc(*command: str) -> Callable[[LabHost], object]:
    return lambda host: host.run(list(command), netns=A)


def dnsmasq_pid(host: LabHost) -> str:
    return host.path(f"/run/lvagent/dnsmasq/{A}/pid").read_text().strip()


def metadata_pid(host: LabHost) -> str:
    arguments = {path.parent.name: path.read_bytes().split(b"\0") for path in host.path("/proc").glob("[0-9]*/cmdline")}
    (pid,) = (pid for pid, argv in arguments.items() if b"--name=/run/lvagent/metadata.sock" in argv)
    return pid


BROKEN: dict[str, tuple[Callable[[LabHost], object], str]] = {
    "a dnsmasq": (lambda host: host.run(["kill", "-9", dnsmasq_pid(host)]), f"{A}: its dnsmasq does not run"),
    "the lease file": (
        lambda host: host.path(f"/run/lvagent/dnsmasq/{A}/leases").unlink(),
        f"{A}: the lease file of its dnsmasq is gone",
    ),
    "a reservation": (
        lambda host: host.path(f"/run/lvagent/dnsmasq/{A}/hosts.d/{VM}-0").write_text("02:00:00:00:00:01,10.0.0.77\n"),
        f"{A}: its dnsmasq serves other than the specs say",
    ),
    "a bridge": (in_vpc("ip", "link", "set", "br-aaaaaaaaaa", "down"), f"{A}: not as it should be: subnet"),
    "a gateway": (
        in_vpc("ip", "addr", "del", "10.0.0.1/24", "dev", "br-aaaaaaaaaa"),
        f"{A}: not as it should be: subnet subnet-aaaaaaaaaa",
    ),
    "a tap": (in_vpc("ip", "link", "set", TAP, "nomaster"), f"{A}: the port {TAP} of {VM}, which runs, is there, but"),
    "the FDB": (
        in_vpc("bridge", "fdb", "del", nic_mac(VM, 0), "dev", TAP, "master"),
        f"{A}: the bridge does not know that",
    ),
    "a sysctl that a sweep looks at": (
        in_vpc("sysctl", "-qw", "net.ipv4.ip_forward=0"),
        f"{A}: net/ipv4/ip_forward is 0, not 1",
    ),
    "a sysctl that it does not": (
        in_vpc("sysctl", "-qw", "net.ipv4.conf.all.send_redirects=1"),
        f"{A}: net/ipv4/conf/all/send_redirects is 1, not 0",
    ),
    "the VXLAN device": (
        lambda host: host.run(["ip", "link", "del", "lvx100"], netns="lvfabric"),
        f"{A}: missing: VXLAN 100",
    ),
    "a link of ours that is left over": (
        lambda host: host.run(["ip", "link", "add", "lvx999", "group", str(0x6C76), "type", "bridge"]),
        "links: lvx999 in the root namespace bears our mark",
    ),
    "a segment that nobody wants": (
        lambda host: host.run(
            ["ip", "link", "add", "lvb999", "group", str(0x6C76), "type", "bridge"], netns="lvfabric"
        ),
        "underlay side: nobody wants it: bridge of VNI 999",
    ),
    "a VPC that nobody wants": (
        lambda host: host.run(["ip", "netns", "add", "vpc-zzzzzzzzzz"]),
        "vpc-zzzzzzzzzz: nobody wants it: namespace vpc-zzzzzzzzzz",
    ),
    "user data of nobody": (
        lambda host: host.run(["virsh", "-q", "secret-define", "/dev/stdin"], stdin=SECRET),
        "secrets: libvirt keeps the user data of i-0000000777",
    ),
    "the mode of the volumes' folder": (
        lambda host: host.run(["chmod", "777", VOLUMES]),
        f"{VOLUMES}: has mode 0777: others may write to it",
    ),
    "the metadata process": (
        lambda host: host.run(["kill", "-9", metadata_pid(host)]),
        f"{A}: no metadata is served in it",
    ),
    "a sysctl of the fabric": (
        lambda host: host.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"], netns="lvfabric"),
        "lvfabric: net/ipv4/ip_forward is 1, not 0",
    ),
    "the mode of the hook": (
        lambda host: host.run(["chmod", "644", "/etc/libvirt/hooks/qemu.d/lvagent"]),
        "hook: /etc/libvirt/hooks/qemu.d/lvagent has mode 0644",
    ),
    "the hook": (
        lambda host: host.path("/etc/libvirt/hooks/qemu.d/lvagent").unlink(),
        "hook: /etc/libvirt/hooks/qemu.d/lvagent is not there",
    ),
}

SECRET = (
    "<secret ephemeral='no' private='no'><description>user data</description>"
    "<usage type='vtpm'><name>lvagent:i-0000000777</name></usage></secret>"
)


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_found_named_and_repaired(host: LabHost, what: str) -> None:
    break_it, named = BROKEN[what]
    break_it(host)
    code, dry = doctor(host, "--fix")
    assert code == 1
    assert any(line.startswith(named) for line in bad(dry)), bad(dry)
    assert dry["repairs"]
    assert dry["done"] == []
    code, fixed = doctor(host, "--fix", "--yes")
    assert (code, bad(fixed)) == (0, []), fixed["done"]
    assert [one["error"] for one in fixed["done"]] == [""] * len(dry["repairs"])


def secrets(host: LabHost) -> list[str]:
    """The UUIDs of the secrets with user data of the VM."""
    lines = host.virsh("secret-list").stdout.splitlines()
    return [line.split()[0] for line in lines if f"lvagent:{VM}" in line]


def lose_user_data(host: LabHost) -> None:
    (uuid,) = secrets(host)
    host.virsh("secret-undefine", uuid)


def test_user_data_that_is_gone(host: LabHost) -> None:
    """An agent that still knows it puts it back; what nobody knows has to be sent again."""
    spec = vm(1, nic(host=5), volumes=[{"path": f"{VOLUMES}/{VM}.qcow2", "position": 0, "size_gb": 1}])
    with_data = {**spec, "user_data": "#!/bin/true\n"}
    assert host.api("PUT", f"/v1/vms/{VM}", with_data).status == 200
    lose_user_data(host)
    code, fixed = doctor(host, "--fix", "--yes")
    assert (code, bool(fixed["done"]), len(secrets(host))) == (0, True, 1)
    lose_user_data(host)
    host.kill_agent()
    host.start_agent(SLOW_SWEEPS)
    named = f"{VM}: its user data is gone: libvirt has no such secret"
    assert bad(doctor(host, "--fix", "--yes")[1]) == [named]
    assert host.api("PUT", f"/v1/vms/{VM}", with_data).status == 200
    assert len(secrets(host)) == 1
    assert host.api("PUT", f"/v1/vms/{VM}", spec).status == 200
    assert secrets(host) == []


def test_it_repairs_without_an_agent(host: LabHost) -> None:
    """An agent that runs has the filter back before a doctor could look."""
    host.kill_agent()
    in_vpc("nft", "flush", "ruleset")(host)
    code, dry = doctor(host, "--fix")
    assert code == 1
    assert any(line.startswith(f"{A}: missing: filter of port {TAP}") for line in bad(dry)), bad(dry)
    code, fixed = doctor(host, "--fix", "--yes")
    assert (code, bad(fixed)) == (0, []), fixed["done"]
    host.start_agent(SLOW_SWEEPS)


def test_what_is_not_ours_is_told_and_stays(host: LabHost) -> None:
    rules = "add table ip filter; add chain ip filter DOCKER-USER; "
    rules += "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; "
    rules += "add rule ip filter FORWARD jump DOCKER-USER; add table ip nat"
    host.run(["nft", *rules.split()])
    host.run(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"])
    before = host.run(["nft", "-a", "list", "ruleset"]).stdout
    code, said = doctor(host, "--fix", "--yes")
    told = [one for one in said["findings"] if one["subject"] == "bridged traffic"]
    assert (code, [one["level"] for one in told]) == (0, ["WARN"])
    assert told[0]["text"].startswith("table ip filter, chain FORWARD: policy drop (Docker). tenants do not meet it")
    assert host.run(["nft", "-a", "list", "ruleset"]).stdout == before
    assert host.run(["sysctl", "-n", "net.bridge.bridge-nf-call-iptables"]).stdout.strip() == "1"
    host.run(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0"])
    host.run(["nft", "flush", "ruleset"])


def test_vxlan_that_is_not_let_in(host: LabHost) -> None:
    host.run(["nft", "add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; }"])
    code, said = doctor(host)
    assert code == 1
    line = "UDP 4789 into this host: table inet fw, chain in: policy drop, and nothing there accepts UDP 4789"
    assert bad(said) == [line]
    host.run(["nft", "add rule inet fw in udp dport 4789 accept"])
    assert doctor(host)[0] == 0
    host.run(["nft", "delete table inet fw"])


def test_a_stranger_with_a_name_like_ours_stays(host: LabHost) -> None:
    host.run(["ip", "link", "add", "lvx997", "group", str(0x6C76), "type", "bridge"])
    before = host.run(["ip", "-d", "link", "show", STRANGER]).stdout
    assert doctor(host, "--fix", "--yes")[0] == 0
    assert host.run(["ip", "-d", "link", "show", STRANGER]).stdout == before
    assert host.run(["ip", "link", "show", "lvx997"], check=False).returncode != 0


def test_libvirt_away_is_told(host: LabHost) -> None:
    host.stop_libvirtd()
    code, said = doctor(host)
    assert code == 1
    assert "libvirt: libvirtd is not available" in bad(said)
    assert any(line.startswith("what the specs call for: could not be compared") for line in bad(said))
    host.start_libvirtd()


def test_who_is_not_root_is_told(host: LabHost) -> None:
    done = host.run(["setpriv", "--reuid=65534", "--clear-groups", "lvagent", "doctor"], check=False)
    assert done.returncode == 2
    assert "only root" in done.stderr
