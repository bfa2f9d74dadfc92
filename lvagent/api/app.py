"""The Flask application: requests to calls, answers and errors to responses.

All that a request may be is checked here against its route before a view sees it.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from lvagent.agent.tally import Tally
from lvagent.api import problems
from lvagent.api.contract import Answer, Call, Route, check_media
from lvagent.api.doors import Door, SocketDoor
from lvagent.api.events import Places
from lvagent.api.limited import for_caller, veil
from lvagent.api.openapi import with_pages
from lvagent.api.operations import Lane, Operations, Seats
from lvagent.api.problems import Forbidden, HttpError, Unexpected
from lvagent.api.protocol import Agent
from lvagent.api.routes import ACTION, ROUTES, VM
from lvagent.api.trail import REFUSED, SAFE, Audit, Recorder, Trail
from lvagent.config import Settings
from lvagent.errors import LvagentError, SpecError
from lvagent.spec.access import NOBODY, Role
from lvagent.spec.tokens import scrub

log = logging.getLogger(__name__)

SPARE = 8
"""Threads that never wait for an operation, so that there is always one to answer with."""

VM_PART = r"/v1/vms/[^/]+/[^/]+"
"""Paths below a VM: to who posts there, an action was meant."""

EXTENSION = "lvagent"


@dataclass(frozen=True, slots=True)
class Parts:
    """What an application is made of."""

    agent: Agent
    settings: Settings
    operations: Operations
    seats: Seats
    places: Places
    door: Door
    recorder: Recorder


def create_app(
    agent: Agent,
    settings: Settings,
    operations: Operations | None = None,
    *,
    door: Door | None = None,
    audit: Audit | None = None,
) -> Flask:
    """The application behind one door.

    :param operations: where changes run; None: its own, as the settings say. ``operations_of`` tells which.
    :param door: who is let in; None: whoever reaches it, as on the unix socket.
    :param audit: where is written down who did what; None: nowhere.
    """
    streams = min(settings.api.streams, settings.api.threads // 2)
    parts = Parts(
        agent=agent,
        settings=settings,
        operations=operations or Operations(most=settings.api.operations, told=agent.news.tell),
        seats=Seats(max(1, settings.api.threads - streams - SPARE)),
        places=Places(streams),
        door=door or SocketDoor(settings.api),
        recorder=Recorder(audit),
    )
    app = Flask("lvagent.api", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.api.max_body
    app.extensions[EXTENSION] = parts
    app.url_map.merge_slashes = False
    routes = with_pages(ROUTES, needs_token=parts.door.needs_token)
    for route in routes:
        app.add_url_rule(route.rule, route.name, _view(route, parts), methods=[route.method])
    _add_errors(app, routes)
    _add_gate(app, routes, parts)
    return app


def parts_of(app: Flask) -> Parts:
    """What an application made by ``create_app`` is made of."""
    parts = app.extensions[EXTENSION]
    assert isinstance(parts, Parts)
    return parts


def operations_of(app: Flask) -> Operations:
    """The operations of an application made by ``create_app``."""
    return parts_of(app).operations


def _view(route: Route, parts: Parts) -> Callable[..., Response]:
    def view(**path: str) -> Response:
        _check_names(route, path)
        query = route.check_query(list(request.args.items(multi=True)))
        call = Call(
            agent=g.agent,
            caller=g.trail.caller,
            trail=g.trail,
            operations=parts.operations,
            lane=Lane.TCP if parts.door.needs_token else Lane.SOCKET,
            seats=parts.seats,
            places=parts.places,
            again=functools.partial(parts.door.caller, request.environ),
            settings=parts.settings,
            path=path,
            query=query,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=_body(route),
            instance=request.path,
        )
        return _response(route.view(call))

    return view


def _check_names(route: Route, path: dict[str, str]) -> None:
    for name in route.names:
        try:
            name.check(path[name.name])
            if name is not ACTION:
                g.trail.subject = path[name.name]
        except LvagentError:
            if name is VM and route.method == "PUT":
                raise SpecError("id", "the path has no id of a VM", '"i-" and ten digits') from None
            raise


def _body(route: Route) -> bytes:
    if request.method not in ("POST", "PUT", "DELETE", "PATCH"):
        return b""
    raw = request.get_data(cache=False)
    if raw or route.body:
        check_media(request.headers.get("Content-Type", ""))
    return raw


def _response(answer: Answer) -> Response:
    response = Response(
        answer.body if answer.stream is None else answer.stream, status=int(answer.status), headers=dict(answer.headers)
    )
    if answer.status != HTTPStatus.NO_CONTENT:
        response.headers["Content-Type"] = answer.media
    else:
        response.headers.pop("Content-Type", None)
    return response


# errors


def _add_errors(app: Flask, routes: Sequence[Route]) -> None:
    paths = ", ".join(sorted({route.path for route in routes if route.path.count("/") < 3}))

    def refused(error: LvagentError) -> Response:
        return _problem(veil(g.agent, error) if "agent" in g else error)

    def http(error: HTTPException) -> Response:
        return _problem(_translated(error, paths), {"Allow": allow} if (allow := _allow(error)) else {})

    def unexpected(_error: Exception) -> Response:
        defect = Unexpected()
        log.exception("error %s in %s %r", defect.ident, request.method, scrub(request.path))
        return _problem(defect)

    app.register_error_handler(LvagentError, refused)
    app.register_error_handler(HTTPException, http)
    app.register_error_handler(Exception, unexpected)


def _translated(error: HTTPException, paths: str) -> HttpError:
    """What Werkzeug refuses, in our words."""
    status = error.code or 500
    match status:
        case 404 if request.method == "POST" and re.fullmatch(VM_PART, request.path):
            return HttpError(404, "there is no such action", hint=f"a VM knows {', '.join(ACTION.words)}")
        case 404:
            return HttpError(404, "there is no such path", hint=f"there are {paths}; see /docs")
        case 405:
            return HttpError(405, f"this path does not know {request.method}", hint=f"it knows {_allow(error)}")
        case 413:
            limit = request.max_content_length
            return HttpError(413, f"the body has more than {limit} bytes", hint="api.max_body is the limit")
        case _:
            return HttpError(status, error.description or error.name)


def _allow(error: HTTPException) -> str:
    return ", ".join(sorted(getattr(error, "valid_methods", None) or ()))


def _problem(error: LvagentError, more: dict[str, str] | None = None) -> Response:
    if "trail" in g:
        g.trail.kind = error.kind
    body = json.dumps(problems.problem(error, request.path)).encode() + b"\n"
    headers = {**problems.headers(error), **(more or {})}
    return Response(body, status=error.status, headers=headers, content_type=problems.CONTENT_TYPE)


# around each request


def _add_gate(app: Flask, routes: Sequence[Route], parts: Parts) -> None:
    """Have every request pass the door before anything is looked at, and be written down after its answer."""
    by_name = {route.name: route for route in routes}

    def enter() -> None:
        route = by_name.get(request.endpoint or "")
        g.trail = Trail(parts.door.peer(request.environ), request.method, "" if route is None else route.name)
        parts.door.check_page(request.environ)
        public = route is not None and route.role is None
        caller = g.trail.caller = NOBODY if public else parts.door.caller(request.environ)
        g.agent = for_caller(parts.agent, caller)
        if route is not None and route.role is not None:
            _check_role(caller.role, Role.READ if request.method == "OPTIONS" else route.role)

    def leave(response: Response) -> Response:
        response.headers.update(problems.EVERY_ANSWER)
        if request.method == "OPTIONS" and not response.is_json:
            del response.headers["Content-Type"]  # there is no body
        _log(g.trail, response.status_code)
        _count(parts.agent.tally, by_name.get(g.trail.route), response.status_code)
        parts.recorder.record(g.trail, response.status_code)
        return response

    app.before_request(enter)
    app.after_request(leave)


def _count(tally: Tally, route: Route | None, status: int) -> None:
    """Count a request: by the path of its route as the document has it, and never by a word that its caller chose."""
    path, method = ("other", "other") if route is None else (route.path, route.method)
    tally.requests.note((path, method), g.trail.ms / 1000)
    tally.answers.note((path, method, f"{status // 100}xx"))


def _check_role(role: Role, needed: Role) -> None:
    """The one place where a role is compared with what a route needs; nothing has been looked up yet.

    :raise Forbidden: it is not enough.
    """
    if not role.covers(needed):
        raise Forbidden(f"this needs the role {needed}; the token has {role}")


def _log(trail: Trail, status: int) -> None:
    quiet = trail.method in SAFE or status in REFUSED or trail.caller is None
    level = logging.DEBUG if quiet else logging.INFO
    log.log(level, "%s %r %d %.1f ms %s", request.method, scrub(request.path), status, trail.ms, trail.who)
