"""JSON Schemas of VPCs: what is wanted of one, and how it stands."""

from __future__ import annotations

import copy
from typing import cast

from lvagent.api.problems import Json
from lvagent.spec.vpc import UplinkMode, vpc_schema


def text_schema(description: str) -> Json:
    """A string."""
    return {"type": "string", "description": description}


def _or_null(description: str, kind: str = "string") -> Json:
    return {"type": [kind, "null"], "description": description}


def texts_schema(description: str) -> Json:
    """A list of strings."""
    return {"type": "array", "items": {"type": "string"}, "description": description}


def object_schema(description: str, members: dict[str, Json]) -> Json:
    """An object with these members, each there, and no others."""
    return {
        "type": "object",
        "description": description,
        "properties": members,
        "required": list(members),
        "additionalProperties": False,
    }


UPLINK = object_schema(
    "The way out of a VPC: as it is wanted, and the addresses that it has now (null: none).",
    {
        "mode": {"type": "string", "enum": [*UplinkMode], "description": "the way out that it shall have"},
        "mtu": _or_null("MTU of the uplink in bytes", "integer"),
        "address_v4": _or_null("the VPC's end, behind which its VMs are with nat"),
        "gateway_v4": _or_null("the host's end"),
        "address_v6": _or_null("the VPC's end, IPv6"),
        "gateway_v6": _or_null("the host's end, IPv6"),
        "routes": texts_schema("the prefixes that the host routes to the VPC as they are"),
        "forwarders": texts_schema("the DNS servers that are asked for names outside"),
        "trouble": texts_schema("what keeps it from being whole, and what to do"),
    },
)


_COUNT = {"type": "integer", "minimum": 0}

SESSIONS: Json = {
    **object_schema(
        "The flows that go by its uplink now; null: it has none, or many VPCs were asked for.",
        {
            "sessions": {**_COUNT, "description": "how many"},
            "bytes": {**_COUNT, "description": "their bytes, both ways; counted since the VPC was made"},
            "complete": {"type": "boolean", "description": "whether all were looked at; very many are not"},
            "vms": {
                "type": "array",
                "description": "by VM",
                "items": object_schema(
                    "Those of a VM.",
                    {
                        "vm": text_schema("its id"),
                        "sessions": {**_COUNT, "description": "how many"},
                        "bytes": {**_COUNT, "description": "their bytes, both ways"},
                    },
                ),
            },
        },
    ),
    "type": ["object", "null"],
}


def vpc_schemas() -> dict[str, Json]:
    """The named schemas of VPCs."""
    wish = {name: value for name, value in vpc_schema().items() if name != "$schema"}
    members = cast(dict[str, Json], copy.deepcopy(wish["properties"]))
    return {
        "VpcSettings": wish,
        "Vpc": object_schema(
            "A VPC: a network namespace.",
            {
                "name": text_schema("its name"),
                "netns": text_schema("the name of its namespace"),
                "domain": text_schema("its DNS domain"),
                "subnets": {
                    "type": "array",
                    "items": {"$ref": "#/components/schemas/Subnet"},
                    "description": "its subnets",
                },
                "vms": texts_schema("the VMs in it"),
                "settings": object_schema(
                    "What was wanted of it (PUT); null: as the agent's settings have it.", members
                ),
                "uplink": UPLINK,
                "metadata": {"type": "string", "enum": ["on", "off"], "description": "whether metadata is served"},
                "sessions": SESSIONS,
                "peers": texts_schema("the VPCs with which it is peered"),
            },
        ),
    }
