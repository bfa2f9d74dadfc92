from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from lvagent.api.app import create_app, operations_of
from lvagent.config import Api, Settings
from tests.unit.api.doors import TcpDoor
from tests.unit.api.fake_agent import FakeAgent


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
def settings() -> Settings:
    return Settings(api=Api(max_body=1 << 20, operations=4, threads=18, streams=6))


@pytest.fixture
def app(agent: FakeAgent, settings: Settings) -> Iterator[Flask]:
    app = create_app(agent, settings)
    yield app
    agent.gate.set()
    assert operations_of(app).close(10)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def tcp(agent: FakeAgent, settings: Settings, tmp_path: Path) -> Iterator[TcpDoor]:
    door = TcpDoor(tmp_path, settings, agent)
    yield door
    door.close()
