"""The Flask application: requests to calls, answers and errors to responses.

All that a request may be is checked here against its route before a view sees it.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from lvagent.api import problems
from lvagent.api.contract import Answer, Call, Route, check_media
from lvagent.api.openapi import with_pages
from lvagent.api.operations import Operations
from lvagent.api.problems import HttpError, Unexpected
from lvagent.api.protocol import Agent
from lvagent.api.routes import ACTION, ROUTES, VM
from lvagent.config import Settings
from lvagent.errors import LvagentError, SpecError

log = logging.getLogger(__name__)

SPARE = 8
"""Threads that never wait for an operation, so that there is always one to answer with."""

VM_PART = r"/v1/vms/[^/]+/[^/]+"
"""Paths below a VM: to who posts there, an action was meant."""

EXTENSION = "lvagent"


def create_app(agent: Agent, settings: Settings, operations: Operations | None = None) -> Flask:
    """The application.

    :param operations: where changes run; None: its own, as the settings say. ``operations_of`` tells which.
    """
    most = settings.api.operations
    operations = operations or Operations(most=most, waiters=max(1, settings.api.threads - SPARE))
    app = Flask("lvagent.api", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.api.max_body
    app.extensions[EXTENSION] = operations
    app.url_map.merge_slashes = False
    routes = with_pages(ROUTES)
    for route in routes:
        view = _view(route, agent, operations, settings)
        app.add_url_rule(route.rule, route.name, view, methods=[route.method])
    _add_errors(app, routes)
    app.before_request(_begin)
    app.after_request(_finish)
    return app


def operations_of(app: Flask) -> Operations:
    """The operations of an application made by ``create_app``."""
    operations = app.extensions[EXTENSION]
    assert isinstance(operations, Operations)
    return operations


def _view(route: Route, agent: Agent, operations: Operations, settings: Settings) -> Callable[..., Response]:
    def view(**path: str) -> Response:
        _check_names(route, path)
        query = route.check_query(list(request.args.items(multi=True)))
        call = Call(
            agent=agent,
            operations=operations,
            settings=settings,
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
    response = Response(answer.body, status=int(answer.status), headers=dict(answer.headers))
    if answer.status != HTTPStatus.NO_CONTENT:
        response.headers["Content-Type"] = answer.media
    else:
        response.headers.pop("Content-Type", None)
    return response


# errors


def _add_errors(app: Flask, routes: Sequence[Route]) -> None:
    paths = ", ".join(sorted({route.path for route in routes if route.path.count("/") < 3}))

    def refused(error: LvagentError) -> Response:
        return _problem(error)

    def http(error: HTTPException) -> Response:
        return _problem(_translated(error, paths), {"Allow": allow} if (allow := _allow(error)) else {})

    def unexpected(_error: Exception) -> Response:
        defect = Unexpected()
        log.exception("error %s in %s %r", defect.ident, request.method, request.path)
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
    body = json.dumps(problems.problem(error, request.path)).encode() + b"\n"
    headers = {**problems.headers(error), **(more or {})}
    return Response(body, status=error.status, headers=headers, content_type=problems.CONTENT_TYPE)


# around each request


def _begin() -> None:
    g.begin = time.perf_counter()


def _finish(response: Response) -> Response:
    response.headers.update(problems.EVERY_ANSWER)
    if request.method == "OPTIONS" and not response.is_json:
        del response.headers["Content-Type"]  # there is no body
    ms = (time.perf_counter() - g.begin) * 1000 if "begin" in g else 0.0
    level = logging.DEBUG if request.method in ("GET", "HEAD", "OPTIONS") else logging.INFO
    peer = request.environ.get("X_REMOTE_UID", "-")
    log.log(level, "%s %r %d %.1f ms uid %s", request.method, request.path, response.status_code, ms, peer)
    return response
