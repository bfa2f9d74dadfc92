"""Requests made up from the agent's own OpenAPI document, sent to a real agent: it keeps every promise of the document.

What is sent is sometimes right, sometimes nearly, sometimes not at all. It is made from the same seed each time,
so a failure comes back; nothing is made smaller, for each request meets what those before it left. VMs have no disks
and stay small, so that libvirt and qemu can do whatever is asked of them: then a 5xx is a defect.
"""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.e2e.specs import nic, vm
from tests.lab.host import Answer, LabHost

pytestmark = pytest.mark.e2e

Json = dict[str, Any]

TURNS, READS, CHANGES = 6, 4, 14
NETS = (("vpc-aaaaaaaaaa", "subnet-aaaaaaaaaa", 0, 100), ("vpc-bbbbbbbbbb", "subnet-bbbbbbbbbb", 1, 0))
IDS = tuple(f"i-{number:010}" for number in (1, 2, 3))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f x"
ODD: tuple[object, ...] = (
    *(None, True, -1, 0, 2**31, 2**64, 1.5, 1e300, "", " ", "x", "\0", "\ud800", "é" * 300, "../../etc/passwd"),
    *("<a/>&", "10.0.0.5/24\n", "{{ 7 }}", "fd00::/129", [], {}, [[]], [{}], {"base64": "!"}, [None]),
)
"""Values that are right almost nowhere."""

ELSEWHERE = {"showOperation"}
"""Routes whose names cannot be guessed; ``settle`` asks them."""

HEADERS: dict[str, tuple[str, ...]] = {
    "Prefer": ("respond-async", "wait=0", "wait=5, respond-async", "wait=-1", ";;,", "x" * 2000),
    "If-Match": ("*", '"1"', '"2", "1"', 'W/"1"', "", "\u00ff"),
    "If-None-Match": ("*", '"1"', ""),
    "Content-Type": ("application/json", "application/json; charset=utf-8", "text/plain", ";", ""),
    "Accept": ("*/*", "text/html", "q"),
}


@dataclass(slots=True)
class Fuzz:
    """The agent, its document, and what was seen of it."""

    lab: LabHost
    document: Json
    statuses: dict[str, set[int]] = field(default_factory=dict)

    def routes(self) -> list[tuple[str, str, Json]]:
        paths = self.document["paths"].items()
        return [(method.upper(), path, told) for path, methods in paths for method, told in methods.items()]


@pytest.fixture(scope="module")
def fuzz(agent_lab: LabHost) -> Fuzz:
    """The agent after both VPCs were there once: their lock files stay."""
    nics = [nic(vpc, subnet, net=net, vni=vni, position=net) for vpc, subnet, net, vni in NETS]
    assert agent_lab.api("POST", "/v1/vms", vm(1, *nics)).status == 201
    clear(agent_lab)
    return Fuzz(agent_lab, agent_lab.api("GET", "/openapi.json").json)


def clear(lab: LabHost) -> None:
    for one in lab.api("GET", "/v1/vms").json["items"]:
        assert lab.api("DELETE", f"/v1/vms/{one['id']}?volumes=delete").status in (204, 404)


# what is sent


@st.composite
def sound_spec(draw: st.DrawFn) -> Json:
    """A spec that can be; it may be in conflict with another VM."""
    number = draw(st.sampled_from([1, 2, 3]))
    used = draw(st.sampled_from([NETS[:1], NETS[1:], NETS]))
    nics = [
        nic(vpc, subnet, net=net, vni=vni, host=draw(st.sampled_from([4 + number, 4 + number, 9])), position=position)
        for position, (vpc, subnet, net, vni) in enumerate(used)
    ]
    more: Json = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "rules": st.just([{"proto": "tcp", "port": 22}]),
                "keys": st.just([KEY]),
                "user_data": st.sampled_from(["#!/bin/sh\n", {"base64": "AP8="}, "x" * 20_000]),
                "datasource": st.sampled_from(["nocloud", "openstack", "ec2"]),
                "cpus": st.sampled_from([1, 2]),
                "MemoryMB": st.sampled_from([32, 64]),
            },
        )
    )
    spec = vm(number, *nics)
    if "MemoryMB" in more:
        del spec["memory_mb"]
    return spec | more


