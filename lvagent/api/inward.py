"""The views of what leads to VMs from outside."""

from __future__ import annotations

from http import HTTPStatus

from lvagent.api import dump
from lvagent.api.contract import Answer, Call, answer
from lvagent.spec.json import load
from lvagent.spec.publications import dump_publications, parse_publications


def show_ports(call: Call) -> Answer:
    """GET /v1/vms/{id}/ports"""
    return answer(HTTPStatus.OK, dump.items(dump_publications(call.agent.ports(call.path["id"]))))


def put_ports(call: Call) -> Answer:
    """PUT /v1/vms/{id}/ports"""
    wish = parse_publications(load(call.body, max_bytes=call.settings.api.max_body))
    return answer(HTTPStatus.OK, dump.items(dump_publications(call.agent.put_ports(call.path["id"], wish))))
