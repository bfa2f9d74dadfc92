"""A request as a value, and strategies that make them up from the agent's document.

What is sent is sometimes right, sometimes nearly, sometimes not at all. VMs have no image and stay small, so that
libvirt and qemu can do whatever is asked of them: then a 5xx is a defect.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from tests.e2e.fuzz.routes import Json, Route, fits

T = TypeVar("T")

CHUNK = 500


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``target``: path and query as sent. ``chunked``: the body goes in chunks."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None = None
    chunked: bool = False

    def parts(self) -> Iterator[bytes]:
        """The body in pieces."""
        for begin in range(0, len(self.body or b""), CHUNK):
            yield (self.body or b"")[begin : begin + CHUNK]

    def text(self) -> str:
        """All of it as text, to look whether an answer says what was sent."""
        return (
            f"{self.target} {urllib.parse.unquote(self.target)} {self.headers} {(self.body or b'').decode('latin-1')}"
        )


def drawn(strategy: st.SearchStrategy[T], count: int, number: int) -> list[T]:
    """``count`` values of a strategy, the same for the same ``number``; fewer if it has no more.

    They are made before any is sent: what an agent answers depends on what it met before, so nothing that is sent
    could be tried again or made smaller.
    """
    found: list[T] = []

    @seed(number)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(strategy)
    def collect(value: T) -> None:
        found.append(value)

    try:
        collect()
    except Unsatisfiable:
        return []
    return found


ODD: tuple[object, ...] = (
    *(None, True, -1, 0, 2**31, 2**64, 2**63, 1.5, 1.0, 1e300, "", " ", "x", "\0", "\ud800", "é" * 300),
    *("../../etc/passwd", "/etc/shadow", "/dev/null.qcow2", "/var/lib/lvagent/volumes/../x.qcow2", "/x.qcow2"),
    *("<a/>&", "10.0.0.5/24\n", "{{ 7 }}", "fd00::/129"),
    *("i-\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0661", "10.0.0.\u0665/24", "::ffff:10.0.0.5/120"),
    *("169.254.169.254/16", "0.0.0.0/0", "01:00:5e:00:00:01", "tiny", "\u202e", "a" * 70_000, [], {}, [[]], [{}]),
    *({"base64": "!"}, {"base64": "AAAA", "x": 1}, [None], [0] * 2000, {"a": {"a": {"a": {}}}}),
)
"""Values that are right almost nowhere."""

GARBAGE = (
    *(b"", b" ", b"{", b"[" * 5000, b"[" * 40 + b"]" * 40, b'{"a":' * 100_000, b'{"id":1,"ID":2}', b'{"id":1,"id":2}'),
    *(b"NaN", b'{"id": Infinity}', b'{"cpus": -0}', b'{"cpus": 1e999}', b'{"cpus": ' + b"9" * 5000 + b"}", b"\xff"),
    *(b'"\xed\xa0\x80"', b"\xef\xbb\xbf{}", '{"id": "x"}'.encode("utf-16"), b"null", b"[]", b'"x"', b"0", b"true"),
    *(b"{} {}", b"{'id': 1}", b'{"id": "\\u0000"}', b'{"\\ud800": 1}', b"\0", b'{"keys": ["' + b"k" * 900_000 + b'"]}'),
    *(b" " * ((1 << 20) + 1), b"[" + b"0," * 300_000 + b"0]", b"id=i-0000000001&cpus=1", b"--x\r\n\r\n--x--"),
)
"""Bodies that are right nowhere, or only where nothing is meant."""


def garbage() -> st.SearchStrategy[bytes]:
    """One of those; by its number, for hypothesis would write them all down."""
    return st.integers(0, len(GARBAGE) - 1).map(lambda number: GARBAGE[number])


HEADERS: Mapping[str, tuple[str, ...]] = {
    "Prefer": (
        *("respond-async", "respond-async", "wait=0", "wait=5, respond-async", "wait=-1", "wait=99999", ";;,"),
        *("x" * 2000, "WAIT = 1", 'respond-async="no"', "wait=0;respond-async", "wait=1, wait=0", "\u00e9"),
    ),
    "If-Match": ("*", '"1"', '"2", "1"', 'W/"1"', "", "\u00ff", '"1', "1", "*, *", '"' + "9" * 3000 + '"'),
    "If-None-Match": ("*", '"1"', "", "**", '"*"'),
}
"""Of the header fields that routes name, and what is sent in them."""

MORE_HEADERS: Mapping[str, tuple[str, ...]] = {
    "Content-Type": (
        *("application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "text/plain", ";", ""),
        *("application/json; charset=utf-16", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"),
    ),
    "Accept": ("*/*", "text/html", "q", "application/json;q=0", ""),
    "Content-Encoding": ("gzip", "identity"),
    "Expect": ("100-continue", "the unexpected"),
    "X-Forwarded-For": ("127.0.0.1", "' OR 1=1 --"),
    "X-HTTP-Method-Override": ("DELETE",),
    "Range": ("bytes=0-0", "bytes=5-1"),
    "Cookie": ("session=../../x; \u00e9",),
    "Authorization": ("Bearer x", "Basic Og==", "Bearer " + "x" * 5000, ""),
    "Origin": ("http://example.org", "null"),
    "Host": ("", "a b", "x" * 300, "[::1"),
}
"""Sent to every route, now and then."""

_TEXTS = ("%00", "..", "-1", "1e9", "ö", "i-1", "nan", "\u0663", " 1", "1 ", "+1", "0x1", "1_0", "a/b", "a%2fb", "\n")


def mostly(first: st.SearchStrategy[T], *, of: int, other: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """The first, but once ``of`` so many times the other."""
    return st.sampled_from([True] * (of - 1) + [False]).flatmap(lambda right: first if right else other)


def texts(parameter: Json, names: Sequence[str]) -> st.SearchStrategy[str]:
    """Texts for a parameter in path or query: mostly right, and never one that has the agent wait for long."""
    schema = parameter["schema"]
    wrong = st.text(min_size=1, max_size=12) | st.sampled_from(_TEXTS)
    known = [name for name in names if fits(parameter, name)]
    if "enum" in schema:
        right: st.SearchStrategy[str] = st.sampled_from([str(one) for one in schema["enum"]])
    elif known:
        right = st.sampled_from(known)
    elif "pattern" in schema:
        right = st.from_regex(schema["pattern"], fullmatch=True)
    else:
        right = st.sampled_from(["0", "1", "0.2"] if schema.get("type") == "number" else ["0", "1", "200"])
    return mostly(right, of=9, other=wrong)


@st.composite
def requests(
    draw: st.DrawFn, route: Route, names: Sequence[str], bodies: st.SearchStrategy[object], own: Callable[[object], str]
) -> Request:
    """Requests to a route about names that exist.

    :param bodies: bytes as they are, None for nothing, anything else as JSON.
    :param own: the id that a body names, or "": mostly the path has the same.
    """
    body = draw(bodies)
    path = route.path
    for one in route.parameters("path"):
        text = draw(texts(one, names))
        if one["name"] == "id" and own(body) and draw(st.integers(0, 7)):
            text = own(body)
        path = path.replace(f"{{{one['name']}}}", urllib.parse.quote(text, safe="", errors="replace"))
    query = [(one["name"], draw(texts(one, names))) for one in route.parameters("query") if draw(st.booleans())]
    more: list[tuple[str, str]] = list(draw(st.sampled_from((*[()] * 18, tuple(query), (("colour", "red"),)))))
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    target = path + ("?" + urllib.parse.urlencode([*query, *more], errors="replace") if query or more else "")
    chunked = bool(raw) and draw(st.sampled_from([False] * 7 + [True]))
    return Request(route.method, target, draw(fields(route, raw)), raw, chunked)


@st.composite
def fields(draw: st.DrawFn, route: Route, body: bytes | None) -> dict[str, str]:
    """Header fields for a request to a route."""
    told = {one["name"] for one in route.parameters("header")}
    found = {"Accept": "application/json"}
    if body is not None and draw(st.integers(0, 9)):
        found["Content-Type"] = "application/json"
    for name, values in HEADERS.items():
        if draw(st.integers(0, 7 if name in told else 30)) == 0:
            found[name] = draw(st.sampled_from(values))
    if draw(st.integers(0, 5)) == 0:
        name = draw(st.sampled_from(sorted(MORE_HEADERS)))
        found[name] = draw(st.sampled_from(MORE_HEADERS[name]))
    return {name: value.encode("utf-8", "replace").decode("latin-1") for name, value in found.items()}


def replaced(draw: st.DrawFn, spec: Any, values: Sequence[object] = ODD) -> Any:  # noqa: ANN401 - JSON is of any type
    """A copy of a JSON value in which one thing is replaced, left out, doubled or added."""
    copy: Any = json.loads(json.dumps(spec))
    here = copy
    for _ in range(draw(st.integers(0, 3))):
        inner = [one for one in (here.values() if isinstance(here, dict) else here) if isinstance(one, dict | list)]
        here = draw(st.sampled_from(inner)) if inner else here
    odd = values[draw(st.integers(0, len(values) - 1))]
    if isinstance(here, list):
        here.append(here[0] if here and draw(st.booleans()) else odd)
        return copy
    name = draw(st.sampled_from([*here, "colour", "Memory_MB", "ipV4", "\ud800"]))
    if name in here and draw(st.booleans()):
        del here[name]
    else:
        here[name] = [here[name]] if name in here and draw(st.integers(0, 5)) == 0 else odd
    return copy
