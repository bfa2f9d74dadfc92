"""The views of peerings, and their schema."""

from __future__ import annotations

from http import HTTPStatus

from lvagent.api import dump
from lvagent.api.contract import Answer, Call, answer, nothing
from lvagent.api.problems import Json
from lvagent.errors import SpecError
from lvagent.spec.json import load
from lvagent.spec.peerings import PeeringState, PeeringView, peering


def put(call: Call) -> Answer:
    """PUT /v1/peerings/{a}/{b}"""
    pair = _pair(call)
    _check_empty(call)
    new, view = call.agent.peers.put(*pair)
    status = HTTPStatus.CREATED if new else HTTPStatus.OK
    return answer(status, _dump(view), **({"Location": f"/v1/peerings/{view.peering}"} if new else {}))


def delete(call: Call) -> Answer:
    """DELETE /v1/peerings/{a}/{b}"""
    pair = _pair(call)
    _check_empty(call)
    call.agent.peers.delete(*pair)
    return nothing()


def show(call: Call) -> Answer:
    """GET /v1/peerings/{a}/{b}"""
    return answer(HTTPStatus.OK, _dump(call.agent.peers.one(*_pair(call))))


def list_all(call: Call) -> Answer:
    """GET /v1/peerings"""
    return answer(HTTPStatus.OK, dump.items([_dump(view) for view in call.agent.peers.all()]))


def _pair(call: Call) -> tuple[str, str]:
    wish = peering(call.path["a"], call.path["b"])
    call.trail.subject = str(wish)
    return wish.vpcs


def _check_empty(call: Call) -> None:
    if call.body and load(call.body, max_bytes=call.settings.api.max_body) != {}:
        raise SpecError("", "this request takes no body", "send none, or {}")


def _dump(view: PeeringView) -> Json:
    return {
        "a": view.peering.a,
        "b": view.peering.b,
        "state": view.state.value,
        "reason": view.reason,
        "a_prefixes": list(view.a_prefixes),
        "b_prefixes": list(view.b_prefixes),
    }


def peering_schemas() -> dict[str, Json]:
    """The named schemas."""
    vpc: Json = {"type": "string", "pattern": "^vpc-[0-9a-z]{10}$"}
    nets: Json = {"type": "array", "items": {"type": "string"}}
    members: dict[str, tuple[Json, str]] = {
        "a": (vpc, "the VPC whose name sorts first, whichever was named first"),
        "b": (vpc, "the other"),
        "state": (
            {"type": "string", "enum": [*PeeringState]},
            "up; waiting: one has no VM here; conflict: prefixes overlap; down: the link is not as it should be",
        ),
        "reason": ({"type": "string"}, "why it is so"),
        "a_prefixes": (nets, "the prefixes of a, which are routed there from b"),
        "b_prefixes": (nets, "the prefixes of b"),
    }
    shape: Json = {
        "type": "object",
        "description": "Two VPCs that route to each other.",
        "properties": {name: {**one, "description": text} for name, (one, text) in members.items()},
        "required": [*members],
        "additionalProperties": False,
    }
    return {"Peering": shape}
