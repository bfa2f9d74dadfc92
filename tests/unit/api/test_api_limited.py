"""Callers who are limited to some VPCs: what is not theirs is not there, and stays unnamed where it is in the way."""

from __future__ import annotations

import json

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from lvagent.errors import Conflict, HostError, Vanished
from lvagent.spec.access import Role
from tests.unit.api.doors import A, B, TcpDoor
from tests.unit.api.fake_agent import FakeAgent
from tests.unit.api.specs import Spec, vm

MINE, THEIRS, BOTH, GONE = "i-0000000001", "i-0000000002", "i-0000000003", "i-0000000009"
DISK = "/var/lib/lvagent/volumes/{}.qcow2"
THEIR_WORDS = (THEIRS, BOTH, B, "subnet-bbbbbbbbbb", "t0000000002-0")


def elsewhere(number: int, **more: object) -> Spec:
    """A VM in VPC B."""
    spec = vm(number, **more)
    spec["networks"][0] |= {"netname": B, "subnetname": "subnet-bbbbbbbbbb", "vxlanid": 200}
    return spec


def both(number: int) -> Spec:
    """A VM with a NIC in either VPC."""
    spec = vm(number)
    spec["networks"].append({**elsewhere(number)["networks"][0], "position": 1})
    return spec


@pytest.fixture
def mine(tcp: TcpDoor) -> FlaskClient:
    """An admin limited to VPC A; there are a VM in A, one in B, and one in both."""
    admin = tcp.of(Role.ADMIN)
    for spec in (vm(1), elsewhere(2, volumes=[{"path": DISK.format(2), "position": 0, "size_gb": 1}]), both(3)):
        assert admin.post("/v1/vms", json=spec).status_code == 201
    return tcp.of(Role.ADMIN, A)


@pytest.fixture
def admin(tcp: TcpDoor, mine: FlaskClient) -> FlaskClient:
    return tcp.of(Role.ADMIN)


def silent(answer: TestResponse) -> bool:
    """Whether an answer names nothing of theirs."""
    return not any(word in answer.text for word in THEIR_WORDS)


def test_of_peers_he_is_told_those_that_are_his(mine: FlaskClient, admin: FlaskClient) -> None:
    assert admin.put(f"/v1/peerings/{A}/{B}").status_code == 201
    assert admin.get(f"/v1/vpcs/{A}").json["peers"] == [B]
    assert [one["peers"] for one in mine.get("/v1/vpcs").json["items"]] == [[]]
    assert silent(mine.get(f"/v1/vpcs/{A}"))


def test_lists_have_what_is_his(mine: FlaskClient) -> None:
    vms, vpcs, subnets = (mine.get(f"/v1/{what}").json["items"] for what in ("vms", "vpcs", "subnets"))
    assert [one["id"] for one in vms] == [MINE]
    assert [(one["name"], one["vms"]) for one in vpcs] == [(A, [MINE])]
    assert [one["vms"] for one in vpcs[0]["subnets"]] == [[MINE]]
    assert [(one["name"], one["vms"]) for one in subnets] == [("subnet-aaaaaaaaaa", [MINE])]
    assert mine.get(f"/v1/vpcs/{A}").json["vms"] == [MINE]
    assert mine.get("/v1/subnets/subnet-aaaaaaaaaa").json["vms"] == [MINE]
    assert len(mine.get("/v1/images").json["items"]) == 2
    assert mine.get("/readyz").status_code == 200


@pytest.mark.parametrize("theirs", [THEIRS, BOTH])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/vms/{}", None),
        ("HEAD", "/v1/vms/{}", None),
        ("GET", "/v1/vms/{}/console", None),
        ("GET", "/v1/vms/{}/domain.xml", None),
        ("DELETE", "/v1/vms/{}", None),
        ("DELETE", "/v1/vms/{}?volumes=delete", None),
        ("POST", "/v1/vms/{}/stop", None),
        ("POST", "/v1/vms/{}/qmp", {"execute": "query-status"}),
        ("POST", "/v1/vms/{}/hmp", {"command": "info status"}),
    ],
)
def test_what_is_not_his_is_as_if_it_were_not_there(
    mine: FlaskClient, agent: FakeAgent, theirs: str, method: str, path: str, body: Spec | None
) -> None:
    before = list(agent.calls)
    for headers in ({}, {"Prefer": "respond-async"}, {"If-Match": '"1"'}):
        there, gone = (
            mine.open(path.format(ident), method=method, json=body, headers=headers) for ident in (theirs, GONE)
        )
        assert (there.status_code, gone.status_code) == (404, 404)
        assert there.text.replace(theirs, GONE) == gone.text
        assert sorted(name for name, _ in there.headers) == sorted(name for name, _ in gone.headers)
    assert agent.calls == before


