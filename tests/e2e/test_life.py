"""What people do to a VM in its life, through the API, by hand with virsh, and to the daemons that it stands on.

Domains without disks, on a real libvirtd, with an agent that sweeps every second.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.specs import Spec, nic, vm
from tests.lab.host import Answer, LabHost

pytestmark = pytest.mark.e2e

A, B, Z = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb", "vpc-zzzzzzzzzz"
VM = "i-0000000001"
TAP = "t0000000001-0"
SWEEP = {"LVAGENT_SWEEP_INTERVAL": "1"}
VOLUMES = "/var/lib/lvagent/volumes"
MOVED = nic(Z, "subnet-zzzzzzzzzz", vni=77)
SECOND = nic(subnet="subnet-bbbbbbbbbb", net=1, vni=0, position=1)


class Life:
    """The lab, with words for what is done here."""

    def __init__(self, lab: LabHost) -> None:
        self.lab = lab

    def put(self, spec: Spec, **headers: str) -> Answer:
        return self.lab.api("PUT", f"/v1/vms/{spec['id']}", spec, **headers)

    def made(self, *specs: Spec) -> None:
        assert [self.put(spec).status for spec in specs] == [201] * len(specs)

    def act(self, action: str, vm: str = VM) -> Answer:
        return self.lab.api("POST", f"/v1/vms/{vm}/{action}")

    def restart(self, vm: str = VM) -> None:
        assert [self.act(action, vm).status for action in ("stop", "start")] == [200, 200]

    def delete(self, query: str = "", vm: str = VM) -> int:
        return self.lab.api("DELETE", f"/v1/vms/{vm}{query}").status

    def vm(self, vm: str = VM) -> Any:  # noqa: ANN401 - JSON is of any type
        return self.lab.api("GET", f"/v1/vms/{vm}").json

    def taps(self, vpc: str = A) -> set[str]:
        """The taps in a VPC; none if it is not there."""
        names = self.lab.run(["ip", "-n", vpc, "-br", "link"], check=False).stdout.split("\n")
        return {name.split()[0] for name in names if name.startswith("t0")}

    def reserved(self, vpc: str = A) -> set[str]:
        """The addresses that a VPC's dnsmasq gives."""
        folder = self.lab.path(f"/run/lvagent/dnsmasq/{vpc}/hosts.d")
        return set(
            re.findall(r"10\.\d+\.\d+\.\d+|fd00:[0-9a-f:]+", "".join(one.read_text() for one in folder.iterdir()))
        )

    def redefine(self, change: Callable[[str], str]) -> None:
        """``virsh edit``."""
        xml = self.lab.virsh("dumpxml", "--inactive", VM).stdout
        assert change(xml) != xml
        self.lab.path("/run/edited.xml").write_text(change(xml))
        self.lab.virsh("define", "/run/edited.xml")
        self.lab.path("/run/edited.xml").unlink()

    def until(self, what: Callable[[], object], seconds: float = 40) -> None:
        """Wait for something to be true."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.lab.agent_log(1500)
            time.sleep(0.05)

    def state(self, wanted: str, vm: str = VM) -> None:
        self.until(lambda: self.vm(vm).get("state") == wanted)

    def swept(self) -> None:
        """Two sweeps have ended since the call began, and it was time for those that come by themselves."""
        for _ in range(2):
            assert self.lab.api("POST", "/v1/sweep").status == 200
            time.sleep(1.1)

    def clear(self) -> None:
        for one in self.lab.api("GET", "/v1/vms").json["items"]:
            assert self.delete("?volumes=delete", one["id"]) == 204


@pytest.fixture(scope="module")
def lived(agent_lab: LabHost) -> Life:
    """The lab with a quick sweep, after every VPC was there once: their lock files stay."""
    agent_lab.kill_agent(signal.SIGTERM)
    agent_lab.start_agent(SWEEP)
    life = Life(agent_lab)
    nics = [nic(), nic(B, "subnet-cccccccccc", vni=0, net=2, position=1), {**MOVED, "position": 2}]
    life.made(vm(1, *nics))
    life.clear()
    return life


@pytest.fixture
def life(lived: Life) -> Iterator[Life]:
    """The lab, and a check that the test left nothing in it."""
    before = lived.lab.snapshot()
    yield lived
    lived.clear()
    lived.until(lambda: without_metadata(before.difference(lived.lab.snapshot())) == {})


def without_metadata(difference: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
    """A metadata process that was started anew has other file descriptors in its command line."""
    processes = difference.get("processes", {})
    lines = {kind: [line for line in found if "lvagent.metadata" not in line] for kind, found in processes.items()}
    rest = {name: found for name, found in difference.items() if name != "processes"}
    return rest | ({"processes": lines} if any(lines.values()) else {})


# changes

CHANGES: dict[str, tuple[Spec, list[str]]] = {
    "memory and cpus": ({"memory_mb": 96, "cpus": 2}, ["memory_mb", "cpus"]),
    "a volume": ({"volumes": [{"path": f"{VOLUMES}/x.qcow2", "position": 0, "size_gb": 1}]}, ["volumes[0]"]),
    "a network": ({"networks": [nic(), SECOND]}, ["networks[1]"]),
    "addresses": ({"networks": [nic(host=50)]}, ["networks[0].ipv4", "networks[0].ipv6"]),
    "the MTU": ({"networks": [{**nic(), "mtu": 1400}]}, ["networks[0].mtu"]),
    "the VPC": ({"networks": [MOVED]}, ["networks[0].vxlanid", "networks[0].netname", "networks[0].subnetname"]),
    "the datasource": ({"datasource": "openstack"}, ["datasource"]),
    "what reaches a running guest": ({"rules": [{"proto": "tcp", "port": 22}], "user_data": "x"}, []),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_drift_until_the_next_start(life: Life, name: str) -> None:
    change, paths = CHANGES[name]
    wish = vm(1, nic()) | change
    life.made(vm(1, nic()))
    answer = life.put(wish).json
    assert (answer["outcome"], answer["restart_needed"], answer["drift"]) == ("changed", paths, paths)
    assert (life.taps(), life.reserved()) == ({TAP}, {"10.0.0.5", "fd00:a::5"})
    life.restart()
    now = life.vm()
    assert (now["state"], now["revision"], now["drift"]) == ("running", 2, [])
    for one in wish["networks"]:
        assert f"t0000000001-{one['position']}" in life.taps(one["netname"])
        mtu = life.lab.run(["cat", f"/sys/class/net/t0000000001-{one['position']}/mtu"], netns=one["netname"]).stdout
        assert int(mtu) == now["ports"][one["position"]]["mtu"]
        addresses = {text.split("/")[0] for text in now["ports"][one["position"]]["addresses"]}
        life.until(lambda one=one, addresses=addresses: addresses <= life.reserved(one["netname"]))
    xml = life.lab.virsh("dumpxml", VM).stdout
    assert f"<memory unit='KiB'>{wish['memory_mb'] * 1024}</memory>" in xml
    assert (xml.count("<disk "), xml.count("<interface ")) == (len(wish.get("volumes", [])), len(wish["networks"]))
    life.until(lambda: set(life.lab.namespaces()) - {"lvfabric"} == {one["netname"] for one in wish["networks"]})
    assert life.put(wish).json["outcome"] == "unchanged"


def test_a_stopped_vm_is_changed_at_once(life: Life) -> None:
    life.made(vm(1, nic()))
    life.act("stop")
    answer = life.put(vm(1, MOVED, memory_mb=96)).json
    assert (answer["outcome"], answer["state"], answer["restart_needed"]) == ("changed", "stopped", [])
    assert A not in life.lab.namespaces()
    assert life.act("start").json["state"] == "running"
    assert life.taps(Z) == {TAP}


def test_two_vms_swap_their_addresses(life: Life) -> None:
    life.made(vm(1, nic(host=5)), vm(2, nic(host=6)))
    assert life.put(vm(1, nic(host=6))).json["other"] == "i-0000000002"
    assert life.put(vm(1, nic(host=7))).status == 200
    assert life.put(vm(2, nic(host=5))).json["other"] == VM, "its guest still has the address"
    life.restart()
    assert life.put(vm(2, nic(host=5))).status == 200
    life.restart("i-0000000002")
    assert life.put(vm(1, nic(host=6))).status == 200
    life.restart()
    life.until(lambda: life.reserved() == {"10.0.0.5", "10.0.0.6", "fd00:a::5", "fd00:a::6"})
    assert [life.vm(one)["ports"][0]["addresses"][0] for one in (VM, "i-0000000002")] == ["10.0.0.6/24", "10.0.0.5/24"]


def test_four_nics_in_three_vpcs_and_subnets_that_go(life: Life) -> None:
    last = nic(Z, "subnet-zzzzzzzzzz", net=3, vni=2_000_000, position=3)
    other = nic(B, "subnet-cccccccccc", vni=9, position=2)
    life.made(vm(1, nic(), SECOND, other, last))
    assert [life.taps(vpc) for vpc in (A, B, Z)] == [{TAP, "t0000000001-1"}, {"t0000000001-2"}, {"t0000000001-3"}]
    fabric = life.lab.run(["ip", "-n", "lvfabric", "-br", "link"]).stdout
    assert set(re.findall(r"lvx\d+", fabric)) == {"lvx100", "lvx9", "lvx2000000"}
    life.put(vm(1, nic()))
    life.restart()
    life.until(lambda: set(life.lab.namespaces()) == {"lvfabric", A})
    assert "br-bbbbbbbbbb" not in life.lab.run(["ip", "-n", A, "-br", "link"]).stdout


def test_nics_of_one_family(life: Life) -> None:
    four = {name: value for name, value in nic(host=5).items() if "6" not in name}
    six = {name: value for name, value in nic(host=6).items() if "4" not in name}
    life.made(vm(1, four), vm(2, six))
    assert life.reserved() == {"10.0.0.5", "fd00:a::6"}
    assert [life.vm(one)["ports"][0]["addresses"] for one in (VM, "i-0000000002")] == [
        ["10.0.0.5/24"],
        ["fd00:a::6/64"],
    ]


def test_many_rules_and_much_user_data(life: Life) -> None:
    rules = [{"proto": "tcp", "port": 1 + number} for number in range(300)]
    life.made(vm(1, nic(), rules=rules, user_data={"base64": base64.b64encode(os.urandom(60_000)).decode()}))
    assert (len(life.vm()["rules"]), life.vm()["has_user_data"]) == (300, True)
    life.lab.kill_agent(signal.SIGTERM)
    life.lab.start_agent(SWEEP)
    assert (len(life.vm()["rules"]), life.vm()["has_user_data"]) == (300, True)
    assert "x" * 61 not in life.lab.virsh("dumpxml", VM).stdout


def test_volumes_that_were_there_stay(life: Life) -> None:
    paths = [f"{VOLUMES}/{name}.qcow2" for name in ("mine", "empty", "grown", "fixed")]
    life.lab.run(["qemu-img", "create", "-q", "-f", "qcow2", paths[0], "10M"])
    volumes = [
        {"path": paths[0], "position": 0},
        {"path": paths[1], "position": 1, "size_gb": 2},
        {"path": paths[2], "position": 2, "size_gb": 3, "image": "tiny"},
        {"path": paths[3], "position": 3, "image": "tiny", "readonly": True},
    ]
    life.made(vm(1, nic(), volumes=volumes))
    info = [life.lab.run(["qemu-img", "info", "-U", path]).stdout for path in paths]
    sizes = [re.findall(r"virtual size: .*\((\d+) bytes", text)[0] for text in info]
    assert sizes[:3] == [str(10 << 20), str(2 << 30), str(3 << 30)]
    assert life.lab.virsh("dumpxml", VM).stdout.count("<readonly/>") == 1
    assert life.delete("?volumes=delete") == 204
    assert life.lab.run(["ls", VOLUMES]).stdout.split() == ["mine.qcow2"]
    life.lab.path(paths[0]).unlink()


# power

STEPS = (
    *(("start", 200, "running"), ("resume", 200, "running"), ("reset", 200, "running"), ("reboot", 200, "running")),
    *(("pause", 200, "paused"), ("pause", 200, "paused"), ("reboot", 409, "paused"), ("shutdown", 409, "paused")),
    *(("reset", 200, "paused"), ("stop", 200, "stopped"), ("stop", 200, "stopped"), ("shutdown", 409, "stopped")),
    *(("reboot", 409, "stopped"), ("reset", 409, "stopped"), ("pause", 409, "stopped"), ("resume", 409, "stopped")),
    *(("fly", 404, "stopped"), ("start", 200, "running")),
)


def test_power_actions_in_every_state(life: Life) -> None:
    life.made(vm(1, nic()))
    assert [(action, life.act(action).status, life.vm()["state"]) for action, _, _ in STEPS] == list(STEPS)


def test_deletes(life: Life) -> None:
    life.made(vm(1, nic()), vm(2, nic(host=6)))
    life.act("pause")
    assert [life.delete(), life.delete()] == [204, 404]
    began = time.monotonic()
    assert life.delete("?grace=1", "i-0000000002") == 204
    assert 1 <= time.monotonic() - began < 20  # the guest has no system that would hear the button


def test_an_operation_is_asked_about(life: Life) -> None:
    answer = life.put(vm(1, nic()), Prefer="respond-async")
    assert (answer.status, answer.headers["preference-applied"]) == (202, "respond-async")
    done = life.lab.api("GET", answer.headers["location"] + "?wait=10").json
    assert (done["kind"], done["status"], done["result"]["state"]) == ("put", "succeeded", "running")
    refused = life.put(vm(2, nic(host=5)), Prefer="respond-async").headers["location"]
    failed = life.lab.api("GET", refused + "?wait=10").json
    assert (failed["status"], failed["problem"]["status"], failed["problem"]["other"]) == ("failed", 409, VM)


def test_if_match(life: Life) -> None:
    life.made(vm(1, nic()))
    assert life.put(vm(1, nic(), cpus=2), If_Match='"7"').status == 412
    assert life.put(vm(1, nic(), cpus=2), If_Match='"1"').headers["etag"] == '"2"'
    assert life.lab.api("POST", f"/v1/vms/{VM}/stop", None, If_Match='"1"').status == 412
    assert life.lab.api("DELETE", f"/v1/vms/{VM}", None, If_Match='"1"').status == 412
    assert life.put(vm(2, nic(host=6)), If_None_Match="*").status == 201


# by hand


def test_virsh_power_by_hand(life: Life) -> None:
    life.made(vm(1, nic()))
    for command, state in (
        *(("destroy", "stopped"), ("start", "running"), ("reboot", "running"), ("reset", "running")),
        *(("suspend", "paused"), ("resume", "running"), ("managedsave", "stopped"), ("start", "running")),
    ):
        life.lab.virsh(command, VM)
        life.state(state)
        assert life.taps() == (set() if state == "stopped" else {TAP}), command
    assert life.vm()["wanted"] == "running"


def test_a_sweep_starts_nothing_that_was_stopped_by_hand(life: Life) -> None:
    life.made(vm(1, nic()))
    life.lab.virsh("destroy", VM)
    life.swept()
    assert (life.vm()["state"], life.vm()["wanted"]) == ("stopped", "running")


def test_save_and_restore_land_in_the_vpc(life: Life) -> None:
    life.made(vm(1, nic()))
    life.lab.virsh("save", VM, "/run/saved")
    life.state("stopped")
    life.lab.virsh("restore", "/run/saved")
    life.state("running")
    life.swept()
    assert (life.vm()["state"], life.taps()) == ("running", {TAP})
    life.lab.path("/run/saved").unlink()


def test_a_running_vm_that_was_undefined_goes_on(life: Life) -> None:
    life.made(vm(1, nic()))
    life.lab.virsh("undefine", VM)
    life.swept()
    assert (life.vm()["state"], life.taps()) == ("running", {TAP})
    assert life.delete() == 204


def test_a_stopped_vm_that_was_undefined_is_gone(life: Life) -> None:
    life.made(vm(1, nic(), user_data="x"))
    life.act("stop")
    life.lab.virsh("undefine", VM)
    life.until(lambda: life.lab.api("GET", f"/v1/vms/{VM}").status == 404)
    life.until(lambda: (life.lab.namespaces(), life.lab.virsh("secret-list").stdout.strip()) == ([], ""))


def test_a_domain_edited_by_hand_keeps_its_network(life: Life) -> None:
    life.made(vm(1, nic()))
    life.redefine(lambda xml: xml.replace("65536</", "98304</"))
    life.swept()
    assert (life.vm()["state"], life.taps()) == ("running", {TAP})
    life.redefine(lambda xml: re.sub("<metadata>.*?</metadata>", "", xml, flags=re.DOTALL))
    life.swept()
    assert (life.vm()["state"], life.taps()) == ("running", {TAP})


def test_a_nic_put_in_by_hand_is_refused_and_told(life: Life) -> None:
    nic_xml = "<interface type='ethernet'><target dev='t0000000001-7'/><model type='virtio'/></interface></devices>"
    life.made(vm(1, nic()))
    life.redefine(lambda xml: xml.replace("</devices>", nic_xml))
    life.act("stop")
    answer = life.act("start")
    assert (answer.status, answer.json["phase"]) == (500, "start")
    assert "t0000000001-7" in answer.json["detail"]


# what it stands on


def test_an_agent_that_starts_again_finds_all_as_it_was(life: Life) -> None:
    specs = [vm(number, nic(host=4 + number)) for number in (1, 2, 3)]
    life.made(*specs)
    life.act("stop", "i-0000000002")
    life.act("pause", "i-0000000003")
    before = [(one["state"], one["pid"], one["revision"]) for one in life.lab.api("GET", "/v1/vms").json["items"]]
    for number in (signal.SIGKILL, signal.SIGTERM):
        life.lab.kill_agent(number)
        life.lab.start_agent(SWEEP)
        after = [(one["state"], one["pid"], one["revision"]) for one in life.lab.api("GET", "/v1/vms").json["items"]]
        assert after == before
    assert [life.put(spec).json["outcome"] for spec in specs] == ["unchanged"] * 3


def test_without_libvirtd_it_tells_what_it_saw_last(life: Life) -> None:
    life.made(vm(1, nic(), restart="never"), vm(2, nic(host=6)))
    pid = life.vm()["pid"]
    life.lab.stop_libvirtd()
    life.until(lambda: life.lab.api("GET", "/readyz").status == 503)
    assert (life.vm()["state"], life.vm()["stale"]) == ("running", True)
    answers = [life.put(vm(3, nic(host=9))), life.act("stop"), life.lab.api("DELETE", f"/v1/vms/{VM}")]
    assert [answer.status for answer in answers] == [503] * 3
    life.lab.run(["kill", "-9", str(pid)])
    life.lab.start_libvirtd()
    life.until(lambda: life.lab.api("GET", "/readyz").status == 200)
    life.state("running", "i-0000000002")


@pytest.mark.parametrize("end", ["stop_libvirtd", "kill_libvirtd"])
def test_guests_outlive_libvirtd(life: Life, end: str) -> None:
    life.made(vm(1, nic()))
    pid = life.vm()["pid"]
    getattr(life.lab, end)()
    life.lab.start_libvirtd()
    life.until(lambda: life.lab.api("GET", "/readyz").status == 200)
    assert (life.vm()["state"], life.vm()["pid"], life.taps()) == ("running", pid, {TAP})
    assert life.put(vm(1, nic(), cpus=2)).json["outcome"] == "changed"


def test_a_qemu_that_is_killed_is_told_as_crashed(life: Life) -> None:
    life.made(vm(1, nic(), restart="never"))
    life.lab.run(["kill", "-9", str(life.vm()["pid"])])
    life.state("crashed")
    assert life.act("start").json["state"] == "running"


def test_dnsmasq_and_metadata_come_back(life: Life) -> None:
    life.made(vm(1, nic()))
    pid = life.lab.path(f"/run/lvagent/dnsmasq/{A}/pid")
    first = pid.read_text()
    life.lab.run(["kill", "-9", first.strip(), *metadata(life.lab)])
    life.until(lambda: pid.exists() and pid.read_text().strip() and pid.read_text() != first)
    probe = ["curl", "-s", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", "http://169.254.169.254/"]
    life.until(lambda: life.lab.run(probe, netns=A, check=False).stdout == "404")


def metadata(lab: LabHost) -> list[str]:
    """The pids of the metadata process."""
    lines = lab.run(["ps", "-eo", "pid=,args="]).stdout.splitlines()
    return [line.split()[0] for line in lines if "-m lvagent.metadata" in line]


def test_user_data_is_changed(life: Life) -> None:
    life.made(vm(1, nic(), user_data="a"))
    assert life.put(vm(1, nic(), user_data="b")).status == 200
    uuid = life.lab.virsh("secret-list").stdout.split()[0]
    assert base64.b64decode(life.lab.virsh("secret-get-value", uuid).stdout) == b"b"


def test_a_paused_vm_is_deleted_with_grace(life: Life) -> None:
    life.made(vm(1, nic()))
    life.act("pause")
    assert life.act("start").status == 409
    assert life.delete("?grace=1") == 204


def test_a_vm_that_moves_leaves_nothing_in_the_way_of_others(life: Life) -> None:
    other = vm(2, nic(B, "subnet-bbbbbbbbbb", vni=200))
    life.made(vm(1, nic()), other)
    assert life.put(vm(1, MOVED)).status == 200
    life.restart()
    assert life.put({**other, "rules": [{"proto": "icmp"}]}).status == 200
    assert life.delete(vm="i-0000000002") == 204
    life.until(lambda: life.lab.namespaces() == ["lvfabric", Z])


def test_a_vm_undefined_by_hand_is_made_again_by_the_same_put(life: Life) -> None:
    life.made(vm(1, nic()))
    life.act("stop")
    life.lab.virsh("undefine", VM)
    life.until(lambda: life.put(vm(1, nic())).status == 201)
    assert life.vm()["state"] == "running"


def test_a_vm_undefined_while_it_runs_can_be_stopped(life: Life) -> None:
    life.made(vm(1, nic()))
    life.lab.virsh("undefine", VM)
    assert life.act("stop").status == 200
    life.until(lambda: life.lab.api("GET", f"/v1/vms/{VM}").status == 404)
    life.until(lambda: life.lab.namespaces() == [])


def test_a_restored_machine_shows_how_it_differs_from_the_wish(life: Life) -> None:
    life.made(vm(1, nic()))
    life.lab.virsh("managedsave", VM)
    assert life.put({**vm(1, nic()), "memory_mb": 96}).status == 200
    assert life.act("start").status == 200
    assert life.vm()["drift"] == ["memory_mb"]
