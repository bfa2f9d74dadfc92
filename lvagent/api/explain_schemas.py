"""JSON Schemas of what ``explain`` tells."""

from __future__ import annotations

from lvagent.api.problems import Json
from lvagent.api.vpc_schemas import object_schema, text_schema, texts_schema
from lvagent.spec.flow import Stage

_FLAG = {"type": "boolean"}

STEP = object_schema(
    "One thing that the packet meets.",
    {
        "stage": {"type": "string", "enum": [*Stage], "description": "what kind of thing"},
        "where": text_schema("its name: a VM, a VPC, a tap, a subnet"),
        "element": text_schema("what of it decides, such as rules[2]; empty: nothing to be named"),
        "text": text_schema("what it says of the packet, in plain words"),
        "passed": {**_FLAG, "description": "whether the packet goes on"},
    },
)

PACKET = object_schema(
    "The packet as it is sent.", {"source": text_schema("its source"), "destination": text_schema("its destination")}
)

LIVE = object_schema(
    "What became of the packet when it was sent.",
    {
        "sent": {**_FLAG, "description": "false: it could not be; text says why"},
        "arrived": {**_FLAG, "description": "whether it got to where it was meant to"},
        "agrees": {"type": ["boolean", "null"], "description": "whether that is what the walk says; null: not sent"},
        "text": text_schema("what became of it, in plain words"),
        "decider": text_schema("the rule of the kernel that ended it; empty: none did"),
        "seen": texts_schema("the chains that it met, in order"),
    },
)


def explain_schemas() -> dict[str, Json]:
    """The named schemas."""
    return {
        "Explained": object_schema(
            "The way of a flow's first packet.",
            {
                "from": text_schema("who sends it"),
                "to": text_schema("to whom"),
                "proto": text_schema("its protocol"),
                "port": {"type": ["integer", "null"], "description": "the port that it is sent to"},
                "verdict": {"type": "string", "enum": ["allowed", "refused"], "description": "what the wishes say"},
                "why": text_schema("the verdict in plain words"),
                "decider": STEP,
                "packet": _or_null(PACKET),
                "steps": {"type": "array", "items": STEP, "description": "what the packet meets, in order"},
                "live": _or_null(LIVE),
            },
        )
    }


def _or_null(schema: Json) -> Json:
    return {**schema, "type": ["object", "null"]}