def test_networks_that_are_not_his_are_not_there(mine: FlaskClient) -> None:
    for there, gone in (
        (f"/v1/vpcs/{B}", "/v1/vpcs/vpc-zzzzzzzzzz"),
        ("/v1/subnets/subnet-bbbbbbbbbb", "/v1/subnets/subnet-zzzzzzzzzz"),
    ):
        answers = mine.get(there), mine.get(gone)
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].text.replace(there[-10:], gone[-10:]) == answers[1].text


@pytest.mark.parametrize("method", ["PUT", "POST", "plan"])
def test_he_makes_vms_in_his_vpcs_only(mine: FlaskClient, agent: FakeAgent, method: str) -> None:
    """Decided by what he sends alone: it is the same whether such a VM is there or not."""
    before = list(agent.calls)

    def send(spec: Spec) -> TestResponse:
        if method == "PUT":
            return mine.put(f"/v1/vms/{spec['id']}", json=spec)
        return mine.post("/v1/plan" if method == "plan" else "/v1/vms", json=spec)

    for spec in (elsewhere(2), elsewhere(9)):
        refused = send(spec)
        assert (refused.status_code, refused.json["path"]) == (403, "networks[0].netname")
        assert refused.json["hint"] == f"it is limited to {A}"
    assert send(both(3)).json["path"] == "networks[1].netname"
    assert agent.calls == before
    assert mine.put("/v1/vms/i-0000000004", json=vm(4)).status_code == 201


@pytest.mark.parametrize("theirs", [THEIRS, BOTH])
def test_an_id_of_somebody_else_is_taken_and_not_changed(mine: FlaskClient, admin: FlaskClient, theirs: str) -> None:
    before = admin.get(f"/v1/vms/{theirs}").json
    spec = {**vm(40), "id": theirs}
    for refused in (
        mine.put(f"/v1/vms/{theirs}", json=spec),
        mine.post("/v1/vms", json=spec),
        mine.post("/v1/plan", json=spec),
    ):
        told = refused.json
        assert (refused.status_code, told["path"], told["detail"]) == (409, "id", "the id is taken")
        assert "other" not in told
    assert admin.get(f"/v1/vms/{theirs}").json == before


def test_an_address_in_use_by_one_that_he_does_not_see(mine: FlaskClient, admin: FlaskClient) -> None:
    refused = mine.post("/v1/vms", json={**vm(3), "id": GONE})
    assert (refused.status_code, refused.json["path"]) == (409, "networks[0].ipv4")
    assert "other" not in refused.json
    assert silent(refused)
    told = admin.post("/v1/vms", json={**vm(3), "id": GONE}).json
    assert told["other"] == BOTH
    own = mine.post("/v1/vms", json={**vm(1), "id": GONE}).json
    assert (own["other"], MINE in own["detail"]) == (MINE, True)


@pytest.mark.parametrize(
    "error",
    [
        Conflict(f"subnet-bbbbbbbbbb has VNI 200, not 100: see {THEIRS}", path="networks[0].vxlanid", other=THEIRS),
        Conflict("VNI 100 is that of subnet-bbbbbbbbbb, not of subnet-aaaaaaaaaa", path="networks[0].vxlanid"),
        Conflict(f"the volume {DISK.format(9)} is in use", path="volumes[0].path", other=THEIRS),
        Conflict(f"it is in {B}", path="networks[0].netname"),
        Conflict("that cannot be", path="id", hint=f"stop {BOTH} first"),
        HostError("the domain", "start", f"VNI 100 is taken: see {THEIRS}").in_phase("start"),
        HostError("t0000000002-0", "plug", "Device or resource busy").in_phase("wire"),
        Vanished("t0000000002-0", "plug", "its tap has just gone").in_phase("wire"),
    ],
)
def test_an_error_that_names_what_is_not_his_keeps_kind_and_place_only(
    mine: FlaskClient, admin: FlaskClient, agent: FakeAgent, error: Conflict | HostError
) -> None:
    agent.failure = error
    refused = mine.put("/v1/vms/i-0000000004", json=vm(4))
    assert (refused.status_code, refused.json["type"]) == (error.status, f"urn:lvagent:error:{error.kind}")
    assert (refused.json.get("path", ""), refused.json.get("phase", "")) == (getattr(error, "path", ""), error.phase)
    assert silent(refused)
    operations = mine.get("/v1/operations")
    assert operations.json["items"][-1]["status"] == "failed"
    assert silent(operations)
    agent.failure = error
    assert not silent(admin.put("/v1/vms/i-0000000004", json=vm(4)))


