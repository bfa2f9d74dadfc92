"""The parser refuses whatever is not exactly a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvagent.metadata.http import MAX_FIELDS, MAX_LINE, Answer, Refused, Request, parse

HOST = b"Host: 169.254.169.254\r\n"


def test_a_request() -> None:
    raw = b"GET /latest/meta-data/?x=1 HTTP/1.1\r\n" + HOST + b"X-One:  a b\t\r\nx-two: 1\r\nX-TWO: 2\r\nEmpty:\r\n\r\n"
    fields = {"host": ("169.254.169.254",), "x-one": ("a b",), "x-two": ("1", "2"), "empty": ("",)}
    assert parse(raw) == Request("GET", "/latest/meta-data/", fields, True)
    assert parse(raw).one("x-one") == "a b"
    assert parse(raw).one("x-two") is None
    assert parse(raw).one("x-three") is None


@pytest.mark.parametrize(
    ("line", "fields", "keep"),
    [
        (b"1.1", HOST, True),
        (b"1.1", HOST + b"Connection: close\r\n", False),
        (b"1.1", HOST + b"Connection: te, CLOSE\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
        (b"1.7", HOST, True),
    ],
)
def test_keep(line: bytes, fields: bytes, keep: bool) -> None:
    assert parse(b"GET / HTTP/" + line + b"\r\n" + fields + b"\r\n").keep is keep


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/11\r\n" + HOST + b"\r\n", 400),
        (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET http://169.254.169.254/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n: nameless\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\rX: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: x\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\n", 413),
        (b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: -0\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 0, 0\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", 501),
        (b"GET /" + b"a" * MAX_LINE + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * MAX_FIELDS + b"\r\n\r\n", 431),
    ],
)
def test_refused(raw: bytes, status: int) -> None:
    with pytest.raises(Refused) as refused:
        parse(raw)
    assert refused.value.status == status


def test_the_longest_line_and_fields_that_pass() -> None:
    line = b"GET /" + b"a" * (MAX_LINE - len(b"GET / HTTP/1.1\r\n")) + b" HTTP/1.1\r\n"
    assert parse(line + HOST + b"\r\n").path == "/" + "a" * (MAX_LINE - 16)
    filler = b"X: " + b"a" * (MAX_FIELDS - len(HOST) - 5) + b"\r\n"
    assert parse(b"GET / HTTP/1.1\r\n" + HOST + filler + b"\r\n").one("x") == "a" * (MAX_FIELDS - len(HOST) - 5)


def test_no_content_is_content_of_length_nought() -> None:
    assert parse(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n").method == "PUT"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(raw: bytes) -> None:
    try:
        request = parse(raw)
    except Refused:
        return
    assert raw.startswith(f"{request.method} {request.path}".encode())


@given(
    name=st.text("!#$%&'*+-.^_`|~0123456789abcXYZ", min_size=1).filter(
        lambda name: name.lower() not in ("host", "content-length", "transfer-encoding", "connection")
    ),
    value=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)),
)
def test_any_field_comes_through(name: str, value: str) -> None:
    raw = b"GET / HTTP/1.1\r\n" + HOST + f"{name}:{value}\r\n\r\n".encode()
    assert parse(raw).fields[name.lower()] == (value.strip(),)


def test_an_answer() -> None:
    reply = Answer(200, b"body", "text/plain", {"X-A": "b"})
    head = (
        b"HTTP/1.1 200 OK\r\nServer: lvagent\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n"
        b"Connection: keep-alive\r\nX-A: b\r\n\r\n"
    )
    assert reply.encode(keep=True) == head + b"body"
    assert reply.encode(keep=True, head_only=True) == head
    assert b"Connection: close\r\n" in reply.encode()
    assert "body" not in repr(reply)
