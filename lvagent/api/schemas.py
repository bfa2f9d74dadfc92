"""JSON Schemas (2020-12) of what the API sends and takes; the named schemas of the OpenAPI document."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

from lvagent.api.explain_schemas import explain_schemas
from lvagent.api.inward_schemas import inward_schemas
from lvagent.api.operations import Progress
from lvagent.api.peerings import peering_schemas
from lvagent.api.problems import TITLES, URN, Json
from lvagent.api.stray_schemas import stray_schemas
from lvagent.api.vpc_schemas import vpc_schemas
from lvagent.spec.monitor import MAX_COMMAND, MAX_NAME
from lvagent.spec.parse import vm_schema
from lvagent.spec.status import Action, Outcome, Place, Settling, State
from lvagent.spec.vm import Direction


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _text(description: str, *examples: str) -> Json:
    return {"type": "string", "description": description} | ({"examples": list(examples)} if examples else {})


def _number(description: str) -> Json:
    return {"type": "number", "description": description}


def _integer(description: str, least: int = 0) -> Json:
    return {"type": "integer", "minimum": least, "description": description}


def _flag(description: str) -> Json:
    return {"type": "boolean", "description": description}


def _list(items: Json, description: str) -> Json:
    return {"type": "array", "items": items, "description": description}


def _texts(description: str) -> Json:
    return _list({"type": "string"}, description)


def _or_null(schema: Json) -> Json:
    return schema | {"type": [schema["type"], "null"]}


def _enum(options: list[str], description: str) -> Json:
    return {"type": "string", "enum": options, "description": description}


def _object(description: str, members: Mapping[str, Json], *, optional: tuple[str, ...] = ()) -> Json:
    """An object with these members and no others."""
    return {
        "type": "object",
        "description": description,
        "properties": dict(members),
        "required": [name for name in members if name not in optional],
        "additionalProperties": False,
    }


def _items(name: str) -> Json:
    members: dict[str, Json] = {
        "items": _list(_ref(name), "all of them"),
        "next": {"type": "null", "description": "where the list goes on: nowhere, it is whole"},
    }
    return _object("A list.", members)


def _spec_members() -> dict[str, Json]:
    """The members of a spec as answers have them: all but user data, and each there (null if there is nothing)."""
    members = cast(dict[str, Json], copy.deepcopy(vm_schema()["properties"]))
    del members["user_data"]
    return members


PHASE = _object("A phase that has ended.", {"phase": _text("its name"), "ms": _number("milliseconds it took")})

PORT = _object(
    "A NIC as it stands.",
    {
        "position": _integer("as in the spec"),
        "tap": _text("device on the host", "t0000000001-0"),
        "mac": _text("MAC address"),
        "vpc": _text("the VPC"),
        "subnet": _text("the subnet"),
        "mtu": _integer("MTU in bytes"),
        "addresses": _texts("addresses with prefix"),
        "dns": _or_null(_text("its name inside the VPC")),
    },
)

PROCESS = _object(
    "A qemu process.",
    {
        "pid": _integer("its number"),
        "state": _enum(["running", "stopped", "traced", "zombie", "dead"], "as the kernel has it"),
        "started_at": _text("when it began (RFC 3339)"),
    },
)

DRIFT = _object(
    "A field in which what is there differs from the wish.",
    {
        "path": _text("the path in the spec", "memory_mb"),
        "wanted": {"description": "what the wish has"},
        "actual": {"description": "what is there"},
        "place": _enum(
            [*Place], "guest: the running guest; it comes with the next start. definition: somebody changed libvirt's"
        ),
    },
)

STATUS_MEMBERS: Mapping[str, Json] = {
    "has_user_data": _flag("whether it has user data; these are never shown"),
    "state": _enum([*State], "the state it is in"),
    "reason": _text("why it is in that state"),
    "wanted": _enum(["running", "stopped"], "the state it should be in"),
    "revision": _integer("counts the specs it has had"),
    "pid": _or_null(_integer("its qemu process")),
    "process": _or_null(PROCESS),
    "changed_at": _text("since when the agent knows that state and reason (RFC 3339)"),
    "ports": _list(_ref("Port"), "its NICs as they stand"),
    "published": _list(_ref("Publication"), "the ports of the host that lead to it"),
    "floating": _texts("the floating addresses that lead to it"),
    "drift": _texts("paths of the spec in which what is there differs from it"),
    "drift_details": _list(_ref("Drift"), "the same with their values"),
    "timings": _list(_ref("Phase"), "the phases of the last put or start"),
    "error": _or_null(_text("what went wrong last")),
    "observed_at": _text("when it was looked at (RFC 3339)"),
    "stale": _flag("libvirt could not be asked since then"),
}

LOOK = _object(
    "A VM looked at afresh.",
    {
        "vm": _text("the VM"),
        **{name: STATUS_MEMBERS[name] for name in ("state", "reason", "wanted", "changed_at")},
        "domain": _or_null(
            _object(
                "What libvirt says; null: it has no such domain.", {"state": _text("state"), "reason": _text("why")}
            )
        ),
        "qemu": _or_null(
            _object("What qemu says.", {"status": _text("query-status", "running"), "running": _flag("its CPUs run")})
        ),
        "qemu_error": _or_null(_text("why qemu said nothing")),
        **{name: STATUS_MEMBERS[name] for name in ("process", "error", "stale")},
    },
)

PUT_MEMBERS: Mapping[str, Json] = {
    "outcome": _enum([*Outcome], "what was done"),
    "restart_needed": _texts("paths of the spec that take effect at the next start"),
}

_COUNTED: dict[str, Json] = {"packets": _integer("packets"), "bytes": _integer("their bytes")}


def _rules() -> Json:
    """The rules of a VM: each as a spec has it, with its direction said and what it has counted."""
    lists = cast(list[dict[str, Json]], cast(dict[str, Json], vm_schema()["properties"])["rules"]["anyOf"])
    members = cast(dict[str, Json], copy.deepcopy(lists[0]["items"]["properties"]))
    members["direction"] = _enum([*Direction], "which way it looks")
    counted = {
        "packets": _integer("packets of the flows that it allowed, both ways"),
        "bytes": _integer("their bytes"),
        "last_hit": _or_null(
            _text("when it was last hit (RFC 3339), to within a sweep; null: not since the agent began")
        ),
        "implied": _flag("it is not of the spec: it lets in what is published"),
    }
    refused = {way.value: _object("What was dropped.", _COUNTED) for way in Direction}
    return _object(
        "The rules of a VM, in the order of its spec; then those that published ports imply.",
        {
            "vm": _text("the VM"),
            "rules": _list(_object("A rule.", {**members, **counted}), "its rules"),
            "refused": _object("What no rule allowed.", refused),
        },
    )


SUBNET = _object(
    "A subnet: what its VMs say of it.",
    {
        "name": _text("its name"),
        "vpc": _text("the VPC it is in"),
        "vxlanid": _integer("VNI of its segment; 0: local to this host"),
        "gateway_v4": _or_null(_text("IPv4 gateway with prefix")),
        "gateway_v6": _or_null(_text("IPv6 gateway with prefix")),
        "mtu": _integer("MTU in bytes"),
        "vms": _texts("the VMs in it"),
    },
)

IMAGE = _object(
    "An image.",
    {
        "name": _text("what a volume's image may say", "tiny"),
        "virtual_size": _integer("bytes that a guest sees"),
        "file_size": _integer("bytes of the file"),
    },
)

_VPC_TEXTS = _list(
    _object("A text for one VPC.", {"vpc": _text("the VPC"), "text": _text("the text")}),
    "texts, one for each VPC that changes",
)

PLAN = _object(
    "What a put would do.",
    {
        **PUT_MEMBERS,
        "steps": _texts("what would be done, in that order"),
        "xml": _text("the domain XML"),
        "nft": _VPC_TEXTS,
        "dnsmasq": _VPC_TEXTS,
    },
)

OPERATION = _object(
    "A change under way, or done.",
    {
        "id": _text("its id", "op-0123456789abcdef"),
        "kind": _enum(["put", "delete", *Action, *Settling], "what was asked for"),
        "vm": _text("the VM that is changed"),
        "status": _enum([*Progress], "how far it is"),
        "phases": _list(_ref("Phase"), "the phases that have ended"),
        "result": {
            "anyOf": [_ref("PutResult"), _ref("Vm"), {"type": "null"}],
            "description": "what the request would have been answered with; null while it runs and for a delete",
        },
        "problem": {"anyOf": [_ref("Problem"), {"type": "null"}], "description": "why it failed"},
        "started_at": _text("when it was asked for (RFC 3339)"),
        "ended_at": _or_null(_text("when it ended (RFC 3339)")),
    },
)

PROBLEM = _object(
    "What went wrong (RFC 9457).",
    {
        "type": _enum([f"{URN}{kind}" for kind in TITLES], "the kind of error; stable"),
        "title": _text("the kind of error, for people"),
        "status": _integer("the HTTP status", 400),
        "detail": _text("what is wrong and why"),
        "instance": _text("what was asked for"),
        "path": _text("where in the body (JSON path) or query", "networks[0].ipv4"),
        "hint": _text("what to do about it"),
        "phase": _text("the phase in which it went wrong"),
        "other": _text("what it is in conflict with", "i-0000000002"),
        "qemu_class": _text("of an error that qemu told: its class in QMP", "CommandNotFound"),
        "error_id": _text("under which the log tells more about a defect"),
    },
    optional=("instance", "path", "hint", "phase", "other", "qemu_class", "error_id"),
)

_TAINT = _enum(["custom-monitor"], "how libvirt marks the domain from now on: it no longer vouches for it")

QMP_COMMAND = _object(
    "A QMP command.",
    {
        "execute": {"type": "string", "minLength": 1, "maxLength": MAX_NAME, "pattern": "^[!-~]+$"}
        | {"description": "its name", "examples": ["query-status"]},
        "arguments": {"type": ["object", "null"], "description": "its arguments"},
    },
    optional=("arguments",),
)

HMP_COMMAND = _object(
    "An HMP command.",
    {
        "command": {"type": "string", "minLength": 1, "maxLength": MAX_COMMAND, "pattern": "^[ -~]*[!-~][ -~]*$"}
        | {"description": "one line", "examples": ["info status"]},
    },
)

QMP_RETURN = _object(
    "What qemu returned.", {"return": {"description": "any JSON; {} if there is nothing to tell"}, "taint": _TAINT}
)

HMP_OUTPUT = _object("What qemu answered.", {"output": _text("its text, as it is"), "taint": _TAINT})

TIMELINE_ENTRY = _object(
    "One thing that happened to a VM.",
    {
        "at": _text("when (RFC 3339)"),
        "kind": _text("operation, state, plugged, dhcp ...: docs/api.md has them all", "dhcp"),
        "vpcs": {"type": "array", "items": {"type": "string"}, "description": "the VPCs that the VM was in then"},
        "detail": {"type": "object", "description": "what there is to say; its members depend on the kind"},
    },
)

READINESS = _object(
    "Whether the agent can serve.",
    {
        "ready": _flag("whether it can"),
        "checks": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": 'what was looked at: "ok", or why not',
        },
    },
)


def schemas() -> dict[str, Json]:
    """All named schemas."""
    spec = _spec_members()
    return {
        "VmSpec": {name: value for name, value in vm_schema().items() if name != "$schema"},
        "Vm": _object("A VM: its spec, and how it stands.", {**spec, **STATUS_MEMBERS}),
        "PutResult": _object("What a put did, with the VM.", {**spec, **STATUS_MEMBERS, **PUT_MEMBERS}),
        "VmList": _items("Vm"),
        "Look": LOOK,
        "Rules": _rules(),
        "Port": PORT,
        "Drift": DRIFT,
        "Phase": PHASE,
        **vpc_schemas(),
        **inward_schemas(),
        "PortList": _items("Publication"),
        "FloatingList": _items("Floating"),
        **explain_schemas(),
        "VpcList": _items("Vpc"),
        "Subnet": SUBNET,
        "SubnetList": _items("Subnet"),
        "Image": IMAGE,
        "ImageList": _items("Image"),
        "TimelineEntry": TIMELINE_ENTRY,
        "Timeline": _items("TimelineEntry"),
        "Plan": PLAN,
        "Operation": OPERATION,
        "OperationList": _items("Operation"),
        **stray_schemas(),
        **peering_schemas(),
        "PeeringList": _items("Peering"),
        "Problem": PROBLEM,
        "Readiness": READINESS,
        "QmpCommand": QMP_COMMAND,
        "QmpReturn": QMP_RETURN,
        "HmpCommand": HMP_COMMAND,
        "HmpOutput": HMP_OUTPUT,
        "Health": _object("The agent answers.", {"status": _enum(["ok"], "ok")}),
        "OpenApi": {"type": "object", "description": "An OpenAPI 3.1 document."},
    }