def test_an_error_that_is_about_his_own_is_told_whole(mine: FlaskClient, agent: FakeAgent) -> None:
    agent.failure = HostError(f"volume of {MINE} in {A}", "make", "no space left on device", hint="free some")
    assert "no space left on device" in mine.put(f"/v1/vms/{MINE}", json=vm(1, cpus=2)).json["detail"]


def test_operations_of_others_are_not_there(mine: FlaskClient, admin: FlaskClient) -> None:
    known = {one["vm"]: one["id"] for one in admin.get("/v1/operations").json["items"]}
    assert [one["vm"] for one in mine.get("/v1/operations").json["items"]] == [MINE]
    assert mine.get(f"/v1/operations/{known[MINE]}").status_code == 200
    absent = "op-0000000000000000"
    for vm_id in (THEIRS, BOTH):
        answers = [mine.get(f"/v1/operations/{ident}") for ident in (known[vm_id], absent)]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].text.replace(known[vm_id], absent) == answers[1].text


def test_an_operation_under_way_is_no_hint_either(mine: FlaskClient, admin: FlaskClient, agent: FakeAgent) -> None:
    agent.gate.clear()
    waiting = {"Prefer": "respond-async"}
    made = admin.put("/v1/vms/i-0000000005", json=elsewhere(5), headers=waiting).json["id"]
    assert mine.delete("/v1/vms/i-0000000005", headers=waiting).status_code == 404
    assert mine.post("/v1/vms/i-0000000005/stop", headers=waiting).status_code == 404
    assert mine.get(f"/v1/operations/{made}?wait=5").status_code == 404
    mine.put("/v1/vms/i-0000000006", json=vm(6), headers=waiting)
    assert mine.delete("/v1/vms/i-0000000006", headers=waiting).status_code == 202
    agent.gate.set()


def test_what_moved_to_another_vpc_is_gone_with_its_operations(mine: FlaskClient, admin: FlaskClient) -> None:
    where = mine.put("/v1/vms/i-0000000004", json=vm(4), headers={"Prefer": "respond-async"}).headers["Location"]
    assert mine.get(f"{where}?wait=5").json["status"] == "succeeded"
    moved = elsewhere(4)
    assert admin.put("/v1/vms/i-0000000004", json=moved).status_code == 200
    assert mine.get("/v1/vms/i-0000000004").status_code == 404
    assert [one["kind"] for one in mine.get("/v1/operations").json["items"] if one["vm"] == "i-0000000004"] == ["put"]
    assert silent(mine.get("/v1/operations"))


def test_equal_puts_of_who_sees_differently_are_not_joined(
    mine: FlaskClient, admin: FlaskClient, agent: FakeAgent
) -> None:
    agent.gate.clear()
    waiting = {"Prefer": "respond-async"}
    ids = [who.put("/v1/vms/i-0000000004", json=vm(4), headers=waiting).json["id"] for who in (admin, mine, mine)]
    agent.gate.set()
    assert ids[0] != ids[1] == ids[2]


def test_he_takes_no_volume_that_is_there(mine: FlaskClient, admin: FlaskClient) -> None:
    """A volume of somebody who deleted his VM and kept it is the case that no conflict between VMs would find."""
    admin.delete(f"/v1/vms/{THEIRS}?volumes=keep")

    def disk(number: int) -> list[Spec]:
        return [{"path": DISK.format(number), "position": 0, "size_gb": 1}]

    for refused in (
        mine.put("/v1/vms/i-0000000004", json=vm(4, volumes=disk(2))),
        mine.post("/v1/plan", json=vm(4, volumes=disk(2))),
    ):
        assert (refused.status_code, refused.json["path"]) == (409, "volumes[0].path")
    assert mine.put("/v1/vms/i-0000000004", json=vm(4, volumes=disk(4))).status_code == 201
    assert mine.put("/v1/vms/i-0000000004", json=vm(4, volumes=disk(4), cpus=2)).status_code == 200
    assert admin.put(f"/v1/vms/{THEIRS}", json=elsewhere(2, volumes=disk(2))).status_code == 201


