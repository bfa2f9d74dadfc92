"""What is wanted of VPCs, over the API: put, shown, forgotten, and by whom."""

from __future__ import annotations

from flask.testing import FlaskClient

from lvagent.spec.access import Role
from tests.unit.api.doors import A, B, TcpDoor
from tests.unit.api.fake_agent import FakeAgent
from tests.unit.api.specs import vm

PATH = f"/v1/vpcs/{A}"


def test_a_wish_is_put_shown_and_forgotten(client: FlaskClient, agent: FakeAgent) -> None:
    wish = {"uplink": "nat", "Forwarders": ["192.0.2.53"], "mtu": 1400, "metadata": "off"}
    answer = client.put(PATH, json=wish)
    assert answer.status_code == 200
    settings = {"uplink": "nat", "forwarders": ["192.0.2.53"], "domain": None, "mtu": 1400, "metadata": "off"}
    assert answer.json["settings"] == settings
    assert answer.json["uplink"]["mode"] == "nat"
    assert client.get(PATH).json == answer.json
    assert [one["name"] for one in client.get("/v1/vpcs").json["items"]] == [A]
    assert client.delete(PATH).status_code == 204
    assert client.delete(PATH).status_code == 404
    assert agent.calls == [("put_vpc", A), ("delete_vpc", A)]


def test_what_is_no_wish_is_refused_with_its_place(client: FlaskClient, agent: FakeAgent) -> None:
    for body, path in (({"uplink": "all"}, "uplink"), ({"forwarders": ["x"]}, "forwarders[0]"), ({"name": A}, "name")):
        answer = client.put(PATH, json=body)
        assert (answer.status_code, answer.json["path"]) == (422, path)
    assert client.put("/v1/vpcs/vpc-short", json={}).status_code == 404
    assert client.put(PATH, data=b"{").status_code == 422
    assert client.delete(PATH, json={"a": 1}).status_code == 422
    assert agent.calls == []


def test_a_token_is_for_its_own_vpcs_and_learns_nothing_of_the_host(tcp: TcpDoor) -> None:
    admin = tcp.of(Role.ADMIN)
    assert admin.put("/v1/vms/i-0000000001", json=vm()).status_code == 201
    own, other, reader = tcp.of(Role.ADMIN, A), tcp.of(Role.ADMIN, B), tcp.of(Role.OPERATE, A)
    assert own.put(PATH, json={"uplink": "nat"}).status_code == 200
    assert "Docker" in admin.get(PATH).text
    assert "Docker" not in own.get(PATH).text + own.put(PATH, json={"uplink": "nat"}).text
    assert len(own.get(PATH).json["uplink"]["trouble"]) == 1
    assert (other.put(PATH, json={}).status_code, other.delete(PATH).status_code) == (403, 404)
    assert other.put("/v1/vpcs/vpc-cccccccccc", json={}).status_code == 403  # there or not: the same
    assert (reader.put(PATH, json={}).status_code, reader.delete(PATH).status_code) == (403, 403)
    assert own.delete(PATH).status_code == 204
    lines = [line for line in tcp.audit.lines if line["route"] == "putVpc"]
    assert [(line["object"], line["status"]) for line in lines][:2] == [(A, 200), (A, 200)]
