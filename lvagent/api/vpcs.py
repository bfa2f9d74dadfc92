"""The views of what is wanted of VPCs."""

from __future__ import annotations

from http import HTTPStatus

from lvagent.api import dump
from lvagent.api.contract import Answer, Call, answer, nothing
from lvagent.errors import SpecError
from lvagent.spec.json import load
from lvagent.spec.vpc import parse_vpc


def put_vpc(call: Call) -> Answer:
    """PUT /v1/vpcs/{name}"""
    config = parse_vpc(load(call.body, max_bytes=call.settings.api.max_body))
    return answer(HTTPStatus.OK, dump.vpc(call.agent.put_vpc(call.path["name"], config)))


def delete_vpc(call: Call) -> Answer:
    """DELETE /v1/vpcs/{name}"""
    if call.body and load(call.body, max_bytes=call.settings.api.max_body) != {}:
        raise SpecError("", "this request takes no body", "send none, or {}")
    call.agent.delete_vpc(call.path["name"])
    return nothing()
