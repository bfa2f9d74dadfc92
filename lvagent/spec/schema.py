"""The shape of a specification as JSON: fields, types, bounds.

These models stand at the border only. They say what a document may look like; what it means (addresses, keys, rules,
positions) is checked by the modules beside this one, and everybody else sees the values of ``spec.vm``. Descriptions
are part of the API: they are in the OpenAPI document, and the hint of an error is the description of its field.
"""

from __future__ import annotations

import copy
import functools
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from lvagent.spec import names
from lvagent.spec.limits import (
    MAX_CPUS,
    MAX_KEYS,
    MAX_MEMORY_MB,
    MAX_MTU,
    MAX_NETWORKS,
    MAX_POSITION,
    MAX_RULES,
    MAX_SIZE_GB,
    MAX_VOLUMES,
    MIN_MEMORY_MB,
    MIN_MTU_V4,
)

_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)

EXAMPLE: JsonDict = {
    "id": "i-0000000001",
    "memory_mb": 512,
    "cpus": 1,
    "volumes": [{"path": "/var/lib/lvagent/volumes/i-0000000001.qcow2", "position": 0, "image": "tiny"}],
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
        }
    ],
    "rules": [{"proto": "tcp", "port": 22}],
    "keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f demo"],
}
"""A whole VM, for the API's documentation."""

Position = Annotated[int, Field(ge=0, le=MAX_POSITION)]
Port = Annotated[int, Field(ge=0, le=65_535)]


class VolumeModel(BaseModel):
    """A disk: a qcow2 file, made if it does not exist."""

    model_config = _STRICT

    path: str = Field(
        description="absolute path of a qcow2 file, ending in .qcow2, in one of the folders for volumes",
        examples=["/var/lib/lvagent/volumes/i-0000000001.qcow2"],
    )
    position: Position = Field(description=f"0 to {MAX_POSITION}, each once; 0 is the boot disk", examples=[0])
    size_gb: int | None = Field(
        None,
        ge=1,
        le=MAX_SIZE_GB,
        description=f"size in GiB of a file that is made, 1 to {MAX_SIZE_GB}; an image is grown to it",
        examples=[10],
    )
    image: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="name of the image for a new file: letters, digits, '.', '_' and '-'; see GET /v1/images",
        examples=["tiny"],
    )
    readonly: bool | None = Field(None, description="true: the guest cannot write to it", examples=[False])


class NetworkModel(BaseModel):
    """A NIC and the subnet it is in. An address or its gateway carries the prefix of the subnet."""

    model_config = _STRICT

    vxlanid: int = Field(
        ge=0,
        le=names.MAX_VNI,
        description=f"VNI of the subnet's segment, 0 to {names.MAX_VNI}; 0 is local to this host",
        examples=[100],
    )
    netname: str = Field(
        pattern="^vpc-[0-9a-z]{10}$",
        description='the VPC: "vpc-" and ten of 0-9 and a-z',
        examples=["vpc-aaaaaaaaaa"],
    )
    subnetname: str = Field(
        pattern="^subnet-[0-9a-z]{10}$",
        description='the subnet: "subnet-" and ten of 0-9 and a-z',
        examples=["subnet-aaaaaaaaaa"],
    )
    position: Position = Field(
        description=f"0 to {MAX_POSITION}, each once; 0 is the first NIC, the one with the default route", examples=[0]
    )
    ipv4: str | None = Field(
        None, max_length=64, description="IPv4 address, with or without its prefix", examples=["10.0.0.5/24"]
    )
    gateway_v4: str | None = Field(
        None, max_length=64, description="IPv4 gateway of the subnet, with or without its prefix", examples=["10.0.0.1"]
    )
    ipv6: str | None = Field(
        None, max_length=64, description="IPv6 address, with or without its prefix", examples=["fd00:a::5/64"]
    )
    gateway_v6: str | None = Field(
        None,
        max_length=64,
        description="IPv6 gateway of the subnet, with or without its prefix",
        examples=["fd00:a::1"],
    )
    mac: str | None = Field(
        None,
        max_length=17,
        description="unicast MAC address, six octets with colons or dashes; computed from id and position if absent",
        examples=["06:00:00:00:00:01"],
    )
    extra_addresses: list[str] | None = Field(
        None,
        max_length=64,
        description="CIDRs that the port may use beside its own addresses (at most 64)",
        examples=[["10.0.0.100/32"]],
    )
    extra_macs: list[str] | None = Field(
        None,
        max_length=16,
        description="MAC addresses that the port may use beside its own (at most 16)",
        examples=[["00:00:5e:00:01:01"]],
    )
    mtu: int | None = Field(
        None,
        ge=MIN_MTU_V4,
        le=MAX_MTU,
        description=f"MTU of the subnet, {MIN_MTU_V4} to {MAX_MTU} bytes, with IPv6 at least 1280; "
        "absent: what the segment carries",
        examples=[1450],
    )


