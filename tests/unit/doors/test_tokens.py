"""Tokens: their text, their file, and what closes the door."""

from __future__ import annotations

import datetime
import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lvagent.errors import HostError, NotFound, SpecError, Unavailable
from lvagent.host.tokens import TokenStore
from lvagent.spec import tokens
from lvagent.spec.access import Role

START = datetime.datetime(2030, 1, 1, 12, tzinfo=datetime.UTC)


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "state", now=lambda: START)


def test_a_token_is_printed_once_and_kept_as_a_hash(store: TokenStore) -> None:
    token, text = store.create("ci", Role.OPERATE, vpcs=["vpc-bbbbbbbbbb", "vpc-aaaaaaaaaa"], expires="30d")
    ident, secret = text.removeprefix("lva_").split("_")
    assert (token.id, len(secret), int(secret, 16) > 0) == (ident, 64, True)
    assert secret not in store.path.read_text()
    assert (token.vpcs, token.expires_at) == (("vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"), "2030-01-31T12:00:00Z")
    assert store.find(text) == token
    assert TokenStore(store.path.parent, now=lambda: START).all() == (token,)
    assert secret not in repr(token)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (store.path, store.path.parent)] == [0o600, 0o700]
    assert os.listdir(store.path.parent) == ["tokens.json"]


@pytest.mark.parametrize(
    "spoil", [lambda t: t[:-1], lambda t: t + "0", lambda t: t.upper(), lambda t: f" {t}", lambda t: f"{t}\n"]
)
def test_only_the_whole_text_opens(store: TokenStore, spoil: Callable[[str], str]) -> None:
    _, text = store.create("ci", Role.READ)
    assert store.find(text) is not None
    assert store.find(spoil(text)) is None


def test_every_character_counts(store: TokenStore) -> None:
    _, text = store.create("ci", Role.READ)
    for at in range(4, len(text)):
        other = "1" if text[at] == "0" else "0"
        assert store.find(text[:at] + other + text[at + 1 :]) is None


def test_changes_of_others_are_seen_at_once(store: TokenStore) -> None:
    writer = TokenStore(store.path.parent)
    assert store.find("x") is None
    texts = [writer.create(f"t{number}", Role.READ)[1] for number in range(3)]
    assert all(store.find(text) for text in texts)
    writer.revoke(texts[1].split("_")[1])
    assert [store.find(text) is not None for text in texts] == [True, False, True]
    with pytest.raises(NotFound):
        writer.revoke(texts[1].split("_")[1])


def test_a_file_that_did_not_change_is_not_read_again(store: TokenStore) -> None:
    _, text = store.create("ci", Role.READ)
    known = store._current()
    store.find(text)
    assert store._current() is known


def test_many_writers_lose_nothing(store: TokenStore) -> None:
    def write(number: int) -> None:
        TokenStore(store.path.parent).create(f"t{number}", Role.READ)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(token.name for token in store.all()) == sorted(f"t{number}" for number in range(16))


def test_without_the_folder_there_are_no_tokens(store: TokenStore) -> None:
    _, text = store.create("ci", Role.READ)
    store.path.unlink()
    store.path.parent.rmdir()
    assert (store.find(text), store.all()) == (None, ())


def _edit(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        document = json.loads(path.read_text())
        change(document["tokens"][0])
        path.write_text(json.dumps(document))

    return edit


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text(""),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text('{"version": 2, "tokens": []}'),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.write_text(path.read_text()[:-10]),
        lambda path: path.write_text(" " * (5 << 20)),
        lambda path: path.chmod(0o640),
        lambda path: path.chmod(0o604),
        _link,
        _fifo,
        _edit(lambda token: token.update(role="root")),
        _edit(lambda token: token.update(vpcs=[])),
        _edit(lambda token: token.update(vpcs="vpc-aaaaaaaaaa")),
        _edit(lambda token: token.update(expires_at=5)),
        _edit(lambda token: token.update(expires_at="2030-01-01T00:00:00")),
        _edit(lambda token: token.update(expires_at="never")),
        _edit(lambda token: token.update(digest="")),
        _edit(lambda token: token.pop("vpcs")),
        _edit(lambda token: token.update(id="../x")),
    ],
)
def test_a_file_that_cannot_be_believed_closes_the_door(
    store: TokenStore, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    _, text = store.create("ci", Role.READ, expires="1h")
    good = store.path.read_bytes()
    assert store.find(text)
    spoil(store.path)
    for _ in range(3):
        with pytest.raises(Unavailable, match="the token file"):
            store.find(text)
    assert len(caplog.records) <= 1
    with pytest.raises(HostError, match=r"tokens\.json"):
        store.create("more", Role.READ)
    store.path.unlink()
    store.path.write_bytes(good)
    store.path.chmod(0o600)
    assert store.find(text)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("", None),
        ("30d", "2030-01-31T12:00:00Z"),
        ("12h", "2030-01-02T00:00:00Z"),
        ("45m", "2030-01-01T12:45:00Z"),
        ("2030-02-01T00:00:00+02:00", "2030-01-31T22:00:00Z"),
        ("2030-02-01T00:00:00Z", "2030-02-01T00:00:00Z"),
    ],
)
def test_when_a_token_ends(text: str, end: str | None) -> None:
    assert tokens.expiry(text, START) == end


@pytest.mark.parametrize(
    "text",
    ["0d", "-1d", "30", "d", "30w", "1d 2h", "2030-02-01", "2030-02-01T00:00:00", "2029-12-31T00:00:00Z", "999999d9"],
)
def test_what_is_no_end(text: str) -> None:
    with pytest.raises(SpecError) as refused:
        tokens.expiry(text, START)
    assert refused.value.path == "expires"


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "a\nb", "a\x1b[2J"])
def test_what_is_no_name(store: TokenStore, name: str) -> None:
    with pytest.raises(SpecError):
        store.create(name, Role.READ)
    with pytest.raises(SpecError):
        store.create("ci", Role.READ, vpcs=["vpc-A"])
    assert not store.path.exists()


def test_secrets_in_a_text_are_cut() -> None:
    secret = "0123456789abcdef" * 4
    text = f"GET /v1/lva_0123456789ab_{secret}?x=lva_{secret} lva_ and more"
    assert tokens.scrub(text) == "GET /v1/lva_0123456789ab...?x=lva_0123456789ab... lva_... and more"
    assert tokens.scrub("nothing here") == "nothing here"
