"""The event stream: what it has, for whom, from where, and when it ends."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from lvagent.agent.news import News
from lvagent.api import events
from lvagent.api.app import parts_of
from lvagent.api.limited import VEILED
from lvagent.spec.access import Role
from tests.unit.api.doors import A, TcpDoor
from tests.unit.api.fake_agent import FakeAgent
from tests.unit.api.specs import vm
from tests.unit.api.test_api_limited import BOTH, MINE, THEIRS, both, elsewhere

QUICK = 0.05
"""Seconds between heartbeats here."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", QUICK)


@pytest.fixture(autouse=True)
def news(agent: FakeAgent) -> Iterator[News]:
    """Before there is an application: its operations publish there."""
    made = agent.follow()
    yield made
    made.close()


class Open:
    """A stream that was opened, read chunk by chunk."""

    def __init__(self, client: FlaskClient, query: str = "", last: str = "") -> None:
        self.answer = client.get(f"/v1/events{query}", headers={"Last-Event-ID": last} if last else {})
        self._chunks = iter(self.answer.response)

    def chunk(self) -> str:
        """The next chunk; empty: it has ended."""
        found = next(self._chunks, b"")
        return found.decode() if isinstance(found, bytes) else found

    def event(self, tries: int = 20) -> dict[str, Any]:
        """The next event, with its ``id``."""
        for _ in range(tries):
            if "data: " in (text := self.chunk()):
                fields = dict(line.split(": ", 1) for line in text.strip().split("\n"))
                told: dict[str, Any] = json.loads(fields["data"])
                assert told["type"] == fields["event"]
                return {"id": fields["id"], **told}
        raise AssertionError("no event came")

    def ends(self, chunks: int = 20) -> bool:
        """Whether it ends within so many chunks."""
        return any(self.chunk() == "" for _ in range(chunks))

    def close(self) -> None:
        self.answer.close()


def test_an_event_is_told_as_json_under_an_id(client: FlaskClient, agent: FakeAgent, news: News) -> None:
    client.post("/v1/vms", json=vm())
    stream = Open(client)
    assert stream.answer.headers["Content-Type"] == "text/event-stream"
    assert stream.answer.headers["Cache-Control"] == "no-store"
    begin = stream.chunk()
    assert begin.startswith("retry: 2000\nid: ")
    news.publish(MINE, "crashed", reason="a\nb", number=7, nothing=None)
    event = stream.event()
    assert datetime.datetime.fromisoformat(event.pop("at"))
    number = int(event.pop("id").split(".")[1])
    detail = {"reason": "a\nb", "number": 7, "nothing": None}
    assert event == {"vm": MINE, "vpcs": [A], "type": "crashed", "detail": detail}
    assert int(begin.strip().rsplit(".", 1)[1]) == number - 1
    stream.close()


def test_operations_are_told_with_their_begin_and_end(client: FlaskClient, agent: FakeAgent, news: News) -> None:
    client.post("/v1/vms", json=vm())
    client.post(f"/v1/vms/{MINE}/resume")
    stream = Open(client, last=f"{news.epoch}.0")
    told = [stream.event() for _ in range(4)]
    assert [one["type"] for one in told] == ["operation-started", "operation-ended"] * 2
    assert [one["detail"]["action"] for one in told] == ["put", "put", "resume", "resume"]
    assert (told[1]["detail"]["status"], told[3]["detail"]["problem"]) == ("succeeded", "conflict")
    assert told[0]["detail"]["operation"] == told[1]["detail"]["operation"]
    stream.close()


def test_who_comes_back_goes_on_where_he_was(client: FlaskClient, agent: FakeAgent, news: News) -> None:
    for kind in ("a", "b", "c"):
        news.publish(MINE, kind)
    stream = Open(client, last=f"{news.epoch}.1")
    assert [stream.event()["type"], stream.event()["type"]] == ["b", "c"]
    stream.close()


@pytest.mark.parametrize(
    ("last", "why"), [("0.0", "another run"), ("x", "another run"), ("00000000.1", "another run"), ("{}.9", "not kept")]
)
def test_who_comes_from_elsewhere_is_told_to_look_anew(
    client: FlaskClient, agent: FakeAgent, news: News, last: str, why: str
) -> None:
    news.publish(MINE, "a")
    stream = Open(client, last=last.format(news.epoch))
    reset = stream.event()
    assert (reset["type"], why in reset["detail"]["reason"]) == ("reset", True)
    news.publish(MINE, "b")
    assert stream.event()["type"] == "b"
    stream.close()


