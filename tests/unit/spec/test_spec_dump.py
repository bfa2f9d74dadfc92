"""Specs as JSON, and back; the schema says the same."""

from __future__ import annotations

import dataclasses
import json

import jsonschema
import pytest
from hypothesis import given
from spec_examples import KEY, SEED, documents, nic, vm

from lvagent.spec import json as strict
from lvagent.spec.dump import digest, dump_vm
from lvagent.spec.parse import parse_vm, vm_schema
from lvagent.spec.schema import NetworkModel, RuleModel, VmModel, VolumeModel
from lvagent.spec.vm import NetRule, Network, VmConfig, Volume

SCHEMA = jsonschema.Draft202012Validator(vm_schema())


def test_the_seed_in_canonical_spelling():
    assert dump_vm(parse_vm(SEED), secrets=True) == {
        "id": "i-0000000001",
        "memory_mb": 128,
        "cpus": 1,
        "volumes": [{"path": "/v/one.qcow2", "position": 0, "size_gb": None, "image": "tiny", "readonly": False}],
        "networks": [
            {
                "vxlanid": 100,
                "netname": "vpc-aaaaaaaaaa",
                "subnetname": "subnet-aaaaaaaaaa",
                "position": 0,
                "ipv4": "10.0.0.5/24",
                "gateway_v4": "10.0.0.1",
                "ipv6": "fd00:a::5/64",
                "gateway_v6": "fd00:a::1",
                "mac": "06:8c:09:e8:34:62",
                "extra_addresses": [],
                "extra_macs": [],
                "mtu": None,
            }
        ],
        "rules": [{"proto": "tcp", "port": 22, "port_end": None, "source": "", "destination": "", "direction": None}],
        "keys": [KEY],
        "datasource": None,
        "restart": "on-failure",
        "user_data": None,
    }


@pytest.mark.parametrize(
    ("user_data", "text"),
    [
        ("#cloud-config\n", "#cloud-config\n"),
        ("\ufeffä", "\ufeffä"),
        ({"base64": "YQ=="}, "a"),
        ({"base64": "AP8="}, {"base64": "AP8="}),
        ({"base64": "YQBi"}, {"base64": "YQBi"}),
    ],
)
def test_user_data_is_text_if_it_can_be(user_data, text):
    assert dump_vm(parse_vm(vm(user_data=user_data)), secrets=True)["user_data"] == text


def test_without_secrets_there_is_no_user_data():
    with_secret = parse_vm(vm(user_data="hunter2"))
    document = dump_vm(with_secret, secrets=False)
    assert "user_data" not in document
    assert parse_vm(document) == dataclasses.replace(with_secret, user_data=None)
    assert digest(with_secret) == digest(parse_vm(vm()))


def test_digests_are_known():
    assert digest(parse_vm(SEED)) == "b96b91b9855e4975b5e70f0258c6940686c2f0ddb03773165259d78f3d152e91"


def test_digests_tell_specs_apart():
    others = [parse_vm(vm()), parse_vm(vm(cpus=2)), parse_vm(vm(networks=[nic(mtu=1400)])), parse_vm(vm(keys=[KEY]))]
    assert len({digest(other) for other in others}) == len(others)


@given(documents())
def test_round_trip(document):
    parsed = parse_vm(document)
    raw = json.dumps(dump_vm(parsed, secrets=True)).encode()
    again = parse_vm(strict.load(raw, max_bytes=1 << 20))
    assert again == parsed
    assert digest(again) == digest(parsed)
    assert dump_vm(again, secrets=True) == dump_vm(parsed, secrets=True)


@given(documents())
def test_the_schema_accepts_what_is_accepted_and_what_is_answered(document):
    SCHEMA.validate(document)
    SCHEMA.validate(dump_vm(parse_vm(document), secrets=True))


@pytest.mark.parametrize(
    "document",
    [vm(cores=1), vm(id="i-1"), vm(cpus=0), vm(cpus="1"), vm(networks=[]), {}, vm(networks=[nic(vxlanid=2_000_001)])],
)
def test_the_schema_refuses_what_is_refused(document):
    assert not SCHEMA.is_valid(document)


def test_the_schema_is_whole_and_described():
    schema = vm_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "$ref" not in json.dumps(schema)
    networks = schema["properties"]["networks"]["items"]["properties"]
    for properties in (schema["properties"], networks):
        assert [name for name, field in properties.items() if not field.get("description")] == []
    assert networks["vxlanid"] == {
        "description": "VNI of the subnet's segment, 0 to 2000000; 0 is local to this host",
        "examples": [100],
        "maximum": 2_000_000,
        "minimum": 0,
        "type": "integer",
    }


def test_the_schemas_example_is_a_vm():
    [example] = vm_schema()["examples"]
    SCHEMA.validate(example)
    assert parse_vm(example).id == example["id"]


def test_a_changed_copy_of_the_schema_changes_no_other():
    vm_schema()["properties"].clear()
    assert "id" in vm_schema()["properties"]


@pytest.mark.parametrize(
    ("model", "value"), [(VmModel, VmConfig), (VolumeModel, Volume), (NetworkModel, Network), (RuleModel, NetRule)]
)
def test_models_and_values_have_the_same_fields(model, value):
    assert set(model.model_fields) == {field.name for field in dataclasses.fields(value)}
