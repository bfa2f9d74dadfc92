"""What is no proper HTTP, on a real socket: one reading or none, and the agent goes on.

Each malformed request is followed on its connection by one that deletes a VM. Who reads the first one differently than
it was meant takes part of it for a request, or lets the second through.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Iterator

import pytest

from lvagent.config import Api
from tests.host.api.served import Served
from tests.unit.api.specs import vm

pytestmark = pytest.mark.host

SMUGGLED = b"DELETE /v1/vms/i-0000000666 HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = json.dumps(vm()).encode()
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
PUT = b"PUT /v1/vms/i-0000000001 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKED = (
    b"PUT /v1/vms/i-0000000001 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"%x;name=value\r\n%s\r\n%x\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % (20, BODY[:20], len(BODY) - 20, BODY[20:])
)
MANY = 2000
"""Requests that are broken at random."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a VM that must not be deleted."""
    folder = tmp_path_factory.mktemp("wire")
    found = Served(folder, Api(socket=str(folder / "api.sock"), group="", slow=5))
    found.server.start()
    assert found.call("POST", "/v1/vms", vm(666)).status == 201
    yield found
    found.server.stop()


def put(*fields: bytes, body: bytes = BODY) -> bytes:
    """A PUT with these header fields and this body, whatever they say."""
    return b"PUT /v1/vms/i-0000000001 HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n%s" % (b"\r\n".join(fields), body)


def chunked(body: bytes) -> bytes:
    """A PUT with this for its chunks."""
    return put(b"Transfer-Encoding: chunked", body=body)


def line(first: bytes) -> bytes:
    """A request with this for its first line."""
    return first + b"\r\nHost: x\r\n\r\n"


LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
ONE = b"%x\r\n%s\r\n" % (len(BODY), BODY)