class RuleModel(BaseModel):
    """An allow rule, stateful. Ingress is closed unless a rule opens it; egress is open until the first egress rule."""

    model_config = _STRICT

    proto: Annotated[int, Field(ge=0, le=255)] | Annotated[str, Field(max_length=16)] = Field(
        description="tcp, udp, icmp, icmpv6, sctp, any, or a protocol number from 0 to 255", examples=["tcp"]
    )
    port: Port | None = Field(None, description="destination port, 0 to 65535; 0 or absent: all ports", examples=[22])
    port_end: Annotated[int, Field(ge=1, le=65_535)] | None = Field(
        None, description="last port of a range that begins with port, up to 65535", examples=[1023]
    )
    source: str | None = Field(
        None,
        max_length=64,
        description="where it comes from: CIDR, address, VM id, subnet name; empty: from anywhere",
        examples=["10.0.0.0/24"],
    )
    destination: str | None = Field(
        None,
        max_length=64,
        description="where it goes to: CIDR, address, VM id, subnet name; empty: to anywhere",
        examples=["i-0000000002"],
    )
    direction: Literal["ingress", "egress"] | None = Field(
        None,
        description="ingress or egress, seen from the VM; absent: egress if source is the VM itself or destination is "
        "given and does not cover the VM, else ingress",
        examples=["ingress"],
    )


class EncodedModel(BaseModel):
    """Bytes that are no text."""

    model_config = _STRICT

    base64: str = Field(description="the bytes in base64 (RFC 4648, 4)", examples=["I2Nsb3VkLWNvbmZpZwo="])


class VmModel(BaseModel):
    """A VM as its user wants it. Keys are matched ignoring case and underscores; null is the same as absent."""

    model_config = _STRICT | ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: str = Field(
        pattern="^i-[0-9]{10}$", description='"i-" and ten digits, such as i-0000000001', examples=["i-0000000001"]
    )
    memory_mb: int = Field(
        ge=MIN_MEMORY_MB,
        le=MAX_MEMORY_MB,
        description=f"memory in MiB, a whole number from {MIN_MEMORY_MB} to {MAX_MEMORY_MB}",
        examples=[512],
    )
    cpus: int = Field(
        ge=1, le=MAX_CPUS, description=f"number of CPUs, a whole number from 1 to {MAX_CPUS}", examples=[1]
    )
    networks: list[NetworkModel] = Field(
        min_length=1, max_length=MAX_NETWORKS, description=f"the NICs, 1 to {MAX_NETWORKS}"
    )
    volumes: list[VolumeModel] | None = Field(
        None, max_length=MAX_VOLUMES, description=f"the disks, at most {MAX_VOLUMES}"
    )
    rules: list[RuleModel] | None = Field(
        None, max_length=MAX_RULES, description=f"what is allowed, at most {MAX_RULES} rules"
    )
    keys: list[str] | None = Field(
        None,
        max_length=MAX_KEYS,
        description=f"SSH public keys for the guest, one line each, at most {MAX_KEYS}",
        examples=[["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f demo"]],
    )
    user_data: str | EncodedModel | None = Field(
        None,
        description='for cloud-init: a string, or {"base64": "..."} for other bytes; a secret, never shown',
        examples=["#cloud-config\n"],
    )
    datasource: Literal["nocloud", "ec2", "openstack"] | None = Field(
        None,
        description="nocloud, ec2 or openstack: how metadata looks to the guest; absent: as the agent is set",
        examples=["nocloud"],
    )
    restart: Literal["never", "on-failure", "always"] | None = Field(
        None,
        description="when it is started again after it ended by itself: never, on-failure (it crashed; the default), "
        "or always (also after the guest shut itself down)",
        examples=["on-failure"],
    )


CHILDREN: dict[type[BaseModel], dict[str, type[BaseModel]]] = {
    VmModel: {"volumes": VolumeModel, "networks": NetworkModel, "rules": RuleModel, "user_data": EncodedModel},
}
"""The members that are objects, or lists of them."""


@functools.cache
def _schema(model: type[BaseModel]) -> dict[str, object]:
    schema: dict[str, object] = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    assert isinstance(definitions, dict)
    whole = _inline(schema, definitions)
    assert isinstance(whole, dict)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}


def vm_schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of a VM in canonical spelling, whole, without references: it may stand anywhere."""
    return schema_of(VmModel)


def schema_of(model: type[BaseModel]) -> dict[str, object]:
    """The JSON Schema (2020-12) of what a model takes, likewise."""
    return copy.deepcopy(_schema(model))


def _inline(node: object, definitions: dict[str, object]) -> object:
    """The node with what it refers to in its place, and without the titles that pydantic makes of field names."""
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(reference := node.get("$ref"), str):
        target = definitions[reference.removeprefix("#/$defs/")]
        assert isinstance(target, dict)
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return {key: _inline(value, definitions) for key, value in node.items() if key != "title" or "properties" in node}
