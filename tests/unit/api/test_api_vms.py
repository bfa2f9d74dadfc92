"""VMs over HTTP: what is sent, what comes back."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from lvagent.api.app import create_app, operations_of
from lvagent.config import Api, Settings
from lvagent.errors import CommandError, HostError, Unavailable
from lvagent.spec.names import nic_mac
from tests.unit.api.fake_agent import NOW, FakeAgent
from tests.unit.api.specs import full, vm

VM1 = "/v1/vms/i-0000000001"


def test_a_put_creates_then_finds_it_unchanged_then_changes_it(client: FlaskClient) -> None:
    made = client.put(VM1, json=vm())
    same = client.put(VM1, json=vm())
    changed = client.put(VM1, json=vm(memory_mb=256))
    told = [
        (answer.status_code, answer.json["outcome"], answer.json["revision"], answer.json["restart_needed"])
        for answer in (made, same, changed)
    ]
    assert told == [(201, "created", 1, []), (200, "unchanged", 1, []), (200, "changed", 2, ["memory_mb"])]
    assert made.headers["Location"] == VM1


def test_a_vm_is_its_spec_and_how_it_stands_without_its_user_data(client: FlaskClient) -> None:
    put = client.put(VM1, json=full())
    shown = client.get(VM1)
    expected = {
        "id": "i-0000000001",
        "memory_mb": 128,
        "cpus": 1,
        "volumes": [
            {
                "path": "/var/lib/lvagent/volumes/1.qcow2",
                "position": 0,
                "size_gb": 1,
                "image": "tiny",
                "readonly": False,
            }
        ],
        "networks": [
            {
                "vxlanid": 100,
                "netname": "vpc-aaaaaaaaaa",
                "subnetname": "subnet-aaaaaaaaaa",
                "position": 0,
                "ipv4": "10.0.0.5/16",
                "gateway_v4": "10.0.0.1",
                "ipv6": "fd00:a::5/64",
                "gateway_v6": "fd00:a::1",
                "mac": nic_mac("i-0000000001", 0),
                "extra_addresses": [],
                "extra_macs": [],
                "mtu": None,
            }
        ],
        "rules": [
            {
                "proto": "tcp",
                "port": 22,
                "port_end": None,
                "source": "10.0.0.0/8",
                "destination": "",
                "direction": None,
            }
        ],
        "keys": full()["keys"],
        "datasource": "ec2",
        "restart": "on-failure",
        "has_user_data": True,
        "state": "running",
        "reason": "booted",
        "wanted": "running",
        "revision": 1,
        "pid": 4242,
        "process": {"pid": 4242, "state": "running", "started_at": "2026-11-23T21:45:00.000Z"},
        "changed_at": "2026-11-23T21:45:00.000Z",
        "ports": [
            {
                "position": 0,
                "tap": "t0000000001-0",
                "mac": nic_mac("i-0000000001", 0),
                "vpc": "vpc-aaaaaaaaaa",
                "subnet": "subnet-aaaaaaaaaa",
                "mtu": 1450,
                "addresses": ["10.0.0.5/16", "fd00:a::5/64"],
                "dns": "i-0000000001.vpc.internal",
            }
        ],
        "published": [],
        "floating": [],
        "drift": [],
        "drift_details": [],
        "timings": [
            {"phase": "check", "ms": 0.1},
            {"phase": "define", "ms": 4.0},
            {"phase": "wire", "ms": 8.5},
            {"phase": "start", "ms": 500.25},
        ],
        "error": None,
        "observed_at": NOW,
        "stale": False,
    }
    assert shown.json == expected
    assert put.json == {**expected, "outcome": "created", "restart_needed": []}
    assert "swordfish" not in put.text + shown.text


def test_post_creates_finds_and_refuses_another_spec(client: FlaskClient) -> None:
    made = client.post("/v1/vms", json=vm())
    same = client.post("/v1/vms", json=vm())
    other = client.post("/v1/vms", json=vm(cpus=2))
    assert [made.status_code, same.status_code, other.status_code] == [201, 200, 409]
    assert made.headers["Location"] == VM1
    assert other.json == {
        "type": "urn:lvagent:error:conflict",
        "title": "This contradicts something that exists",
        "status": 409,
        "detail": "i-0000000001 exists with another spec",
        "instance": "/v1/vms",
        "path": "id",
        "hint": "PUT changes it",
        "other": "i-0000000001",
    }


def test_any_spelling_of_a_key_is_understood(client: FlaskClient) -> None:
    spec = vm()
    seed = {"Id": spec["id"], "MemoryMB": 128, "CPUs": 1, "Networks": spec["networks"]}
    assert client.put(VM1, json=seed).status_code == 201
    assert client.put(VM1, json=spec).json["outcome"] == "unchanged"


def test_lists_are_in_order_and_whole(client: FlaskClient) -> None:
    assert client.get("/v1/vms").json == {"items": [], "next": None}
    for number in (3, 1, 2):
        client.post("/v1/vms", json=vm(number))
    listed = client.get("/v1/vms").json
    assert [one["id"] for one in listed["items"]] == ["i-0000000001", "i-0000000002", "i-0000000003"]
    assert listed["next"] is None


def test_a_delete_takes_it_away_and_the_next_finds_nothing(client: FlaskClient, agent: FakeAgent) -> None:
    client.put(VM1, json=vm())
    gone = client.delete(f"{VM1}?grace=20&volumes=delete")
    again = client.delete(VM1)
    assert (gone.status_code, gone.data, again.status_code) == (204, b"", 404)
    assert "Content-Type" not in gone.headers
    assert agent.calls == [("put", "i-0000000001"), ("delete grace=20 volumes=True", "i-0000000001")]


@pytest.mark.parametrize(
    ("action", "state"),
    [("stop", "stopped"), ("start", "running"), ("pause", "paused"), ("reboot", "running"), ("reset", "running")],
)
def test_power(client: FlaskClient, action: str, state: str) -> None:
    client.put(VM1, json=vm())
    done = client.post(f"{VM1}/{action}")
    assert (done.status_code, done.json["state"]) == (200, state)
    assert client.get(VM1).json["state"] == state


def test_an_action_that_makes_no_sense_is_a_conflict(client: FlaskClient) -> None:
    client.put(VM1, json=vm())
    refused = client.post(f"{VM1}/resume")
    assert (refused.status_code, refused.json["hint"]) == (409, "it must be paused")


def test_an_action_that_does_not_exist_names_those_that_do(client: FlaskClient) -> None:
    refused = client.post(f"{VM1}/explode")
    assert (refused.status_code, refused.json["hint"]) == (
        404,
        "a VM knows start, shutdown, stop, reboot, reset, pause, resume",
    )


def test_texts_of_a_vm(client: FlaskClient, agent: FakeAgent) -> None:
    client.put(VM1, json=vm())
    xml = client.get(f"{VM1}/domain.xml")
    assert (xml.data, xml.content_type) == (b"<domain><name>i-0000000001</name></domain>", "application/xml")
    agent.console = b"boot\xff\x1b[2Jlogin: "
    console = client.get(f"{VM1}/console?tail=12")
    assert (console.data, console.content_type) == (b"\xef\xbf\xbd\x1b[2Jlogin: ", "text/plain; charset=utf-8")


def test_networks_and_images(client: FlaskClient) -> None:
    client.put(VM1, json=vm())
    subnet = {
        "name": "subnet-aaaaaaaaaa",
        "vpc": "vpc-aaaaaaaaaa",
        "vxlanid": 100,
        "gateway_v4": "10.0.0.1/24",
        "gateway_v6": "fd00:a::1/64",
        "mtu": 1450,
        "vms": ["i-0000000001"],
    }
    vpc = {
        "name": "vpc-aaaaaaaaaa",
        "netns": "vpc-aaaaaaaaaa",
        "domain": "vpc.internal",
        "subnets": [subnet],
        "vms": ["i-0000000001"],
        "settings": {"uplink": None, "forwarders": None, "domain": None, "mtu": None, "metadata": None},
        "uplink": {
            "mode": "none",
            "mtu": None,
            "address_v4": None,
            "gateway_v4": None,
            "address_v6": None,
            "gateway_v6": None,
            "routes": [],
            "forwarders": [],
            "trouble": [],
        },
        "metadata": "on",
        "sessions": None,
        "peers": [],
    }
    assert client.get("/v1/vpcs").json == {"items": [vpc], "next": None}
    assert client.get("/v1/vpcs/vpc-aaaaaaaaaa").json == vpc
    assert client.get("/v1/subnets").json == {"items": [subnet], "next": None}
    assert client.get("/v1/subnets/subnet-aaaaaaaaaa").json == subnet
    assert client.get("/v1/images").json["items"][1] == {
        "name": "tiny",
        "virtual_size": 64 << 20,
        "file_size": 21 << 20,
    }


def test_a_plan_touches_nothing(client: FlaskClient, agent: FakeAgent) -> None:
    text = [{"vpc": "vpc-aaaaaaaaaa", "text": "# of vpc-aaaaaaaaaa\n"}]
    assert client.post("/v1/plan", json=vm()).json == {
        "outcome": "created",
        "restart_needed": [],
        "steps": ["make netns", "start"],
        "xml": "<domain><name>i-0000000001</name></domain>",
        "nft": text,
        "dnsmasq": text,
    }
    assert (agent.calls, client.get("/v1/vms").json["items"]) == ([], [])


def test_health_and_readiness(client: FlaskClient, agent: FakeAgent) -> None:
    assert client.get("/healthz").json == {"status": "ok"}
    ready = client.get("/readyz")
    agent.ready = False
    unready = client.get("/readyz")
    assert (ready.status_code, ready.json) == (200, {"ready": True, "checks": {"libvirt": "ok", "first sweep": "ok"}})
    assert (unready.status_code, unready.json["checks"]["libvirt"]) == (503, "cannot be read")
    assert unready.headers["Retry-After"] == "2"


# preconditions


def test_preconditions(client: FlaskClient) -> None:
    def put(document: dict[str, Any], **headers: str) -> TestResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.put(VM1, json=document, headers=named)

    assert put(vm(), If_Match='"1"').status_code == 412
    tag = put(vm(), If_None_Match="*").headers["ETag"]
    assert put(vm(cpus=2), If_None_Match="*").status_code == 412
    assert put(vm(cpus=2), If_Match=tag).headers["ETag"] == '"2"'
    stale = put(vm(cpus=3), If_Match=tag)
    assert (stale.status_code, stale.json["detail"]) == (412, 'If-Match: i-0000000001 has revision 2, not "1"')
    assert put(vm(cpus=3), If_Match=f'{tag}, "2"').status_code == 200
    assert client.delete(VM1, headers={"If-Match": tag}).status_code == 412
    assert client.delete(VM1, headers={"If-Match": "*"}).status_code == 204


# failures


def test_a_failure_says_in_which_phase(client: FlaskClient, agent: FakeAgent) -> None:
    agent.failure = HostError("volume /v.qcow2", "make", "no space left on device", hint="free some").in_phase("volume")
    failed = client.put(VM1, json=vm())
    assert failed.content_type == "application/problem+json"
    assert failed.json == {
        "type": "urn:lvagent:error:host",
        "title": "The host could not do it",
        "status": 500,
        "detail": "cannot make volume /v.qcow2: no space left on device",
        "instance": VM1,
        "hint": "free some",
        "phase": "volume",
    }


def test_a_failed_command_and_an_absent_libvirt(client: FlaskClient, agent: FakeAgent) -> None:
    agent.failure = CommandError(["qemu-img", "create"], 1, "no\nway\n")
    assert client.put(VM1, json=vm()).json["type"] == "urn:lvagent:error:command"
    agent.failure = Unavailable("libvirt")
    away = client.put(VM1, json=vm())
    assert (away.status_code, away.headers["Retry-After"]) == (503, "2")


def test_a_defect_is_told_by_its_id_alone(
    client: FlaskClient, agent: FakeAgent, caplog: pytest.LogCaptureFixture
) -> None:
    agent.failure = KeyError("/secret/path")
    failed = client.put(VM1, json=vm())
    ident = failed.json["error_id"]
    assert failed.json == {
        "type": "urn:lvagent:error:internal",
        "title": "A defect in the agent",
        "status": 500,
        "detail": "an error that nobody expected",
        "instance": VM1,
        "hint": f"the agent's log has it as error {ident}",
        "error_id": ident,
    }
    assert f"error {ident} in put of i-0000000001" in caplog.text
    assert "/secret/path" in caplog.text


def test_a_defect_in_a_view_is_told_the_same_way(
    agent: FakeAgent, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("/secret/path")

    app.add_url_rule("/broken", "broken", broken)
    failed = app.test_client().get("/broken")
    assert (failed.status_code, failed.json["type"]) == (500, "urn:lvagent:error:internal")
    assert "/secret/path" not in failed.text
    assert f"error {failed.json['error_id']} in GET '/broken'" in caplog.text


def test_as_many_creates_at_once_as_are_let_in(agent: FakeAgent) -> None:
    app = create_app(agent, Settings(api=Api(operations=4, threads=40)))
    answers: list[int] = []

    def create(number: int) -> None:
        answers.append(app.test_client().post("/v1/vms", json=vm(number)).status_code)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [201] * 16
    assert len(app.test_client().get("/v1/vms").json["items"]) == 16
    assert operations_of(app).close(10)
