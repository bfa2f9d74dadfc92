"""QMP and HMP over HTTP: which commands whom, and what comes back."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from lvagent.spec.access import Role
from lvagent.spec.monitor import READING_HMP, READING_QMP
from tests.unit.api.doors import TcpDoor
from tests.unit.api.specs import Spec, vm

VM1 = "/v1/vms/i-0000000001"


@pytest.fixture
def admin(tcp: TcpDoor) -> FlaskClient:
    client = tcp.of(Role.ADMIN)
    assert client.put(VM1, json=vm()).status_code == 201
    return client


def test_what_qemu_returns(admin: FlaskClient) -> None:
    told = admin.post(f"{VM1}/qmp", json={"execute": "query-status"})
    assert told.json == {"return": {"status": "running", "running": True}, "taint": "custom-monitor"}
    told = admin.post(f"{VM1}/hmp", json={"command": "info status"})
    assert told.json == {"output": "VM status: running\r\n", "taint": "custom-monitor"}
    line = {"execute": "human-monitor-command", "arguments": {"command-line": "info status"}}
    assert admin.post(f"{VM1}/qmp", json=line).json["return"] == "VM status: running\r\n"


def test_an_error_of_qemu_is_a_problem_with_its_class(admin: FlaskClient) -> None:
    refused = admin.post(f"{VM1}/qmp", json={"execute": "query-nonsense"})
    assert (refused.status_code, refused.json) == (
        422,
        {
            "type": "urn:lvagent:error:monitor",
            "title": "qemu refused the command",
            "status": 422,
            "detail": "qemu refused it: CommandNotFound: The command query-nonsense has not been found",
            "instance": f"{VM1}/qmp",
            "qemu_class": "CommandNotFound",
        },
    )


def test_a_vm_that_does_not_run_has_no_monitor(admin: FlaskClient) -> None:
    admin.post(f"{VM1}/stop")
    for path, body in (("qmp", {"execute": "query-status"}), ("hmp", {"command": "info status"})):
        refused = admin.post(f"{VM1}/{path}", json=body)
        assert (refused.status_code, refused.json["hint"]) == (409, "start it")


def test_operators_ask_and_admins_tell(tcp: TcpDoor, admin: FlaskClient) -> None:
    operator = tcp.of(Role.OPERATE)
    reads = [("qmp", {"execute": name}) for name in READING_QMP] + [("hmp", {"command": name}) for name in READING_HMP]
    assert {operator.post(f"{VM1}/{path}", json=body).status_code for path, body in reads} <= {200, 422}
    writes: list[tuple[str, Spec]] = [
        ("qmp", {"execute": "quit"}),
        ("qmp", {"execute": "human-monitor-command", "arguments": {"command-line": "info status"}}),
        ("qmp", {"execute": "query-status", "arguments": {"x": 1}}),
        ("qmp", {"execute": "Query-Status"}),
        ("qmp", {"execute": "screendump"}),
        ("hmp", {"command": "info status; quit"}),
        ("hmp", {"command": "info  status"}),
        ("hmp", {"command": " info status"}),
        ("hmp", {"command": "info registers"}),
        ("hmp", {"command": "pmemsave 0 1 /etc/passwd"}),
        ("hmp", {"command": "quit"}),
    ]
    for path, body in writes:
        for target in (VM1, "/v1/vms/i-0000000009"):
            refused = operator.post(f"{target}/{path}", json=body)
            assert refused.status_code == 403, body
            assert refused.json["detail"].endswith("needs the role admin, without a limit to VPCs")
        assert admin.post(f"{VM1}/{path}", json=body).status_code in (200, 422)
    assert operator.post(f"{VM1}/qmp", json={"execute": "query-status", "arguments": {}}).status_code == 200


def test_no_command_that_only_looks_is_of_a_kind_that_tells_secrets() -> None:
    telling = (
        "vnc",
        "spice",
        "migrat",
        "command-line",
        "qmp-schema",
        "sev",
        "dump",
        "object",
        "qom",
        "fd",
        "named-block",
    )
    assert [name for name in READING_QMP if not name.startswith("query-") or any(one in name for one in telling)] == []
    assert [name for name in READING_HMP if not name.startswith("info ") or any(one in name for one in telling)] == []


@pytest.mark.parametrize(
    ("path", "body", "at"),
    [
        ("qmp", {}, "execute"),
        ("qmp", [], ""),
        ("qmp", {"execute": 5}, "execute"),
        ("qmp", {"execute": ""}, "execute"),
        ("qmp", {"execute": "query status"}, "execute"),
        ("qmp", {"execute": "query-\n"}, "execute"),
        ("qmp", {"execute": "x" * 200}, "execute"),
        ("qmp", {"execute": "query-status", "arguments": []}, "arguments"),
        ("qmp", {"execute": "query-status", "id": 1}, "id"),
        ("qmp", {"command": "info status"}, "command"),
        ("hmp", {}, "command"),
        ("hmp", {"command": "  "}, "command"),
        ("hmp", {"command": "info\nquit"}, "command"),
        ("hmp", {"command": "info \u00e9"}, "command"),
        ("hmp", {"command": "x" * 5000}, "command"),
        ("hmp", {"command": ["info"]}, "command"),
    ],
)
def test_what_is_no_command(admin: FlaskClient, path: str, body: object, at: str) -> None:
    refused = admin.post(f"{VM1}/{path}", json=body)
    assert (refused.status_code, refused.json["type"], refused.json.get("path", "")) == (
        422,
        "urn:lvagent:error:spec",
        at,
    )
