"""The doors of an agent on a real host: TLS and tokens from the command line, real qemu's monitors, the audit log."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvagent.spec.monitor import READING_HMP, READING_QMP
from lvagent.spec.names import nic_mac
from tests.e2e.specs import nic, vm
from tests.host.api.certificates import Authority
from tests.lab.host import Answer, LabHost, Result

pytestmark = pytest.mark.e2e

VM = "i-0000000001"
URL = "https://127.0.0.1:7443"
SECRET = "swordfish-of-the-guest"
PKI = "/etc/lvagent"


class Doors:
    """The lab with an agent that listens on TCP, and clients of it inside."""

    def __init__(self, lab: LabHost, folder: Path) -> None:
        self.lab = lab
        authority = Authority(folder, "authority")
        files = dict(zip(("cert.pem", "key.pem"), authority.sign("server", "serverAuth", "IP:127.0.0.1"), strict=True))
        for name, path in {**files, "ca.pem": authority.cert}.items():
            lab.path(f"{PKI}/{name}").write_bytes(path.read_bytes())
        lab.path(f"{PKI}/key.pem").chmod(0o600)
        lab.path(f"{PKI}/lvagent.toml").write_text(
            f'[api]\nlisten = "127.0.0.1:7443"\ntls_cert = "{PKI}/cert.pem"\ntls_key = "{PKI}/key.pem"\n'
            "[libvirt]\nmonitor = 6\n[guests]\nfast_capabilities = true\n"
        )
        self.tokens: list[str] = []

    def start(self) -> None:
        self.lab.start_agent({"LVAGENT_LOG": "DEBUG"})

    def token(self, role: str, *more: str) -> str:
        made = self.lab.run(["lvagent", "token", "create", "--name", f"a {role}", "--role", role, *more]).stdout.strip()
        self.tokens.append(made)
        return made

    def run(self, token: str, *args: str, stdin: str = "") -> Result:
        command = ["lvagent", "--url", URL, "--cacert", f"{PKI}/ca.pem", *args]
        return self.lab.run(command, check=False, stdin=stdin, env={"LVAGENT_TOKEN": token}, timeout=90)

    def qmp(self, execute: str, **arguments: object) -> Answer:
        body = {"execute": execute, **({"arguments": arguments} if arguments else {})}
        return self.lab.api("POST", f"/v1/vms/{VM}/qmp", body)

    def hmp(self, command: str) -> Answer:
        return self.lab.api("POST", f"/v1/vms/{VM}/hmp", {"command": command})

    def qemu(self) -> int:
        """The pid of the VM's qemu, in the lab."""
        return int(self.lab.api("GET", f"/v1/vms/{VM}").json["pid"])