@st.composite
def broken_spec(draw: st.DrawFn) -> Json:
    """A sound spec with one value replaced, left out, or added."""
    spec: Json = json.loads(json.dumps(draw(sound_spec())))
    here: Any = spec
    for _ in range(draw(st.integers(0, 2))):
        inner = [
            value for value in (here.values() if isinstance(here, dict) else here) if isinstance(value, dict | list)
        ]
        here = draw(st.sampled_from(inner)) if inner else here
    if isinstance(here, list):
        here.append(draw(st.sampled_from(ODD)))
        return spec
    name = draw(st.sampled_from([*here, "colour"]))
    if name in here and draw(st.booleans()):
        del here[name]
    else:
        here[name] = draw(st.sampled_from(ODD))
    return spec


def of_schema(schema: Json) -> st.SearchStrategy[object]:
    """Values that a schema of the document allows, as far as a schema can tell."""
    if "anyOf" in schema:
        return st.one_of([of_schema(one) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kinds = schema.get("type", "string")
    return st.one_of([of_type(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds)])


def of_type(kind: str, schema: Json) -> st.SearchStrategy[object]:
    low, high = schema.get("minimum", 0), schema.get("maximum", 1 << 40)
    makers: dict[str, Callable[[], st.SearchStrategy[object]]] = {
        "null": st.none,
        "boolean": st.booleans,
        "integer": lambda: st.integers(int(low), int(high)),
        "number": lambda: st.floats(low, high),
        "string": lambda: st.from_regex(schema["pattern"]) if "pattern" in schema else st.text(max_size=20),
        "array": lambda: st.lists(of_schema(schema.get("items", {})), max_size=3),
        "object": lambda: of_object(schema),
    }
    return makers[kind]()


def of_object(schema: Json) -> st.SearchStrategy[object]:
    members = {name: of_schema(one) for name, one in schema.get("properties", {}).items()}
    needed = schema.get("required", [])
    optional = {name: one for name, one in members.items() if name not in needed}
    return st.fixed_dictionaries({name: members[name] for name in needed}, optional=optional)


def resolved(document: Json, schema: object) -> Any:  # noqa: ANN401 - JSON is of any type
    """A schema with what it refers to put in its place."""
    if isinstance(schema, list):
        return [resolved(document, one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return resolved(document, document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]])
    return {name: resolved(document, one) for name, one in schema.items()}


def bodies(document: Json, told: Json) -> st.SearchStrategy[object]:
    """Bodies for a route; for one that takes none, seldom one."""
    garbage = st.sampled_from([b"", b"{", b"[" * 5000, b'{"id":1,"ID":2}', b"NaN", b"\xff", b"null", b"[]", b'"x"'])
    if "requestBody" not in told:
        return st.one_of(*[st.none()] * 6, garbage, st.just({}))
    schema = resolved(document, told["requestBody"]["content"]["application/json"]["schema"])
    return st.one_of(sound_spec(), sound_spec(), broken_spec(), broken_spec(), of_schema(schema), garbage)


def texts(parameter: Json) -> st.SearchStrategy[str]:
    """Texts for a parameter in path or query: mostly right, and never one that has the agent wait for long."""
    schema = parameter["schema"]
    garbage = st.one_of(
        st.text(min_size=1, max_size=12), st.sampled_from(["%00", "..", "-1", "1e9", "ö", "i-1", "nan"])
    )
    right: st.SearchStrategy[str]
    if parameter["name"] == "id" and "i-" in schema["pattern"]:
        right = st.sampled_from(IDS)
    elif parameter["name"] == "name":
        right = st.sampled_from(
            [name for names in NETS for name in names[:2] if name.startswith(schema["pattern"][2:5])]
        )
    elif "pattern" in schema:
        right = st.from_regex(schema["pattern"], fullmatch=True)
    elif "enum" in schema:
        right = st.sampled_from(schema["enum"])
    else:
        right = st.sampled_from(["0", "1", "0.2"] if schema["type"] == "number" else ["0", "1", "200"])
    return st.one_of(*[right] * 6, garbage)


# what comes back


def check(fuzz: Fuzz, told: Json, answer: Answer) -> None:
    """The answer is one that the document describes."""
    status = str(answer.status)
    assert status in told["responses"], (told["operationId"], status, answer.text)
    assert answer.status < 500 or (answer.status == 503 and "retry-after" in answer.headers), answer.text
    response = told["responses"][status]
    content = response.get("content", {})
    media = answer.headers.get("content-type", "")
    assert (media in content) if content else answer.body == b"", (told["operationId"], status, media)
    for name in response.get("headers", {}):
        assert name.lower() in answer.headers or name == "Preference-Applied", (told["operationId"], status, name)
    if "json" in media:
        schema = {**content[media]["schema"], "components": fuzz.document["components"]}
        errors = [error.message for error in Draft202012Validator(schema).iter_errors(answer.json)]
        assert errors == [], (told["operationId"], status)
    if media == "application/problem+json":
        assert (answer.json["status"], bool(answer.json["detail"])) == (answer.status, True)
        assert not any(word in answer.text for word in ("Traceback", "/lvagent/", "0x7f", ".py")), answer.text


def test_every_answer_is_as_the_document_says(fuzz: Fuzz) -> None:
    before = fuzz.lab.snapshot()
    routes = fuzz.routes()
    for turn in range(TURNS):
        for number, route in enumerate(routes):
            examples = READS if route[0] == "GET" else CHANGES
            meet(fuzz, route, examples, turn * len(routes) + number)
    settle(fuzz)
    clear(fuzz.lab)
    assert before.difference(fuzz.lab.snapshot()) == {}
    went = {name: seen for name, seen in fuzz.statuses.items() if min(seen) < 300}
    assert {told["operationId"] for _, _, told in routes} - set(went) <= ELSEWHERE, "the requests have no teeth"


def meet(fuzz: Fuzz, route: tuple[str, str, Json], examples: int, beginning: int) -> None:
    """Some requests to a route, the same for the same ``beginning``."""
    method, path, told = route

    @seed(beginning)
    @settings(max_examples=examples, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.data())
    def run(data: st.DataObject) -> None:
        answer = send(fuzz, data, method, path, told)
        fuzz.statuses.setdefault(told["operationId"], set()).add(answer.status)
        check(fuzz, told, answer)

    run()


def send(fuzz: Fuzz, data: st.DataObject, method: str, path: str, told: Json) -> Answer:
    body = data.draw(bodies(fuzz.document, told))
    query: dict[str, str] = {}
    for one in told["parameters"]:
        if one["in"] == "path":
            text = data.draw(texts(one))
            if one["name"] == "id" and isinstance(body, dict) and body.get("id") in IDS and data.draw(st.booleans()):
                text = body["id"]
            path = path.replace(f"{{{one['name']}}}", urllib.parse.quote(text, safe="", errors="replace"))
        elif one["in"] == "query" and data.draw(st.booleans()):
            query[one["name"]] = data.draw(texts(one))
    if data.draw(st.sampled_from([False] * 19 + [True])):
        query["colour"] = "red"
    names = [*(one["name"] for one in told["parameters"] if one["in"] == "header"), "Content-Type", "Accept"]
    sent = {name: data.draw(st.sampled_from(HEADERS[name])) for name in names if data.draw(st.integers(0, 5)) == 0}
    path += "?" + urllib.parse.urlencode(query, errors="replace") if query else ""
    return fuzz.lab.api(method, path, body, **sent)


def settle(fuzz: Fuzz) -> None:
    """Wait for all that was promised; none of it may have failed by a defect."""
    deadline = time.monotonic() + 30
    found = fuzz.lab.api("GET", "/v1/operations").json["items"]
    while any(one["status"] == "running" for one in found):
        assert time.monotonic() < deadline, "operations do not end"
        time.sleep(0.05)
        found = fuzz.lab.api("GET", "/v1/operations").json["items"]
    problems = [one["problem"] for one in found if one["problem"]]
    assert [problem for problem in problems if problem["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR] == []
    told = {(method, path): told for method, path, told in fuzz.routes()}["GET", "/v1/operations/{id}"]
    for one in found[-50:]:
        check(fuzz, told, fuzz.lab.api("GET", f"/v1/operations/{one['id']}?wait=1"))


def test_methods_that_are_not_in_the_document_are_refused(fuzz: Fuzz) -> None:
    examples = {"{id}": IDS[0], "{name}": "vpc-aaaaaaaaaa", "{action}": "start"}
    for path, methods in fuzz.document["paths"].items():
        real = path
        for name, value in examples.items():
            real = real.replace(name, value)
        for method in {"GET", "PUT", "POST", "DELETE", "PATCH"} - {one.upper() for one in methods}:
            answer = fuzz.lab.api(method, real, None)
            allowed = {one.upper() for one in methods}
            if (method, path.rsplit("/", 1)[0]) == ("POST", "/v1/vms/{id}"):
                assert (answer.status, answer.json["detail"]) == (404, "there is no such action"), real
                continue
            assert (answer.status, answer.json["type"]) == (405, "urn:lvagent:error:method"), (method, real)
            assert allowed <= set(answer.headers["allow"].split(", ")), (method, real)
