"""The event stream: server-sent events (WHATWG HTML, 9.2) of what happens to VMs.

    id: 1f2e3d4c.17
    event: state
    data: {"vm": "i-0000000001", "vpcs": ["vpc-aaaaaaaaaa"], "type": "state", "detail": {...}, "at": "..."}

An id is the agent's run and a number in it. Who comes back with ``Last-Event-ID`` gets what he missed, or the event
``reset`` if that is not known any more: then he looks at everything anew. At each heartbeat it is asked again who he
is: a token that was revoked or has expired ends its streams.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http import HTTPStatus

from lvagent.agent.news import Follower, Item, News
from lvagent.api.contract import Answer, Call, Header, Query
from lvagent.api.limited import shown_item
from lvagent.errors import LvagentError, Unavailable
from lvagent.spec import names
from lvagent.spec.access import Caller
from lvagent.spec.status import iso_time

STREAM = "text/event-stream"

HEARTBEAT = 5.0
"""Seconds between two heartbeats, and between two looks at the caller's token."""

RETRY_MS = 2000
"""When a client should come back after a stream ended."""

SHARE = 4
"""A token has at most one of so many of all streams of its door."""

_ID = re.compile(r"([0-9a-f]{8})\.([0-9]{1,15})\Z")


def _read_vm(text: str) -> str:
    if not names.VM_ID.match(text):
        raise ValueError('the id of a VM: "i-" and ten digits')
    return text


VM = Query("vm", "", _read_vm, {"type": "string", "pattern": "^i-[0-9]{10}$"}, "only events of this VM")
LAST = Header("Last-Event-ID", "the id of the last event that is known already", "1f2e3d4c.17")


class Places:
    """How many streams a door may have.

    :param most: of all callers together.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._each = max(1, most // SHARE)
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    def take(self, caller: Caller) -> Callable[[], None]:
        """A place for a caller.

        :return: gives it back.
        :raise Unavailable: there is none left, or he has his share.
        """
        with self._lock:
            his = self._taken[caller.token] >= self._each and caller.token != ""
            if his or self._taken.total() >= self._most:
                whose = "this token has" if his else "there are"
                count = self._each if his else self._most
                raise Unavailable("a place for an event stream", hint=f"{whose} {count} already; api.streams")
            self._taken[caller.token] += 1
        return lambda: self._give_back(caller.token)

    def _give_back(self, token: str) -> None:
        with self._lock:
            self._taken[token] -= 1
            if self._taken[token] <= 0:
                del self._taken[token]


def events(call: Call) -> Answer:
    """GET /v1/events"""
    only = VM.of(call.query)
    if call.trail.method == "HEAD":
        return Answer(HTTPStatus.OK, media=STREAM)
    leave = call.places.take(call.caller)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Answer(HTTPStatus.OK, media=STREAM, headers=headers, stream=Stream(call, only, leave))


class Stream:
    """The chunks of one stream. Whoever iterates over it calls ``close`` when he is done."""

    def __init__(self, call: Call, only: str, leave: Callable[[], None]) -> None:
        self._call = call
        self._only = only
        self._leave: Callable[[], None] | None = leave
        self._news: News = call.agent.news
        self._follower, self._missed = _follow(self._news, call.headers.get("last-event-id", ""))
        self._seen = self._follower.after

    def __iter__(self) -> Iterator[bytes]:
        yield f"retry: {RETRY_MS}\n".encode() + self._mark()
        if self._missed:
            reset = Item(self._seen, time.time(), "", "reset", {"reason": self._missed})
            yield self._event(reset.kind, document(reset))
        asked = time.monotonic()
        while not self._follower.closed:
            item = self._follower.take(max(0.0, asked + HEARTBEAT - time.monotonic()))
            if item is not None:
                yield self._told(item)
            elif self._follower.overrun:
                return  # he did not keep up: he comes back, and is told what he missed, or that he did
            if time.monotonic() >= asked + HEARTBEAT:
                asked = time.monotonic()
                if not self._still():
                    return
                yield b": heartbeat\n" + self._mark()

    def _still(self) -> bool:
        """Whether the caller is still who he was."""
        try:
            return self._call.again() == self._call.caller
        except LvagentError:
            return False

    def _mark(self) -> bytes:
        """The id of the last item that he was told of, or that was not for him; no event by itself."""
        return f"id: {self._news.epoch}.{self._seen}\n\n".encode()

    def _told(self, item: Item) -> bytes:
        self._seen = item.number
        shown = shown_item(self._call.agent, item)
        if shown is None or (self._only and shown.vm != self._only):
            return b""
        return self._event(shown.kind, document(shown))

    def _event(self, kind: str, told: dict[str, object]) -> bytes:
        data = json.dumps(told, allow_nan=False)
        return f"id: {self._news.epoch}.{self._seen}\nevent: {kind}\ndata: {data}\n\n".encode()

    def close(self) -> None:
        """Give the place back."""
        self._follower.close()
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


def document(item: Item) -> dict[str, object]:
    """An item as JSON."""
    return {
        "vm": item.vm or None,
        "vpcs": sorted(item.vpcs),
        "type": item.kind,
        "detail": dict(item.detail),
        "at": iso_time(item.at),
    }


def _follow(news: News, last: str) -> tuple[Follower, str]:
    """Follow from where somebody was; and why that cannot be, if it cannot."""
    if not last:
        return news.follow(), ""
    found = _ID.match(last)
    if found is None or found[1] != news.epoch:
        return news.follow(), "the id is of another run of the agent"
    follower = news.follow(int(found[2]))
    if not follower.missed:
        return follower, ""
    follower.close()
    return news.follow(), "the events after this id are not kept any more"