REFUSED: dict[str, tuple[bytes, int]] = {
    # where does the body end?
    "two lengths": (put(LENGTH, b"Content-Length: 0"), 400),
    "the same length twice": (put(LENGTH, LENGTH), 400),
    "a list of lengths": (put(LENGTH + b", %d" % len(BODY)), 400),
    "a length folded": (put(b"Content-Length: 1\r\n 0"), 400),
    "a length of no digits": (put(b"Content-Length: "), 400),
    "a length with a sign": (put(b"Content-Length: +5"), 400),
    "a length in another script": (put("Content-Length: \u0665".encode()), 400),
    "a length with a NUL": (put(LENGTH + b"\0"), 400),
    "a length after a blank": (put(b"Content-Length : 5"), 400),
    "a very long length": (put(b"Content-Length: " + b"9" * 9000), 400),
    "length and chunks": (put(LENGTH, b"Transfer-Encoding: chunked", body=CHUNKS), 400),
    "chunks and length": (put(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=CHUNKS), 400),
    "chunks twice": (put(b"Transfer-Encoding: chunked, chunked", body=CHUNKS), 400),
    "chunks in two fields": (put(b"Transfer-Encoding: chunked", b"Transfer-Encoding: x", body=CHUNKS), 400),
    "chunks in HTTP/1.0": (chunked(CHUNKS).replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    "chunks that are none": (put(b"Transfer-Encoding: xchunked", body=CHUNKS), 501),
    "chunks with a parameter": (put(b"Transfer-Encoding: chunked;q=1", body=CHUNKS), 501),
    "chunks last but one": (put(b"Transfer-Encoding: chunked, gzip", body=CHUNKS), 501),
    "no coding": (put(b"Transfer-Encoding:", body=CHUNKS), 400),
    "chunks behind a control character": (put(b"Transfer-Encoding: \x0bchunked", body=CHUNKS), 400),
    "chunks behind a blank name": (put(b"Transfer-Encoding\t: chunked", body=CHUNKS), 400),
    # chunks
    "a chunk in C": (chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk with a sign": (chunked(b"+5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk below nothing": (chunked(ONE + b"-1\r\n\r\n"), 400),
    "a chunk with a low line": (chunked(b"0_5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk with blanks": (chunked(b" 5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk of no size": (chunked(b"\r\n\r\n"), 400),
    "a chunk with a bare LF": (chunked(b"5\nhello\r\n0\r\n\r\n"), 400),
    "a chunk's extension with a bare CR": (chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk that is longer": (chunked(b"5\r\nhello!\r\n0\r\n\r\n"), 400),
    "a chunk that is shorter": (chunked(b"6\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk that ends early": (chunked(b"ff\r\nhello"), 400),
    "an endless line of a chunk": (chunked(b"5;" + b"x" * 100_000), 400),
    "an endless number": (chunked(b"0" * 100_000 + b"5\r\nhello\r\n0\r\n\r\n"), 400),
    "a giant chunk": (chunked(b"ffffffffffffffff\r\n"), 413),
    "no last chunk": (chunked(ONE), 400),
    "a trailer that is none": (chunked(ONE + b"0\r\nno colon\r\n\r\n"), 400),
    "a trailer without end": (chunked(ONE + b"0\r\n" + b"A: b\r\n" * 1000 + b"\r\n"), 400),
    # the header
    "a bare LF": (b"GET /healthz HTTP/1.1\nHost: x\r\n\r\n", 400),
    "a bare LF in the header": (line(b"GET /healthz HTTP/1.1\r\nA: b\nC: d"), 400),
    "a bare CR in a value": (line(b"GET /healthz HTTP/1.1\r\nA: b\rContent-Length: 50"), 400),
    "a NUL in a value": (line(b"GET /healthz HTTP/1.1\r\nA: b\0c"), 400),
    "a NUL in a name": (line(b"GET /healthz HTTP/1.1\r\nA\0: b"), 400),
    "no name": (line(b"GET /healthz HTTP/1.1\r\n: b"), 400),
    "a blank name": (line(b"GET /healthz HTTP/1.1\r\n A: b"), 400),
    "a folded line": (line(b"GET /healthz HTTP/1.1\r\nA: b\r\n\tc"), 400),
    "a name with a blank": (line(b"GET /healthz HTTP/1.1\r\nA b: c"), 400),
    "two hosts": (line(b"GET /healthz HTTP/1.1\r\nHost: y"), 400),
    "two media types": (put(LENGTH, b"Content-Type: application/json", b"Content-Type: text/plain"), 400),
    "no end": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", 400),
    # the first line
    "HTTP/0.9": (b"GET /healthz\r\n", 400),
    "HTTP/0.9 by name": (line(b"GET /healthz HTTP/0.9"), 505),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "a version with a sign": (line(b"GET /healthz HTTP/+1.1"), 400),
    "a version with zeros": (line(b"GET /healthz HTTP/01.01"), 400),
    "another protocol": (line(b"GET /healthz HTTPS/1.1"), 400),
    "two blanks": (line(b"GET  /healthz HTTP/1.1"), 400),
    "a tab": (line(b"GET\t/healthz\tHTTP/1.1"), 400),
    "a NUL in the method": (line(b"GE\0T /healthz HTTP/1.1"), 400),
    "a NUL in the target": (line(b"GET /health\0z HTTP/1.1"), 400),
    "UTF-8 in the target": (line("GET /héalthz HTTP/1.1".encode()), 400),
    "an absolute target": (line(b"GET http://x/healthz HTTP/1.1"), 400),
    "a target of another host": (line(b"GET //x/healthz HTTP/1.1"), 400),
    "half an IPv6 address": (line(b"GET http://[ HTTP/1.1"), 400),
    "half an IPv6 address of another host": (line(b"OPTIONS //[::1 HTTP/1.1"), 400),
    "a fragment": (line(b"GET /healthz#x HTTP/1.1"), 400),
    "a star": (line(b"GET * HTTP/1.1"), 400),
    "a tunnel": (line(b"CONNECT x:1 HTTP/1.1"), 405),
    "two empty lines": (b"\r\n\r\n" + GET, 400),
    "a method in small letters": (line(b"get /healthz HTTP/1.1"), 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 60 + b"\r\n", 400),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", 400),
}

SERVED: dict[str, tuple[bytes, int]] = {  # 201: or 200, if it was there
    "as it should be": (GET, 200),
    "an empty line before": (b"\r\n" + GET, 200),
    "a percent sign": (line(b"GET /%68ealthz HTTP/1.1"), 200),
    "no blank after the colon": (put(b"Content-Length:%d" % len(BODY)), 201),
    "blanks around a value": (put(b"Content-Length: \t %d \t " % len(BODY)), 201),
    "names in any case": (put(b"cOnTeNt-LeNgTh: %d" % len(BODY)), 201),
    "a name with a low line": (put(LENGTH, b"Content_Length: 0", b"If_Match: 7", b"Transfer_Encoding: chunked"), 201),
    "a field in two parts": (put(LENGTH, b"Prefer: wait=5", b"Prefer: handling=strict"), 201),
    "in chunks": (CHUNKED, 201),
    "a long chunk": (chunked(b"000%x ; a=b\r\n%s\r\n00\r\n\r\n" % (len(BODY), BODY)), 201),
    "chunks in capitals": (put(b"Transfer-Encoding: ChUnKeD", body=CHUNKS), 201),
    "HTTP/1.0": (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
}


def answers(raw: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """The answers in what a server sent, read strictly: status, header, body.

    :raise AssertionError: it is no sequence of answers of HTTP/1.1.
    """
    found = []
    while raw:
        head, blank, raw = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        status = re.fullmatch(r"HTTP/1\.1 ([1-5][0-9]{2}) [A-Za-z -]+", first)
        assert blank, head
        assert status, first
        fields = dict(line.lower().split(": ", 1) for line in lines)
        assert len(fields) == len(lines), head
        if status[1] == "100":
            continue
        size = 0 if status[1] == "204" else int(fields["content-length"])
        assert len(raw) >= size, (head, raw)
        found.append((int(status[1]), fields, raw[:size]))
        raw = raw[size:]
    return found


def check(one: tuple[int, dict[str, str], bytes]) -> None:
    """An answer is a success or a problem."""
    status, fields, body = one
    if status >= 400:
        assert fields["content-type"] == "application/problem+json"
        told = json.loads(body)
        assert (told["status"], told["type"].startswith("urn:lvagent:error:")) == (status, True)
        assert told["detail"].isprintable()
    assert status < 500 or status in (501, 505), one


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_be_read_in_two_ways_is_not_read(served: Served, name: str) -> None:
    raw, status = REFUSED[name]
    before = list(served.agent.calls)
    found = answers(served.conversation(raw + SMUGGLED))
    assert [one[0] for one in found] == [status], found
    check(found[0])
    assert found[0][1]["connection"] == "close"
    assert served.agent.calls == before
    assert served.call("GET", "/v1/vms/i-0000000666").status == 200


@pytest.mark.parametrize("name", SERVED)
def test_what_can_be_read_in_one_way_is_read(served: Served, name: str) -> None:
    raw, status = SERVED[name]
    found = answers(served.conversation(raw))
    assert [one[0] for one in found] in ([status], [status // 100 * 100]), found


def test_requests_in_a_row_are_answered_in_their_order(served: Served) -> None:
    missing = b"GET /v1/vms/i-0000000%03d HTTP/1.1\r\nHost: x\r\n\r\n"
    sent = b"".join(missing % number + PUT for number in range(100, 150))
    found = answers(served.conversation(sent))
    assert [one[0] // 100 for one in found] == [4, 2] * 50
    instances = [json.loads(body)["instance"] for status, _, body in found if status == 404]
    assert instances == [f"/v1/vms/i-0000000{number:03}" for number in range(100, 150)]


def test_what_follows_the_last_chunk_is_no_request(served: Served) -> None:
    found = answers(served.conversation(CHUNKED + SMUGGLED))
    assert [one[0] // 100 for one in found] == [2]
    assert served.agent.calls[-1] == ("put", "i-0000000001")


PIECES = (
    *(
        b"\r",
        b"\n",
        b"\r\n",
        b"\0",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"%",
        b"%00",
        b"\xff",
        b"\x80",
        b"\x16\x03\x01",
        b"/",
    ),
    *(
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"HTTP/1.1",
        b"0\r\n\r\n",
    ),
    *(
        b"Connection: close\r\n",
        b"Connection: upgrade\r\nUpgrade: websocket\r\n",
        b"X: " + b"y" * 3000 + b"\r\n",
        b"-1",
    ),
)


def broken(chance: random.Random) -> bytes:
    """A proper request, or a few, in which something was put in, left out, doubled, moved or cut."""
    raw = b"".join(chance.choice((GET, PUT, CHUNKED)) for _ in range(chance.choice((1, 1, 1, 3))))
    for _ in range(chance.randint(1, 4)):
        at, to = sorted(chance.randrange(len(raw) + 1) for _ in range(2))
        match chance.randrange(6):
            case 0:
                raw = raw[:at] + chance.choice(PIECES) + raw[at:]
            case 1:
                raw = raw[:at] + raw[min(to, at + 9) :]
            case 2:
                raw = raw[:at] + raw[at:to] + raw[at:]
            case 3:
                raw = raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
            case 4:
                raw = b"\r\n".join(sorted(raw.split(b"\r\n"), key=lambda _line: chance.random()))
            case 5:
                raw = raw[: max(to, 1)]
    return raw


def goes_on(served: Served, count: int, seed: int) -> None:
    """So many requests that are broken get proper answers or none, and the server goes on."""
    chance = random.Random(seed)
    for number in range(count):
        raw = broken(chance)
        try:
            for one in answers(served.conversation(raw)):
                check(one)
        except AssertionError as error:
            raise AssertionError(f"number {number} of --fuzz-seed {seed}: {raw!r}") from error
    assert served.call("GET", "/healthz").json == {"status": "ok"}
    assert served.call("GET", "/v1/vms/i-0000000666").status == 200


def test_requests_that_are_broken_at_random(served: Served, caplog: pytest.LogCaptureFixture, fuzz_seed: int) -> None:
    goes_on(served, MANY, fuzz_seed)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.slow
@pytest.mark.fuzz
def test_many_requests_that_are_broken_at_random(
    served: Served, caplog: pytest.LogCaptureFixture, fuzz_seed: int, fuzz_cases: int
) -> None:
    goes_on(served, (fuzz_cases or 2000) * 50, fuzz_seed + 1)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
