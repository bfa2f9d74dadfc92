"""The views of strays and of the sweep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

from lvagent.api import dump
from lvagent.api.contract import Answer, Call, answer, choice
from lvagent.errors import SpecError
from lvagent.spec.json import load

FORCE = choice("force", "false", ("true", "false"), "true: remove also more than one sweep may")


def list_strays(call: Call) -> Answer:
    """GET /v1/strays"""
    return answer(HTTPStatus.OK, dump.strays(call.agent.strays()))


def kill(call: Call) -> Answer:
    """POST /v1/strays/{pid}/kill"""
    body = load(call.body, max_bytes=call.settings.api.max_body)
    return answer(HTTPStatus.OK, dump.stray(call.agent.kill_stray(int(call.path["pid"]), _identity(body))))


def _identity(body: object) -> str:
    if not isinstance(body, Mapping):
        raise SpecError("", "must be an object", '{"identity": "..."}, as GET /v1/strays tells it')
    for key in body:
        if key != "identity":
            raise SpecError(str(key)[:60], "there is no such member", "it has identity")
    found = body.get("identity")
    if not isinstance(found, str) or not re.fullmatch(r"[0-9]{1,20}", found):
        raise SpecError("identity", "must be the identity of a stray", "as GET /v1/strays tells it: a string of digits")
    return found


def sweep(call: Call) -> Answer:
    """POST /v1/sweep"""
    if call.body and load(call.body, max_bytes=call.settings.api.max_body) != {}:
        raise SpecError("", "this request takes no body", "send none, or {}")
    found = call.agent.sweep_now(force=FORCE.of(call.query) == "true")
    return answer(HTTPStatus.OK, {"held": found.held or None})
