"""The OpenAPI 3.1 document, and the page that shows it; both made from the routes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from http import HTTPStatus

from lvagent import __version__
from lvagent.api.contract import HTML, JSON, Answer, Call, Header, Name, Query, Reply, Route, answer
from lvagent.api.problems import CONTENT_TYPE, KINDS, TITLES, Json
from lvagent.api.schemas import schemas
from lvagent.render import render
from lvagent.spec.access import Role

ALWAYS = (400, 403, 413, 421, 422, 500, 503)
"""The errors that any request may meet."""

SCHEME = "token"
BEARER: Json = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "lva_<id>_<secret>",
    "description": "Over TCP, made by lvagent token create. Over the unix socket none is needed: who may open it may "
    "do everything. x-lvagent-role of an operation is the least role that the token must have.",
}

REPLY_HEADERS = {
    "Location": "where it is to be found",
    "ETag": "the revision of the VM's spec, or a digest of its ports, for If-Match",
    "Preference-Applied": "respond-async, if the request preferred that",
    "Retry-After": "seconds after which to try again",
    "WWW-Authenticate": "Bearer",
}

DESCRIPTION = """\
VMs in VPCs on this host. A request that changes something is answered when it is done, or with 202 when that takes \
long; a client that goes away cancels nothing. Errors are RFC 9457 problem documents."""


def with_pages(routes: Sequence[Route], *, needs_token: bool = False) -> tuple[Route, ...]:
    """The routes, and those of their own description: /openapi.json and /docs.

    :param needs_token: whether their callers must show a token.
    """

    @functools.cache
    def described() -> Json:
        return document(every, needs_token=needs_token)

    @functools.cache
    def page() -> bytes:
        return render("api.html.j2", document=described(), schemas=schemas(), routes=every).encode()

    def openapi(_call: Call) -> Answer:
        return answer(200, described())

    def docs(_call: Call) -> Answer:
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return Answer(HTTPStatus.OK, page(), HTML, {"Content-Security-Policy": policy})

    own = (Reply(200, "The document.", "OpenApi"),)
    page_reply = (Reply(200, "A page without scripts.", media=HTML),)
    every = (
        *routes,
        Route("GET", "/openapi.json", "openapi", Role.READ, "This document.", openapi, own),
        Route("GET", "/docs", "docs", Role.READ, "This document for people.", docs, page_reply),
    )
    return every


def document(routes: Sequence[Route], *, needs_token: bool) -> Json:
    """The OpenAPI document of these routes, as it is true at one door.

    :param needs_token: whether their callers must show a token.
    """
    paths: dict[str, dict[str, Json]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = {**_operation(route), **_access(route, needs_token)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "lvagent",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "this agent"}],
        "paths": paths,
        "components": {"schemas": schemas(), "securitySchemes": {SCHEME: BEARER}},
    }


def _access(route: Route, needs_token: bool) -> Json:
    """Who may call a route."""
    if route.role is None:
        return {"security": [], "x-lvagent-role": "none"}
    token: Json = {SCHEME: []}
    return {"security": [token] if needs_token else [token, {}], "x-lvagent-role": route.role.value}


def _operation(route: Route) -> Json:
    described: Json = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": [
            *map(_path_parameter, route.names),
            *map(_query_parameter, route.query),
            *map(_header_parameter, route.headers),
        ],
        "responses": _responses(route),
    }
    if route.body:
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": _ref(route.body)}}}
    return described


def _path_parameter(name: Name) -> Json:
    schema = {"type": "string", "pattern": f"^({name.pattern})$"}
    return {"name": name.name, "in": "path", "required": True, "schema": schema, "example": name.example}


def _query_parameter(query: Query[float] | Query[int] | Query[int | None] | Query[str]) -> Json:
    return {"name": query.name, "in": "query", "description": query.description, "schema": dict(query.schema)}


def _header_parameter(header: Header) -> Json:
    schema = {"type": "string"}
    return {
        "name": header.name,
        "in": "header",
        "description": header.description,
        "schema": schema,
        "example": header.example,
    }


def _responses(route: Route) -> Json:
    replies = {str(reply.status): _reply(reply) for reply in route.replies}
    token = () if route.role is None else (401,)
    errors = {str(status): _problem(status) for status in sorted({*ALWAYS, *token, *route.errors})}
    for status, error in errors.items():
        replies[status] = _either(replies[status], error) if status in replies else error
    return {**replies, "default": _problem(0)}


def _either(reply: Json, error: Json) -> Json:
    """One status with two meanings: the reply's own body, or a problem document."""
    content = {**_content(reply), **_content(error)}
    return {**reply, "content": content}


def _content(response: Json) -> Json:
    content = response.get("content")
    return content if isinstance(content, dict) else {}


def _reply(reply: Reply) -> Json:
    described: Json = {"description": reply.description}
    if reply.headers:
        described["headers"] = {
            name: {"description": REPLY_HEADERS[name], "schema": {"type": "string"}} for name in reply.headers
        }
    if reply.status != HTTPStatus.NO_CONTENT:
        schema = _ref(reply.schema) if reply.schema else {"type": "string"}
        described["content"] = {reply.media: {"schema": schema}}
    return described


def _problem(status: int) -> Json:
    title = TITLES[{422: "spec", 409: "conflict", 500: "host", **KINDS}[status]] if status else "Any other error"
    described: Json = {"description": f"{title}.", "content": {CONTENT_TYPE: {"schema": _ref("Problem")}}}
    told = {HTTPStatus.SERVICE_UNAVAILABLE: "Retry-After", HTTPStatus.UNAUTHORIZED: "WWW-Authenticate"}
    if status in told:
        header = told[HTTPStatus(status)]
        described["headers"] = {header: {"description": REPLY_HEADERS[header], "schema": {"type": "string"}}}
    return described


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
