"""The views of qemu's monitors. Which commands only look is said in ``spec.monitor``."""

from __future__ import annotations

from http import HTTPStatus

from lvagent.api.contract import Answer, Call, answer
from lvagent.spec.access import Role
from lvagent.spec.json import load
from lvagent.spec.monitor import parse_hmp, parse_qmp

TAINT = "custom-monitor"
"""How libvirt marks a domain that was sent a monitor command by hand."""


def qmp(call: Call) -> Answer:
    """POST /v1/vms/{id}/qmp"""
    command = parse_qmp(load(call.body, max_bytes=call.settings.api.max_body))
    call.trail.detail = command.execute
    if not command.reads:
        call.need(Role.ADMIN, "this command, or one with arguments,")
    return answer(HTTPStatus.OK, {"return": call.agent.qmp(call.path["id"], command), "taint": TAINT})


def hmp(call: Call) -> Answer:
    """POST /v1/vms/{id}/hmp"""
    command = parse_hmp(load(call.body, max_bytes=call.settings.api.max_body))
    call.trail.detail = command.name
    if not command.reads:
        call.need(Role.ADMIN, "this command")
    return answer(HTTPStatus.OK, {"output": call.agent.hmp(call.path["id"], command), "taint": TAINT})
