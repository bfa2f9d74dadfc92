"""A TCP door for tests: an application behind tokens, and clients that show one."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from werkzeug.datastructures import Headers
from werkzeug.test import TestResponse

from lvagent.agent.pace import Pace
from lvagent.api.app import create_app, operations_of, parts_of
from lvagent.api.doors import LOCAL_ADDRESS, TokenDoor
from lvagent.config import Settings
from lvagent.host.tokens import TokenStore
from lvagent.spec.access import Role
from tests.unit.api.fake_agent import FakeAgent

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
START = datetime.datetime(2030, 1, 1, 12, tzinfo=datetime.UTC)


@dataclass
class Lines:
    """An audit log in memory."""

    lines: list[dict[str, object]] = field(default_factory=list)

    def write(self, line: Mapping[str, object]) -> None:
        self.lines.append(dict(line))


class HostClient(FlaskClient):
    """A client that sends this ``Host``."""

    host = ""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:  # noqa: ANN401 - as Flask has it
        headers = Headers(kwargs.pop("headers", None))
        headers.setdefault("Host", self.host)
        return super().open(*args, headers=headers, **kwargs)


class TcpDoor:
    """The API of an agent in memory, as it is on TCP. ``now`` is what its clock says."""

    def __init__(self, folder: Path, settings: Settings, agent: FakeAgent) -> None:
        self.now = START
        self.agent = agent
        self.audit = Lines()
        self.store = TokenStore(folder / "state", now=lambda: self.now)
        self.app = create_app(agent, settings, door=TokenDoor(settings.api, self.store), audit=self.audit)
        self.app.test_client_class = HostClient
        recorder = parts_of(self.app).recorder  # its clock stands still: a busy machine decides nothing
        recorder._each = Pace(clock=lambda: 0.0)
        recorder._all = Pace(most=100, per_minute=100, clock=lambda: 0.0)

    def client(self, token: str = "", *, scheme: str = "Bearer", host: str = "192.0.2.10:7443") -> FlaskClient:
        """A client at 192.0.2.99 that shows this token."""
        client = self.app.test_client()
        assert isinstance(client, HostClient)
        client.host = host
        client.environ_base.update({"REMOTE_ADDR": "192.0.2.99", LOCAL_ADDRESS: "192.0.2.10"})
        if token:
            client.environ_base["HTTP_AUTHORIZATION"] = f"{scheme} {token}"
        return client

    def token(self, role: Role, *vpcs: str, expires: str = "") -> str:
        """A new token's text."""
        return self.store.create(f"a {role}", role, vpcs=vpcs, expires=expires)[1]

    def of(self, role: Role, *vpcs: str) -> FlaskClient:
        """A client with a new token."""
        return self.client(self.token(role, *vpcs))

    def close(self) -> None:
        """Finish what is under way."""
        self.agent.gate.set()
        assert operations_of(self.app).close(10)
