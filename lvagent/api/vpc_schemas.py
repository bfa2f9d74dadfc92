"""JSON Schemas of VPCs: what is wanted of one, and how it stands."""

from __future__ import annotations

import copy
from typing import cast

from lvagent.api.problems import Json
from lvagent.spec.vpc import UplinkMode, vpc_schema


def _text(description: str) -> Json:
    return {"type": "string", "description": description}


def _or_null(description: str, kind: str = "string") -> Json:
    return {"type": [kind, "null"], "description": description}


def _texts(description: str) -> Json:
    return {"type": "array", "items": {"type": "string"}, "description": description}


def _object(description: str, members: dict[str, Json]) -> Json:
    return {
        "type": "object",
        "description": description,
        "properties": members,
        "required": list(members),
        "additionalProperties": False,
    }


UPLINK = _object(
    "The way out of a VPC: as it is wanted, and the addresses that it has now (null: none).",
    {
        "mode": {"type": "string", "enum": [*UplinkMode], "description": "the way out that it shall have"},
        "mtu": _or_null("MTU of the uplink in bytes", "integer"),
        "address_v4": _or_null("the VPC's end, behind which its VMs are with nat"),
        "gateway_v4": _or_null("the host's end"),
        "address_v6": _or_null("the VPC's end, IPv6"),
        "gateway_v6": _or_null("the host's end, IPv6"),
        "routes": _texts("the prefixes that the host routes to the VPC as they are"),
        "forwarders": _texts("the DNS servers that are asked for names outside"),
        "trouble": _texts("what keeps it from being whole, and what to do"),
    },
)


def vpc_schemas() -> dict[str, Json]:
    """The named schemas of VPCs."""
    wish = {name: value for name, value in vpc_schema().items() if name != "$schema"}
    members = cast(dict[str, Json], copy.deepcopy(wish["properties"]))
    return {
        "VpcSettings": wish,
        "Vpc": _object(
            "A VPC: a network namespace.",
            {
                "name": _text("its name"),
                "netns": _text("the name of its namespace"),
                "domain": _text("its DNS domain"),
                "subnets": {
                    "type": "array",
                    "items": {"$ref": "#/components/schemas/Subnet"},
                    "description": "its subnets",
                },
                "vms": _texts("the VMs in it"),
                "settings": _object("What was wanted of it (PUT); null: as the agent's settings have it.", members),
                "uplink": UPLINK,
                "metadata": {"type": "string", "enum": ["on", "off"], "description": "whether metadata is served"},
            },
        ),
    }
