"""The views of ``explain``: GET walks what is wanted, POST also sends the packet."""

from __future__ import annotations

import dataclasses
from http import HTTPStatus

from lvagent.api.contract import Answer, Call, Query, answer, whole
from lvagent.api.problems import Json
from lvagent.errors import SpecError
from lvagent.spec.flow import MAX_TEXT, Explained, Flow, Packet, Step, parse_flow
from lvagent.spec.json import load


def _said(name: str, description: str, example: str) -> Query[str]:
    def read(text: str) -> str:
        if len(text) > MAX_TEXT or not text.isprintable():
            raise ValueError(f"such as {example}")
        return text

    return Query(name, "", read, {"type": "string", "maxLength": MAX_TEXT, "examples": [example]}, description)


FROM = _said("from", "who sends: the id of a VM, world, or world: and an address", "i-0000000001")
TO = _said("to", "to whom: the id of a VM, or an address", "i-0000000002")
PROTO = _said("proto", "tcp, udp, icmp, icmpv6, sctp, or the number of a protocol", "tcp")
PORT = whole("port", None, 1, 65_535, "the port that is sent to, for tcp, udp and sctp")
SOURCE = _said("source", "the address that a VM would say it sends from; its own, if this is left out", "10.0.0.5")
QUERY = (FROM, TO, PROTO, PORT, SOURCE)


def explain(call: Call) -> Answer:
    """GET /v1/explain"""
    return answer(HTTPStatus.OK, dump_explained(call.agent.explain(_flow(call))))


def explain_live(call: Call) -> Answer:
    """POST /v1/explain"""
    if call.body and load(call.body, max_bytes=call.settings.api.max_body) != {}:
        raise SpecError("", "this request takes no body", "send none, or {}")
    flow = _flow(call)
    call.trail.subject, call.trail.detail = flow.origin, str(flow)
    return answer(HTTPStatus.OK, dump_explained(call.agent.explain(flow, live=True)))


def _flow(call: Call) -> Flow:
    query = call.query
    return parse_flow(FROM.of(query), TO.of(query), PROTO.of(query), PORT.of(query), SOURCE.of(query))


def dump_explained(found: Explained) -> Json:
    """A walk, and what became of the packet."""
    walk, flow = found.walk, found.walk.flow
    return {
        "from": flow.origin,
        "to": str(flow.target),
        "proto": flow.proto,
        "port": flow.port or None,
        "verdict": "allowed" if walk.allowed else "refused",
        "why": walk.why,
        "decider": _step(walk.decider),
        "packet": None if walk.packet is None else _packet(walk.packet),
        "steps": [_step(step) for step in walk.steps],
        "live": None if found.live is None else {**dataclasses.asdict(found.live), "seen": list(found.live.seen)},
    }


def _step(step: Step) -> Json:
    return {**dataclasses.asdict(step), "stage": step.stage.value}


def _packet(packet: Packet) -> Json:
    return {"source": str(packet.source), "destination": str(packet.destination)}
