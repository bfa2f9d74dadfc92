"""What a request is answered, whoever asks."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from lvagent.metadata.answer import Asker, answer
from lvagent.metadata.http import Answer, Request
from lvagent.metadata.tokens import Tokens
from lvagent.plan.resources import Guest

ONE = Asker(7, Guest("i-0000000001", "one", (), (), b"secret"))
TWIN = Asker(8, Guest("i-0000000001", "one", (), (), b"secret"))
TOKEN, TTL = "x-aws-ec2-metadata-token", "x-aws-ec2-metadata-token-ttl-seconds"
TOKEN_PATH = "/latest/api/token"


def ask(method: str, path: str, fields: Mapping[str, tuple[str, ...]] | None = None) -> Request:
    return Request(method, path, fields or {}, True)


def issue(tokens: Tokens, asker: Asker = ONE) -> str:
    return answer(ask("PUT", TOKEN_PATH, {TTL: ("60",)}), asker, tokens).body.decode()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_document(method: str) -> None:
    assert answer(ask(method, "/latest/meta-data/hostname"), ONE, Tokens()) == Answer(200, b"one")


def test_nothing_there() -> None:
    assert answer(ask("GET", "/latest/meta-data/nothing"), ONE, Tokens()) == Answer(404)


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/latest/meta-data/", TOKEN_PATH, "/nothing"])
def test_a_stranger_learns_nothing(method: str, path: str) -> None:
    assert answer(ask(method, path, {TTL: ("60",)}), None, Tokens()) == Answer(404)


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
def test_other_methods(method: str) -> None:
    assert answer(ask(method, "/latest/meta-data/"), ONE, Tokens()) == Answer(405, fields={"Allow": "GET, HEAD"})


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_the_token_path_takes_only_put(method: str) -> None:
    assert answer(ask(method, TOKEN_PATH), ONE, Tokens()) == Answer(405, fields={"Allow": "PUT"})


@pytest.mark.parametrize("ttl", ["1", "60", "21600"])
def test_a_token_opens_the_tree(ttl: str) -> None:
    tokens = Tokens()
    given = answer(ask("PUT", TOKEN_PATH, {TTL: (ttl,)}), ONE, tokens)
    assert (given.status, given.fields) == (200, {"X-aws-ec2-metadata-token-ttl-seconds": ttl})
    request = ask("GET", "/latest/user-data", {TOKEN: (given.body.decode(),)})
    assert answer(request, ONE, tokens) == Answer(200, b"secret", "application/octet-stream")


@pytest.mark.parametrize("values", [(), ("",), ("0",), ("21601",), ("-1",), ("1.5",), ("६०",), ("60", "60"), (" 60",)])
def test_a_wrong_ttl(values: tuple[str, ...]) -> None:
    fields = {TTL: values} if values else {}
    assert answer(ask("PUT", TOKEN_PATH, fields), ONE, Tokens()) == Answer(400)


@pytest.mark.parametrize("forwarded", ["", "10.0.0.5", "unknown"])
def test_a_put_through_a_proxy_is_refused(forwarded: str) -> None:
    request = ask("PUT", TOKEN_PATH, {TTL: ("60",), "x-forwarded-for": (forwarded,)})
    assert answer(request, ONE, Tokens()) == Answer(403)


def test_wrong_tokens() -> None:
    tokens = Tokens()
    own, twins = issue(tokens), issue(tokens, TWIN)
    for values in ((twins,), ("",), ("x",), (own, own), (own + "=",), (issue(Tokens()),)):
        request = ask("GET", "/latest/meta-data/hostname", {TOKEN: values})
        assert answer(request, ONE, tokens) == Answer(401)
    assert answer(ask("GET", "/latest/meta-data/hostname", {TOKEN: (twins,)}), TWIN, tokens) == Answer(200, b"one")