def test_events_of_one_vm(client: FlaskClient, agent: FakeAgent, news: News) -> None:
    stream = Open(client, f"?vm={MINE}")
    news.publish(THEIRS, "a")
    news.publish(MINE, "b")
    assert stream.event()["type"] == "b"
    stream.close()
    assert client.get("/v1/events?vm=x").status_code == 422


def test_a_limited_caller_sees_what_was_his(tcp: TcpDoor, agent: FakeAgent, news: News) -> None:
    admin = tcp.of(Role.ADMIN)
    for spec in (vm(1), elsewhere(2), both(3)):
        assert admin.post("/v1/vms", json=spec).status_code == 201
    stream = Open(tcp.of(Role.READ, A))
    stream.chunk()
    for who in (THEIRS, BOTH, "", "i-0000000009"):
        news.publish(who, "hidden")
    news.publish(MINE, "shown", error=f"a conflict with {THEIRS}", reason=f"it is {MINE}")
    event = stream.event()
    assert (event["vm"], event["type"]) == (MINE, "shown")
    assert event["detail"] == {"error": VEILED, "reason": f"it is {MINE}"}
    admin.delete(f"/v1/vms/{MINE}")
    assert stream.event()["type"] == "operation-started"
    stream.close()


def test_a_stream_ends_with_its_token(tcp: TcpDoor, agent: FakeAgent, news: News) -> None:
    revoked, expiring, kept = (tcp.token(Role.READ, expires=time) for time in ("", "1h", ""))
    streams = [Open(tcp.client(token)) for token in (revoked, expiring, kept)]
    for stream in streams:
        assert "heartbeat" in stream.chunk() + stream.chunk()
    tcp.store.revoke(revoked.split("_")[1])
    assert streams[0].ends()
    tcp.now += datetime.timedelta(hours=2)
    assert streams[1].ends()
    assert not streams[2].ends()
    for stream in streams:
        stream.close()


def test_a_busy_stream_ends_with_its_token_too(tcp: TcpDoor, agent: FakeAgent, news: News) -> None:
    token = tcp.token(Role.READ)
    stream = Open(tcp.client(token))
    tcp.store.revoke(token.split("_")[1])
    begin = time.monotonic()
    news.publish(MINE, "x")
    while stream.chunk():
        assert time.monotonic() < begin + 10
        news.publish(MINE, "x")
    stream.close()


def test_who_does_not_keep_up_is_let_go(client: FlaskClient, agent: FakeAgent, news: News) -> None:
    stream = Open(client)
    stream.chunk()
    for _ in range(3000):
        news.publish(MINE, "x")
    assert stream.ends(2000)
    stream.close()


def test_a_stream_needs_a_place_and_gives_it_back(client: FlaskClient, agent: FakeAgent, news: News) -> None:
    streams = [Open(client) for _ in range(6)]
    refused = client.get("/v1/events")
    assert (refused.status_code, refused.json["hint"]) == (503, "there are 6 already; api.streams")
    streams.pop().close()
    streams.append(Open(client))
    for stream in streams:
        stream.close()
    assert client.head("/v1/events").status_code == 200
    streams = [Open(client) for _ in range(6)]
    for stream in streams:
        stream.close()


def test_a_token_has_its_share_of_the_places(tcp: TcpDoor, agent: FakeAgent, news: News) -> None:
    first = tcp.of(Role.READ)
    stream = Open(first)
    refused = first.get("/v1/events")
    assert (refused.status_code, refused.json["hint"]) == (503, "this token has 1 already; api.streams")
    other = Open(tcp.of(Role.READ))
    assert other.answer.status_code == 200
    stream.close()
    other.close()
    assert parts_of(tcp.app).places is not None


def test_streams_end_when_the_agent_stops(client: FlaskClient, agent: FakeAgent, news: News) -> None:
    stream = Open(client)
    news.close()
    assert stream.ends(2)
    stream.close()
    late = Open(client)
    assert late.ends(2)
    late.close()
