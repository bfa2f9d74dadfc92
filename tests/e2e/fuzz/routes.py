"""The routes of an OpenAPI document, and those that made-up requests leave alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Apart:
    """Why a route is not part of the general run, and the tests that it has instead ("": it is not built yet)."""

    why: str
    cases: str = ""


APART: dict[str, Apart] = {
    "POST /v1/vms/{id}/qmp": Apart(
        "a made-up command may end the guest, or the host's peace", "tests/e2e/fuzz/test_fuzz_apart.py::test_monitors"
    ),
    "POST /v1/vms/{id}/hmp": Apart(
        "a made-up command may end the guest, or the host's peace", "tests/e2e/fuzz/test_fuzz_apart.py::test_monitors"
    ),
    "POST /v1/strays/{pid}/kill": Apart("it ends processes", "tests/e2e/fuzz/test_fuzz_apart.py::test_kill"),
    "GET /v1/events": Apart("its answer never ends", "tests/e2e/fuzz/test_fuzz_apart.py::test_streams"),
}
"""A route that is built and has no tests here fails ``test_routes_apart_have_tests_of_their_own``."""


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path of the document, and what the document tells of it."""

    method: str
    path: str
    told: Json

    @property
    def key(self) -> str:
        """As in ``APART``: ``POST /v1/vms``."""
        return f"{self.method} {self.path}"

    @property
    def number(self) -> int:
        """A number of its own, the same in every run and whatever other routes there are."""
        return int.from_bytes(self.key.encode()) % 1_000_003

    def parameters(self, place: str) -> list[Json]:
        """Its parameters in ``path``, ``query`` or ``header``."""
        return [one for one in self.told.get("parameters", []) if one["in"] == place]

    @property
    def body(self) -> Json:
        """The schema of its body; empty if it takes none."""
        found: Json = self.told.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        return found

    @property
    def takes_spec(self) -> bool:
        """Whether its body is the spec of a VM."""
        return str(self.body.get("$ref", "")).endswith("/VmSpec")


def routes_of(document: Json) -> list[Route]:
    """All routes of a document."""
    return [Route(m.upper(), path, told) for path, methods in document["paths"].items() for m, told in methods.items()]


def general_routes(document: Json) -> list[Route]:
    """The routes that are not ``APART``."""
    return [route for route in routes_of(document) if route.key not in APART]


def fits(parameter: Json, name: str) -> bool:
    """Whether a name is one that a parameter may have."""
    schema = parameter["schema"]
    if "enum" in schema:
        return name in schema["enum"]
    return "pattern" in schema and re.search(schema["pattern"], name) is not None
