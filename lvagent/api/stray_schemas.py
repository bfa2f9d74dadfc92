"""JSON Schemas of strays and of the sweep; see ``api.schemas``."""

from __future__ import annotations

from collections.abc import Mapping

from lvagent.api.problems import Json
from lvagent.spec.strays import STRAYS

_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_TEXTS: Json = {"type": "array", "items": _TEXT}

_STRAY: Mapping[str, tuple[Json, str]] = {
    "pid": (_COUNT, "its pid"),
    "identity": (_TEXT, "when it began, in ticks of the kernel's clock since boot; with the pid it is one process"),
    "sort": (_TEXT | {"enum": [*STRAYS]}, "lost: it bears a mark of ours, and libvirt does not know it; or nobody's"),
    "why": (_TEXT, "why it is believed to be a stray"),
    "state": (_TEXT | {"enum": ["running", "stopped", "zombie"]}, "its state"),
    "program": (_TEXT, "what it executes; of a zombie its short name is left"),
    "age": ({"type": "number", "minimum": 0}, "seconds since it began"),
    "uid": (_COUNT, "its user"),
    "parent": (_COUNT, "the pid of its parent"),
    "parent_name": (_TEXT, "the short name of its parent"),
    "arguments": (_TEXTS, "its arguments; what could be a secret is cut out"),
    "sockets": (_TEXTS, "unix sockets that it holds"),
    "disks": (_TEXTS, "files that it holds open"),
    "taps": (_TEXTS, "network devices that it holds open"),
    "sweeps": (_COUNT, "in how many sweeps it was seen"),
}

_OBJECT: Mapping[str, tuple[Json, str]] = {
    "kind": (_TEXT, "what it is"),
    "name": (_TEXT, "which one"),
    "why": (_TEXT, "why it is told of, and what becomes of it"),
}


def _object(description: str, members: Mapping[str, tuple[Json, str]]) -> Json:
    return {
        "type": "object",
        "description": description,
        "properties": {name: {**shape, "description": text} for name, (shape, text) in members.items()},
        "required": [*members],
        "additionalProperties": False,
    }


def stray_schemas() -> dict[str, Json]:
    """The named schemas."""
    stray: Json = {"$ref": "#/components/schemas/Stray"}
    lists: Mapping[str, tuple[Json, str]] = {
        "policy": (_TEXT | {"enum": ["report", "stop"]}, "what the settings say of processes"),
        "grace": (_COUNT, "sweeps after which one is stopped, if that is the policy"),
        "processes": ({"type": "array", "items": stray}, "qemu processes"),
        "objects": ({"type": "array", "items": _object("An object.", _OBJECT)}, "what else nobody wants"),
    }
    identity: Json = {"type": "string", "pattern": "^[0-9]{1,20}$", "examples": ["123456"]}
    held: Json = {"type": ["string", "null"]}
    return {
        "Stray": _object("A qemu process that nobody wants.", _STRAY),
        "Strays": _object("What is on this host and nobody wants.", lists),
        "StrayIdentity": _object("Which process is meant.", {"identity": (identity, "as it was told")}),
        "Sweep": _object("What came of a sweep.", {"held": (held, "why nothing was removed; null if it was")}),
    }
