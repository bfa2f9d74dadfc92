"""Timelines over the API: who reads what of them, also when the VM is gone."""

from __future__ import annotations

from lvagent.spec.access import Role
from lvagent.spec.status import TimelineEntry
from tests.unit.api.doors import A, B, TcpDoor
from tests.unit.api.fake_agent import FakeAgent
from tests.unit.api.specs import vm
from tests.unit.api.test_api_document import check

GONE, THERE = "i-0000000007", "i-0000000001"
PATH = "/v1/vms/{id}/timeline"


def entry(second: int, kind: str, *vpcs: str, **detail: object) -> TimelineEntry:
    return TimelineEntry(f"2026-11-26T12:00:{second:02}.000+00:00", kind, vpcs, detail)


def kinds(door: TcpDoor, role: Role, *vpcs: str) -> list[str]:
    answer = door.of(role, *vpcs).get(f"/v1/vms/{GONE}/timeline")
    assert answer.status_code == 200, answer.text
    return [one["kind"] for one in answer.json["items"]]


def fill(agent: FakeAgent) -> None:
    agent.told[GONE] = (
        entry(
            1, "operation", A, what="create", outcome="failed", error=f"{THERE} has 10.0.0.5", hint="", ms={"a": 1.0}
        ),
        entry(2, "state", A, state="running"),
        entry(3, "console", A, tail="secret of the guest"),
        entry(4, "dhcp", A, B, address="10.0.0.5"),
        entry(5, "error", error="before it was in any"),
    )


def test_a_vm_that_is_gone_is_told_as_its_vpcs_were_then(tcp: TcpDoor, agent: FakeAgent) -> None:
    fill(agent)
    assert kinds(tcp, Role.ADMIN) == ["operation", "state", "console", "dhcp", "error"]
    assert kinds(tcp, Role.OPERATE, A) == ["operation", "state", "console"]
    assert kinds(tcp, Role.OPERATE, A, B) == ["operation", "state", "console", "dhcp"]
    answer = tcp.of(Role.ADMIN, B).get(f"/v1/vms/{GONE}/timeline")
    nothing = tcp.of(Role.ADMIN, B).get("/v1/vms/i-0000000009/timeline")
    assert (answer.status_code, nothing.status_code) == (404, 404)
    assert answer.json["detail"].replace(GONE, "i-0000000009") == nothing.json["detail"]


def test_the_console_is_not_for_who_may_only_read(tcp: TcpDoor, agent: FakeAgent) -> None:
    fill(agent)
    for vpcs in ((), (A,)):
        answer = tcp.of(Role.READ, *vpcs).get(f"/v1/vms/{GONE}/timeline")
        assert "secret of the guest" not in answer.text
        assert "state" in answer.text


def test_what_is_not_his_is_veiled(tcp: TcpDoor, agent: FakeAgent) -> None:
    fill(agent)
    other = vm(1)
    other["networks"][0]["netname"] = B
    assert tcp.of(Role.ADMIN).put(f"/v1/vms/{THERE}", json=other).status_code == 201
    told = tcp.of(Role.READ, A).get(f"/v1/vms/{GONE}/timeline")
    assert THERE not in told.text
    assert told.json["items"][0]["detail"]["what"] == "create"
    assert THERE in tcp.of(Role.READ).get(f"/v1/vms/{GONE}/timeline").text


def test_it_is_as_it_is_described(tcp: TcpDoor, agent: FakeAgent) -> None:
    fill(agent)
    door = tcp.of(Role.ADMIN)
    document = door.get("/openapi.json").json
    check(document, "GET", PATH, door.get(f"/v1/vms/{GONE}/timeline"))


def test_a_sweep_that_cannot_be_done_says_why(tcp: TcpDoor, agent: FakeAgent) -> None:
    agent.ready = False
    answer = tcp.of(Role.ADMIN).post("/v1/sweep")
    assert (answer.status_code, answer.json["type"]) == (503, "urn:lvagent:error:unavailable")
    assert agent.calls[-1] == ("sweep force=False", "")
