"""The views of what leads to VMs from outside."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from http import HTTPStatus

from lvagent.api import dump
from lvagent.api.contract import Answer, Call, answer, nothing
from lvagent.api.problems import Json
from lvagent.errors import SpecError
from lvagent.spec.json import load
from lvagent.spec.publications import (
    Floating,
    Publication,
    digest,
    dump_floating,
    dump_publications,
    floating_address,
    parse_floating,
    parse_publications,
)


def show_ports(call: Call) -> Answer:
    """GET /v1/vms/{id}/ports"""
    return _ports(call.agent.ports(call.path["id"]))


def put_ports(call: Call) -> Answer:
    """PUT /v1/vms/{id}/ports"""
    wish = parse_publications(load(call.body, max_bytes=call.settings.api.max_body))
    return _ports(call.agent.put_ports(call.path["id"], wish, _seen(call.headers.get("if-match"))))


def _ports(found: Sequence[Publication]) -> Answer:
    return answer(HTTPStatus.OK, dump.items(dump_publications(found)), ETag=f'"{digest(found)}"')


def _seen(match: str | None) -> Collection[str] | None:
    """The digests in ``If-Match``; None: any will do."""
    tags = [] if match is None else [tag.strip() for tag in match.split(",")]
    return None if match is None or "*" in tags else [tag[1:-1] for tag in tags if tag[:1] == tag[-1:] == '"']


def list_floating(call: Call) -> Answer:
    """GET /v1/floating"""
    return answer(HTTPStatus.OK, dump.items([_told(one) for one in call.agent.floating()]))


def show_floating(call: Call) -> Answer:
    """GET /v1/floating/{address}"""
    return answer(HTTPStatus.OK, _told(call.agent.floating_address(floating_address(call.path["address"]))))


def put_floating(call: Call) -> Answer:
    """PUT /v1/floating/{address}"""
    wish = parse_floating(call.path["address"], load(call.body, max_bytes=call.settings.api.max_body))
    return answer(HTTPStatus.OK, _told(call.agent.put_floating(wish)))


def delete_floating(call: Call) -> Answer:
    """DELETE /v1/floating/{address}"""
    if call.body and load(call.body, max_bytes=call.settings.api.max_body) != {}:
        raise SpecError("", "this request takes no body", "send none, or {}")
    call.agent.delete_floating(floating_address(call.path["address"]))
    return nothing()


def _told(one: Floating) -> Json:
    return {"address": one.address, **dump_floating(one)}
