"""Event streams on a real socket: beside requests, with slow readers, and when the server stops."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lvagent.api import connection, events
from tests.host.api.served import Served
from tests.lab.stream import Stream

VM = "i-0000000001"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.1)


def until(what: Callable[[], object], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stream_goes_on_for_longer_than_an_answer_may_take(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    served = serve()
    news = served.agent.follow()
    with Stream(str(served.path)) as stream:
        time.sleep(1.2)
        news.publish(VM, "late")
        assert stream.wait("late").told["vm"] == VM
        assert not stream.ended.is_set()
    news.close()


def test_streams_leave_threads_for_others_and_give_theirs_back(serve: Callable[..., Served]) -> None:
    served = serve(threads=12, streams=4)
    news = served.agent.follow()
    streams = [Stream(str(served.path)) for _ in range(5)]
    assert sorted(stream.status for stream in streams) == [200, 200, 200, 200, 503]
    assert [served.call("GET", "/healthz").status for _ in range(20)] == [200] * 20  # each within its 30 seconds
    for stream in streams:
        stream.__exit__(None, None, None)

    def free() -> bool:
        with Stream(str(served.path)) as stream:
            return stream.status == 200

    until(free)
    news.close()


def test_a_reader_that_does_not_read_is_let_go(serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.3)
    served = serve(threads=12, streams=1)
    news = served.agent.follow()
    with served.raw() as client:
        client.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        for _ in range(3000):
            news.publish(VM, "x", text="y" * 1000)
        until(lambda: served.call("HEAD", "/v1/events").status == 200)

        def place() -> bool:
            with Stream(str(served.path)) as stream:
                return stream.status == 200

        until(place)
    news.close()


def test_a_stop_ends_streams_at_once(serve: Callable[..., Served]) -> None:
    served = serve()
    news = served.agent.follow()
    with Stream(str(served.path)) as stream:
        news.close()
        served.server.stop()
        assert stream.ended.wait(20)
