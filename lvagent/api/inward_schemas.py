"""JSON Schemas of what leads to VMs from outside."""

from __future__ import annotations

import copy
from typing import cast

from lvagent.api.problems import Json
from lvagent.spec.publications import MAX_PUBLICATIONS, floating_schema, publication_schema


def _wish() -> Json:
    return {name: value for name, value in publication_schema().items() if name != "$schema"}


def _told() -> Json:
    """A publication as answers have it: every member there."""
    members = cast(dict[str, Json], copy.deepcopy(_wish()["properties"]))
    return {
        "type": "object",
        "description": "Ports of the host that lead to ports of a VM.",
        "properties": members,
        "required": list(members),
        "additionalProperties": False,
    }


def _floating() -> Json:
    """A floating address as answers have it."""
    members = cast(dict[str, Json], copy.deepcopy(floating_schema()["properties"]))
    address = {"type": "string", "description": "the address", "examples": ["192.0.2.50"]}
    return {
        "type": "object",
        "description": "An address of the host's network that is led to a VM.",
        "properties": {"address": address, **members},
        "required": ["address", *members],
        "additionalProperties": False,
    }


def inward_schemas() -> dict[str, Json]:
    """The named schemas of published ports and floating addresses."""
    return {
        "FloatingSpec": {name: value for name, value in floating_schema().items() if name != "$schema"},
        "Floating": _floating(),
        "PublicationSpec": _wish(),
        "Publication": _told(),
        "PortsSpec": {
            "type": "array",
            "maxItems": MAX_PUBLICATIONS,
            "items": {"$ref": "#/components/schemas/PublicationSpec"},
            "description": "All that is published of a VM; [] is nothing.",
            "examples": [[{"host_port": 8080, "port": 80}]],
        },
    }
