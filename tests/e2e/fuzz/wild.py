"""Requests that schemathesis makes up from the document, and its judgement of the answers.

It knows JSON Schema far better than any driver of our own: it makes values at each bound of each field, and values that
break one keyword at a time. It knows no VM. So its requests are about VMs that are not there, and few of its specs make
sense; ``bodies`` makes those that do.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import requests
import schemathesis
import urllib3
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from schemathesis import Case, GenerationMode
from schemathesis.core import NOT_SET
from schemathesis.specs.openapi import checks
from schemathesis.specs.openapi.coverage._operation import iter_coverage_cases
from schemathesis.specs.openapi.schemas import OpenApiSchema

from tests.e2e.fuzz.routes import Route
from tests.e2e.fuzz.sent import Request
from tests.e2e.fuzz.served import Served
from tests.lab.host import Answer

BASE = "http://lvagent"
METHODS = frozenset({"get", "put", "post", "delete", "patch", "trace", "query"})
"""What is tried where the document does not have it; HEAD and OPTIONS are answered everywhere."""

CHECKS = (
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
)


class Wire(HTTPAdapter):
    """Carries a request of ``requests`` to the agent's socket. ``last``: what went over it."""

    last: tuple[Request, Answer]

    def __init__(self, served: Served) -> None:
        super().__init__()
        self._served = served

    def send(self, request: requests.PreparedRequest, *_args: object, **_options: object) -> requests.Response:
        """Send it, and make of the answer what the session expects."""
        body = request.body.encode() if isinstance(request.body, str) else request.body
        assert body is None or isinstance(body, bytes)
        own = {name: _latin(value) for name, value in request.headers.items() if name.lower() != "content-length"}
        sent = Request(request.method or "", str(request.path_url), own, body)
        answer = self._served.send(sent)
        self.last = (sent, answer)
        raw = urllib3.HTTPResponse(
            io.BytesIO(answer.body), answer.headers, answer.status, version=11, preload_content=False
        )
        return self.build_response(request, raw)


def _latin(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value.encode("utf-8").decode("latin-1")


def _body(case: Case[Any]) -> object:
    return None if case.body is NOT_SET else case.body


class Wild:
    """Schemathesis for one agent."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._schema: OpenApiSchema = schemathesis.openapi.from_dict(served.document)
        self._wire = Wire(served)
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.mount(BASE, self._wire)

    def bodies(self, route: Route) -> st.SearchStrategy[object]:
        """Bodies for a route, such as its schema allows and such as it does not."""
        return st.one_of([self._cases(route, mode).map(_body) for mode in GenerationMode])

    def cases(self, route: Route) -> st.SearchStrategy[Case[Any]]:
        """Requests to a route that keep its schema, and such as break it (if there is anything to break)."""
        can = [
            mode for mode in GenerationMode if mode is GenerationMode.POSITIVE or route.told["parameters"] or route.body
        ]
        return st.one_of([self._cases(route, mode) for mode in can])

    def _cases(self, route: Route, mode: GenerationMode) -> st.SearchStrategy[Case[Any]]:
        return self._schema[route.path][route.method].as_strategy(generation_mode=mode)

    def bounds(self, route: Route) -> Iterator[Case[Any]]:
        """A request for each bound, type and keyword of a route's schema, and for each method it does not have.

        This is what ``schemathesis run`` calls its coverage phase; the library has no public name for it alone.
        """
        operation = self._schema[route.path][route.method]
        yield from iter_coverage_cases(
            operation=operation,
            generation_modes=list(GenerationMode),
            generate_duplicate_query_parameters=True,
            unexpected_methods=set(METHODS),
            generation_config=self._schema.config.generation,
        )

    def send(self, case: Case[Any]) -> tuple[Request, Answer]:
        """Send a request and check the answer as schemathesis does."""
        case.call_and_validate(base_url=BASE, session=self._session, checks=list(CHECKS))
        return self._wire.last