def test_he_publishes_ports_of_his_and_is_not_told_who_is_in_the_way(mine: FlaskClient, admin: FlaskClient) -> None:
    assert admin.put(f"/v1/vms/{THEIRS}/ports", json=[{"host_port": 8080}]).status_code == 200
    assert mine.put(f"/v1/vms/{MINE}/ports", json=[{"host_port": 8081}]).json["items"][0]["port"] == 8081
    seen = mine.get(f"/v1/vms/{MINE}/ports").headers["ETag"]
    for tag, status in (('"x"', 412), (f'"x", {seen}', 200), (seen, 412), ("*", 200)):
        ports = [{"host_port": 8081}, {"host_port": 8082}]
        assert mine.put(f"/v1/vms/{MINE}/ports", json=ports, headers={"If-Match": tag}).status_code == status
    for port in (8080, 22):
        refused = mine.put(f"/v1/vms/{MINE}/ports", json=[{"host_port": port}])
        assert (refused.status_code, refused.json["path"]) == (409, "[0].host_port")
        assert silent(refused)
        assert "sshd" not in refused.text
    assert "sshd (pid 7)" in admin.put(f"/v1/vms/{MINE}/ports", json=[{"host_port": 22}]).text
    for vm_id in (THEIRS, BOTH, GONE):
        assert mine.get(f"/v1/vms/{vm_id}/ports").status_code == 404
        assert mine.put(f"/v1/vms/{vm_id}/ports", json=[]).status_code == 404


def test_floating_addresses_are_the_hosts_and_he_sees_his(mine: FlaskClient, admin: FlaskClient) -> None:
    for address, vm_id in (("192.0.2.50", MINE), ("192.0.2.51", THEIRS), ("2001:DB8::0:50", MINE)):
        assert admin.put(f"/v1/floating/{address}", json={"vm": vm_id}).status_code == 200
    found = mine.get("/v1/floating")
    assert [one["address"] for one in found.json["items"]] == ["192.0.2.50", "2001:db8::50"]
    assert silent(found)
    assert mine.get("/v1/floating/2001:db8:0::50").json["vm"] == MINE
    assert mine.get(f"/v1/vms/{MINE}").json["floating"] == ["192.0.2.50", "2001:db8::50"]
    assert mine.get("/v1/floating/192.0.2.51").status_code == 404
    assert mine.put("/v1/floating/192.0.2.50", json={"vm": MINE}).status_code == 403
    assert mine.delete("/v1/floating/192.0.2.50").status_code == 403
    refused = admin.put("/v1/floating/192.0.2.66", json={"vm": MINE})
    assert (refused.status_code, refused.json["other"]) == (409, "02:00:00:00:00:01")
    assert admin.put("/v1/floating/192.0.2.50", json={"vm": GONE}).status_code == 404
    assert admin.put("/v1/floating/127.0.0.1", json={"vm": MINE}).status_code == 422


def test_a_plan_has_no_text_of_a_vpc_that_he_shares(mine: FlaskClient, admin: FlaskClient) -> None:
    shared = mine.post("/v1/plan", json=vm(4)).json
    assert (shared["nft"], shared["dnsmasq"], shared["outcome"]) == ([], [], "created")
    admin.delete(f"/v1/vms/{BOTH}")
    assert [one["vpc"] for one in mine.post("/v1/plan", json=vm(4)).json["nft"]] == [A]


def test_a_role_limited_to_vpcs_does_not_reach_beyond_them_by_qemu(mine: FlaskClient, admin: FlaskClient) -> None:
    for path, body in ((f"/v1/vms/{MINE}/qmp", {"execute": "quit"}), (f"/v1/vms/{MINE}/hmp", {"command": "quit"})):
        assert mine.post(path, json=body).status_code == 403
        assert admin.post(path, json=body).status_code in (200, 422)
    assert mine.post(f"/v1/vms/{MINE}/qmp", json={"execute": "query-status"}).status_code == 200


def test_two_vpcs_are_as_one(tcp: TcpDoor, admin: FlaskClient) -> None:
    client = tcp.of(Role.ADMIN, A, B)
    assert [one["id"] for one in client.get("/v1/vms").json["items"]] == [MINE, THEIRS, BOTH]
    assert client.post(f"/v1/vms/{BOTH}/stop").status_code == 200
    assert client.post("/v1/vms", json=both(7)).status_code == 201
    assert json.loads(client.get("/v1/vpcs").text)["items"][0]["vms"] == [MINE, BOTH, "i-0000000007"]