@pytest.fixture(scope="module")
def doors(agent_lab: LabHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    agent_lab.kill_agent(signal.SIGTERM)
    made = Doors(agent_lab, tmp_path_factory.mktemp("pki"))
    made.start()
    spec = vm(1, nic(host=5), user_data=SECRET)
    created = made.run(made.token("admin"), "vm", "create", "-f", "-", stdin=json.dumps(spec))
    assert created.returncode == 0, created.stderr
    yield made
    assert agent_lab.api("DELETE", f"/v1/vms/{VM}").status in (204, 404)


def test_roles_over_tls_from_the_command_line(doors: Doors) -> None:
    read, elsewhere = doors.token("read", "--expires", "1h"), doors.token("admin", "--vpc", "vpc-zzzzzzzzzz")
    assert VM in doors.run(read, "vm", "ls").stdout
    assert doors.run(read, "vm", "stop", VM).returncode == 6
    assert doors.run(elsewhere, "vm", "ls").stdout == "there are no VMs\n"
    assert doors.run(elsewhere, "vm", "delete", VM).returncode == 3
    assert doors.run(elsewhere, "vm", "create", "-f", "-", stdin=json.dumps(vm(2, nic(host=6)))).returncode == 6
    other = vm(2, {**nic("vpc-zzzzzzzzzz", "subnet-aaaaaaaaaa"), "vxlanid": 0})
    refused = doors.run(elsewhere, "vm", "create", "-f", "-", stdin=json.dumps(other))
    assert (refused.returncode, VM in refused.stderr, "vpc-aaaaaaaaaa" in refused.stderr) == (4, False, False)
    doors.lab.run(["lvagent", "token", "revoke", read.split("_")[1]])
    assert doors.run(read, "vm", "ls").returncode == 6
    assert doors.lab.run(["lvagent", "vm", "ls"]).returncode == 0


def test_every_command_that_only_looks_is_one_of_qemu_and_changes_nothing(doors: Doors) -> None:
    before = doors.qmp("query-status").json["return"]
    known = {one["name"] for one in doors.qmp("query-commands").json["return"]}
    assert known >= READING_QMP
    for name in sorted(READING_QMP):
        answer = doors.qmp(name)
        assert answer.status == 200 or answer.json["qemu_class"] == "DeviceNotActive", (name, answer.text)
        assert SECRET not in answer.text
    for command in sorted(READING_HMP):
        answer = doors.hmp(command)
        assert answer.status == 200, (command, answer.text)
        assert "unknown command" not in answer.json["output"], (command, answer.text)
    assert (
        doors.qmp("query-status").json["return"]
        == before
        == {"running": True, "singlestep": False, "status": "running"}
    )


def test_a_monitor_is_real(doors: Doors) -> None:
    assert doors.qmp("query-name").json == {"return": {"name": VM}, "taint": "custom-monitor"}
    assert nic_mac(VM, 0) in doors.hmp("info network").json["output"]
    assert "custom monitor control commands issued" in doors.lab.virsh("dominfo", VM).stdout
    refused = doors.qmp("query-nonsense")
    assert (refused.status, refused.json["qemu_class"]) == (422, "CommandNotFound")
    assert doors.qmp("query-status", nonsense=1).json["qemu_class"] == "GenericError"
    assert doors.qmp("stop").json["return"] == {}
    assert doors.qmp("query-status").json["return"]["status"] == "paused"
    assert doors.qmp("cont").json["return"] == {}
    printed = doors.lab.run(["lvagent", "vm", "qmp", VM, "query-status"]).stdout
    assert json.loads(printed)["status"] == "running"
    assert doors.lab.run(["lvagent", "vm", "hmp", VM, "info status"]).stdout == "VM status: running\n"


def test_a_qemu_that_hangs_holds_nobody_up_and_a_stop_frees_it(doors: Doors) -> None:
    pid = str(doors.qemu())
    doors.lab.run(["kill", "-STOP", pid])
    try:
        began = time.monotonic()
        assert doors.qmp("query-status").status == 503
        assert doors.qmp("query-status").status == 409
        assert [doors.lab.api("GET", path).status for path in ("/v1/vms", f"/v1/vms/{VM}", "/readyz")] == [200] * 3
        assert time.monotonic() - began < 30
    finally:
        doors.lab.run(["kill", "-CONT", pid])
    deadline = time.monotonic() + 60
    while doors.qmp("query-status").status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_vm_that_was_stopped_has_no_monitor(doors: Doors) -> None:
    assert doors.lab.api("POST", f"/v1/vms/{VM}/stop").status == 200
    assert (doors.qmp("query-status").status, doors.hmp("info status").status) == (409, 409)
    assert doors.lab.api("POST", f"/v1/vms/{VM}/start").status == 200
    assert doors.qmp("query-status").status == 200


def test_the_audit_log_and_the_log_know_all_and_tell_no_secret(doors: Doors) -> None:
    shown = json.loads(doors.lab.run(["lvagent", "audit", "--tail", "500", "-o", "json"]).stdout)
    told = {(line["route"], line.get("name") or line.get("uid"), line["status"]) for line in shown}
    for expected in (
        ("createVm", "a admin", 202),
        ("actOnVm", "a read", 403),
        ("deleteVm", "a admin", 404),
        ("askQmp", 0, 200),
        ("askQmp", 0, 503),
        ("actOnVm", 0, 200),
    ):
        assert expected in told, (expected, sorted(map(str, told)))
    ends = [line for line in shown if line["event"] == "end"]
    assert (ends[0]["route"], ends[0]["status"]) == ("createVm", "succeeded")
    assert {line["operation"] for line in ends} <= {line["operation"] for line in shown if line["event"] == "request"}
    folder = "/var/lib/lvagent/state"
    modes = doors.lab.run(["stat", "-c", "%a %u %n", f"{folder}/audit.log", f"{folder}/tokens.json"]).stdout
    assert modes.splitlines() == [f"600 0 {folder}/audit.log", f"600 0 {folder}/tokens.json"]
    written = doors.lab.agent_log(1 << 24) + json.dumps(shown) + doors.lab.path(f"{folder}/tokens.json").read_text()
    assert f"POST '/v1/vms/{VM}/qmp' 200" in written
    for secret in (SECRET, *(token.split("_")[2] for token in doors.tokens)):
        assert secret not in written


def test_settings_that_cannot_be_stop_the_start_with_their_path(doors: Doors) -> None:
    for env, path in (
        ({"LVAGENT_API_LISTEN": "0.0.0.0:7443", "LVAGENT_API_TLS_CERT": "", "LVAGENT_API_TLS_KEY": ""}, "api.tls_cert"),
        ({"LVAGENT_API_TLS_KEY": f"{PKI}/ca.pem"}, "api.tls_key"),
    ):
        doors.lab.kill_agent(signal.SIGTERM)
        failed = doors.lab.run(["lvagent", "serve"], check=False, env=env)
        assert (failed.returncode, f"at: {path}" in failed.stderr, "hint: " in failed.stderr) == (1, True, True)
        doors.start()
