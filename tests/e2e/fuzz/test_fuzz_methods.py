"""Every path with every method, paths that are not there, and what HTTP gives for nothing: HEAD and OPTIONS."""

from __future__ import annotations

import urllib.parse

import pytest

from tests.e2e.fuzz.oracle import PROBLEM
from tests.e2e.fuzz.routes import APART, Route, fits, general_routes, routes_of
from tests.e2e.fuzz.sent import Request
from tests.e2e.fuzz.served import NAMES, Served
from tests.lab.host import Answer

pytestmark = pytest.mark.e2e

METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "DELETE", "PATCH", "TRACE", "PROPFIND", "FOO", "M-SEARCH")
FREE = {"HEAD": "GET", "OPTIONS": ""}
"""Methods that the document does not have, and the one that each needs."""

QUIET = {"Accept": "application/json"}


def real(route: Route) -> str:
    """The path of a route with names that may be there."""
    path = route.path
    for one in route.parameters("path"):
        known = [name for name in NAMES if fits(one, name)]
        name = known[0] if known else str(one.get("example", "x"))
        path = path.replace(f"{{{one['name']}}}", urllib.parse.quote(name))
    return path


def matching(served: Served, path: str) -> set[str]:
    """The methods that the document has for a real path, whichever of its templates it fits."""
    words = path.split("/")
    found = set()
    for route in routes_of(served.document):
        parts = route.path.split("/")
        told = {f"{{{one['name']}}}": one for one in route.parameters("path")}
        if len(parts) == len(words) and all(
            fits(told[part], word) if part in told else part == word for part, word in zip(parts, words, strict=True)
        ):
            found.add(route.method)
    return found


def test_every_path_knows_its_methods_and_no_others(served: Served) -> None:
    served.populate()
    paths = {real(route) for route in routes_of(served.document)}
    for path in sorted(paths):
        known = matching(served, path)
        assert known, path
        for method in METHODS:
            if method not in known and FREE.get(method, "-") not in known | {""}:
                refused(served, method, path, known)
    served.clear()


def refused(served: Served, method: str, path: str, known: set[str]) -> None:
    answer = served.send(Request(method, path, QUIET))
    what = (method, path, answer.status, answer.text)
    assert (answer.status, answer.headers["content-type"]) == (405, PROBLEM), what
    assert method == "HEAD" or answer.json["type"] == "urn:lvagent:error:method", what
    allowed = set(answer.headers["allow"].split(", "))
    assert (allowed - set(FREE), method in allowed) == (known, False), what


def test_head_is_get_without_the_body(served: Served) -> None:
    served.populate()
    for route in general_routes(served.document):
        if route.method == "GET":
            get, head = (served.send(Request(method, real(route), QUIET)) for method in ("GET", "HEAD"))
            assert (head.status, head.body) == (get.status, b""), route.key
            same = {"content-type", "etag", "cache-control", "x-content-type-options"}
            assert {name: head.headers.get(name) for name in same} == {name: get.headers.get(name) for name in same}
            assert head.headers["content-length"].isdigit()
    served.clear()


def test_options_tells_the_methods_and_does_nothing(served: Served) -> None:
    served.populate()
    before = [one["revision"] for one in served.vms()]
    for path in sorted({real(route) for route in routes_of(served.document)}):
        answer = served.send(Request("OPTIONS", path, QUIET))
        assert (answer.status, answer.body) == (200, b""), path
        assert set(answer.headers["allow"].split(", ")) - set(FREE) == matching(served, path), path
    assert [one["revision"] for one in served.vms()] == before
    served.clear()


ELSEWHERE = (
    *(
        "/",
        "//",
        "/v1",
        "/v1/",
        "/v1/vms/",
        "//v1/vms",
        "/v1//vms",
        "/v2/vms",
        "/V1/vms",
        "/v1/vms/x/y/z",
        "/favicon.ico",
    ),
    *("/v1/vms/..", "/v1/vms/../vms", "/v1/vms/%2e%2e", "/v1/%76ms/", "/static/x", "/docs/", "/openapi.json/", "/%00"),
    *(
        "/v1/vms/i-0000000001/",
        "/v1/vms/i-0000000001/domain.xml/",
        "/v1/vms%2fi-0000000001",
        "/v1/vms;x=1",
        "/.git/HEAD",
    ),
    *("/healthz%20", "/healthz/..%2f..%2fetc/passwd", "/v1/vms/" + "x" * 5000, "/%ff%fe", "/v1/vms/%F0%9F%98%80/start"),
)


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "FOO"])
def test_paths_that_are_not_there(served: Served, method: str) -> None:
    for path in ELSEWHERE:
        answer = served.send(Request(method, path, QUIET))
        assert missing(answer, method), (method, path, answer.status, answer.text)


def missing(answer: Answer, method: str) -> bool:
    """Whether an answer says that there is nothing; strange methods, and OPTIONS, need not look."""
    if method == "OPTIONS" and answer.status == 200:
        return answer.body == b""
    if method == "HEAD":
        return answer.status in (400, 404, 405) and answer.body == b""
    told = answer.headers.get("content-type") == PROBLEM and answer.json["status"] == answer.status
    return told and answer.status in (400, 404, 405, 422)


def test_routes_apart_have_tests_of_their_own(served: Served, request: pytest.FixtureRequest) -> None:
    built = {route.key for route in routes_of(served.document)}
    assert {key for key in APART if key in built and not APART[key].cases} == set(), "name their tests in APART"
    for key, apart in APART.items():
        assert apart.why
        file, _, name = apart.cases.partition("::")
        assert not apart.cases or f"def {name}(" in (request.config.rootpath / file).read_text(), key
