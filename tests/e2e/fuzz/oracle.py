"""What every answer has to be, whatever was asked."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jsonschema import Draft202012Validator

from tests.e2e.fuzz.routes import Json, Route
from tests.e2e.fuzz.sent import Request
from tests.e2e.fuzz.served import CANARY, Served
from tests.lab.host import TREE, Answer

PROBLEM = "application/problem+json"
TELLING = ("showDomain", "plan", "openapi", "docs", "showConsole")
"""Operations whose answers are about the host, or about the API itself: paths stand in them rightly."""

OPTIONAL_HEADERS = {"Preference-Applied"}
"""Header fields of the document that an answer need not have."""

INSIDE = re.compile(rf"Traceback|File \"|\.py\b|0x[0-9a-f]{{6}}|<\w+ object|{re.escape(str(TREE))}")
"""What looks like the inside of the agent."""

PATH = re.compile(r"(?<![\w./:-])/(?:run|proc|sys|etc|usr|root|tmp|var|dev|home)/[\w./-]*")
"""What looks like a path of the host."""

KNOWN_PATHS = ("/var/lib/lvagent/volumes",)
"""Paths of the host that hints name, so that a caller knows where volumes may be."""

BUSY = re.compile(r"(\d+) operations are under way; try again soon")


def check(served: Served, route: Route, request: Request, answer: Answer) -> None:
    """The answer is one that the document describes for this route, and tells nothing it should not.

    :raise AssertionError: it is not; the text says what was asked.
    """
    what = (route.key, request.target, dict(request.headers), (request.body or b"")[:300], answer.status, answer.text)
    served.statuses[route.told["operationId"], answer.status] += 1
    assert answer.status < 500 or truly_unavailable(answer), what
    assert str(answer.status) in route.told["responses"], what
    assert agrees(served.document, route.told["responses"][str(answer.status)], answer) == [], what
    assert headers_agree(answer, request) == [], what
    assert leaks(route, request, answer) == [], what


def truly_unavailable(answer: Answer) -> bool:
    """Whether it is a 503 for the one true reason there is while libvirt is well: more operations than may wait."""
    busy = BUSY.search(str(answer.json.get("hint")) if answer.status == 503 else "")
    return busy is not None and int(busy[1]) >= 128 and answer.headers.get("retry-after", "").isdigit()


def agrees(document: Json, response: Json, answer: Answer) -> list[str]:
    """Where an answer's header and body are not as the document has them for its status."""
    content = response.get("content", {})
    media = answer.headers.get("content-type", "")
    wrong = [
        f"{name} is missing"
        for name in response.get("headers", {})
        if name.lower() not in answer.headers and name not in OPTIONAL_HEADERS
    ]
    if not content:
        return [*wrong, *(["there is a body"] if answer.body or media else [])]
    if media not in content:
        return [*wrong, f"media type {media}"]
    if "json" not in media:
        return wrong
    schema = {**content[media]["schema"], "components": document["components"]}
    wrong += [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(answer.json)]
    return wrong + (problem_is_wrong(answer) if media == PROBLEM else [])


def problem_is_wrong(answer: Answer) -> list[str]:
    """What a problem document says that is not so."""
    told = answer.json
    if told["status"] != answer.status:
        return [f"the problem says {told['status']}"]
    return [] if told["detail"] and "\n" not in told["detail"] else ["it says nothing, or more than a line"]


def headers_agree(answer: Answer, request: Request) -> list[str]:
    """Which header fields contradict the body, or the rules for all answers."""
    had = answer.headers
    wrong = []
    if (had.get("x-content-type-options"), had.get("cache-control")) != ("nosniff", "no-store"):
        wrong.append("nosniff or no-store is missing")
    if answer.status != 204 and had.get("content-length") != str(len(answer.body)):
        wrong.append("Content-Length is not the body's")
    told = answer.json if had.get("content-type") == "application/json" else None
    if isinstance(told, dict) and "revision" in told and had.get("etag") != f'"{told["revision"]}"':
        wrong.append("ETag is not the revision")
    if answer.status == 201 and had.get("location") != place_of(answer.json):
        wrong.append("Location is not where what was made is")
    if answer.status == 202 and had.get("location") != f"/v1/operations/{answer.json['id']}":
        wrong.append("Location is not the operation's")
    if answer.status == 202 and ("preference-applied" in had) > ("respond-async" in prefer(request.headers)):
        wrong.append("a preference was applied that nobody had")
    return wrong


def place_of(made: Json) -> str:
    """Where a VM or a peering is found."""
    return f"/v1/vms/{made['id']}" if "id" in made else f"/v1/peerings/{made['a']}/{made['b']}"


def prefer(headers: Mapping[str, str]) -> str:
    """What a request prefers."""
    return headers.get("Prefer", "").lower()


def leaks(route: Route, request: Request, answer: Answer) -> list[str]:
    """What an answer tells that is nobody's business."""
    found = ["the canary"] if CANARY in answer.text else []
    if route.told["operationId"] in TELLING and answer.status == 200:
        return found
    text, sent = answer.text, request.text()
    found += [one for one in INSIDE.findall(text) if one not in sent]
    if answer.headers.get("content-type") == PROBLEM:
        found += [one for one in PATH.findall(text) if one not in sent and not one.startswith(KNOWN_PATHS)]
    return found
