"""The file of bearer tokens: ``tokens.json`` in the state folder, root's alone.

The command line writes it, the agent reads it: before each use the agent looks with one stat(2) whether it is another
file than the one it has read, so a revoked token ends with the next request. A file that cannot be believed (another
owner, a mode that lets others in, not what we wrote) closes the door: nobody is let in until it is mended. One that is
not there has no tokens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import logging
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lvagent.errors import Conflict, HostError, NotFound, SpecError, Unavailable
from lvagent.host import files
from lvagent.spec import names, tokens
from lvagent.spec.access import Role
from lvagent.spec.tokens import Token

log = logging.getLogger(__name__)

FILE = "tokens.json"
VERSION = 1
MAX_BYTES = 4 << 20
MAX_TOKENS = 5_000

Stamp = tuple[int, int, int, int, int]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class TokenStore:
    """The tokens of one agent. Every method may be called by many threads, and by several processes.

    :param folder: the state folder.
    :param now: the clock.
    """

    def __init__(self, folder: Path, now: Callable[[], datetime.datetime] = _now) -> None:
        self.path = folder / FILE
        self._now = now
        self._lock = threading.Lock()
        self._stamp: Stamp | None = None
        self._known: dict[str, Token] = {}
        self._broken = ""

    # the agent's side

    def find(self, text: str) -> Token | None:
        """The token that has this text; None if there is none, or it has expired.

        :raise Unavailable: the file is there and cannot be believed.
        """
        parts = tokens.split(text)
        known = self._current()
        if parts is None:
            return None
        found = known.get(parts[0])
        if not tokens.matches(found, parts[1]) or found is None or found.expired(self._now()):
            return None
        return found

    def _current(self) -> dict[str, Token]:
        with self._lock:
            try:
                stamp = _stamp(os.lstat(self.path))
            except FileNotFoundError:
                self._stamp, self._known, self._broken = None, {}, ""
                return {}
            except OSError as error:
                raise Unavailable("the token file", hint="the agent's log says why") from error
            if stamp != self._stamp:
                self._reload(stamp)
            if self._broken:
                raise Unavailable("the token file", hint="the agent's log says what is wrong with it")
            return self._known

    def _reload(self, stamp: Stamp) -> None:
        """Read the file again. A mistake in it is logged once, when it is found."""
        self._stamp, self._known, self._broken = stamp, {}, ""
        try:
            self._known = {token.id: token for token in _read(self.path)}
        except FileNotFoundError:
            self._stamp = None
        except (OSError, ValueError) as error:
            self._broken = str(error)
            log.error("%s cannot be used, so nobody is let in over TCP: %s", self.path, error)

    # the command line's side

    def all(self) -> tuple[Token, ...]:
        """All tokens, oldest first; those that have expired among them.

        :raise HostError: the file cannot be read.
        """
        try:
            return _read(self.path)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            raise self._failure("read", error) from error

    def create(self, name: str, role: Role, *, vpcs: Sequence[str] = (), expires: str = "") -> tuple[Token, str]:
        """Make a token.

        :param vpcs: the VPCs that it is limited to; empty: no limit.
        :param expires: as ``spec.tokens.expiry`` reads it.
        :return: the token, and its text, which nobody can tell again.
        :raise SpecError: a name, VPC or time that cannot be.
        :raise HostError: the file cannot be read or written.
        """
        for vpc in vpcs:
            if not names.VPC_NAME.match(vpc):
                raise SpecError("vpc", f"{vpc[:60]!r} is no name of a VPC", '"vpc-" and ten of a-z, 0-9')
        now, secret = self._now(), secrets.token_hex(tokens.SECRET_BYTES)
        made = Token(
            id=secrets.token_hex(tokens.ID_BYTES),
            name=tokens.check_name(name),
            role=role,
            vpcs=tuple(sorted(set(vpcs))) or None,
            created_at=tokens.rfc3339(now),
            expires_at=tokens.expiry(expires, now),
            digest=tokens.digest_of(secret),
        )
        with self._writing() as kept:
            if len(kept) >= MAX_TOKENS:
                raise Conflict(f"there are {len(kept)} tokens", hint="revoke some")
            self._write((*kept, made))
        return made, tokens.text_of(made.id, secret)

    def revoke(self, ident: str) -> Token:
        """Take a token away; a running agent lets it in no more.

        :raise NotFound: there is none of this id.
        :raise HostError: the file cannot be read or written.
        """
        with self._writing() as kept:
            gone = [token for token in kept if token.id == ident]
            if not gone:
                raise NotFound("token", ident[:60], hint="list them with lvagent token ls")
            self._write(tuple(token for token in kept if token.id != ident))
        return gone[0]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[tuple[Token, ...]]:
        """Hold the folder's lock, with what is in the file."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._failure("write", error) from error
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield self.all()
            os.fsync(folder)
        finally:
            os.close(folder)

    def _write(self, kept: Sequence[Token]) -> None:
        document = {"version": VERSION, "tokens": [dataclasses.asdict(token) for token in kept]}
        try:
            files.write(self.path, json.dumps(document, indent=1) + "\n", mode=0o600)
        except OSError as error:
            raise self._failure("write", error) from error

    def _failure(self, action: str, error: Exception) -> HostError:
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        return HostError(str(self.path), action, why, hint="move it away to begin anew; then make all tokens again")


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _read(path: Path) -> tuple[Token, ...]:
    """The tokens of a file.

    :raise OSError: it cannot be read.
    :raise ValueError: it is not to be believed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        _check_file(os.fstat(file.fileno()))
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    try:
        document = json.loads(raw)
        if document["version"] != VERSION:
            raise ValueError("its version is not known")
        return tuple(_token(one) for one in document["tokens"])
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("it is not what lvagent wrote") from error


def _check_file(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is not a regular file")
    if found.st_uid not in (0, os.geteuid()):
        raise ValueError(f"it belongs to uid {found.st_uid}")
    if found.st_mode & 0o077:
        raise ValueError(f"its mode is {stat.S_IMODE(found.st_mode):04o}, not 0600")


def _token(one: dict[str, object]) -> Token:
    """A token as it stands in the file; every field is looked at, for a wrong one could open what should be closed."""
    text = {key: one[key] for key in ("id", "name", "role", "created_at", "digest")}
    vpcs, expires = one["vpcs"], one["expires_at"]
    if not all(isinstance(value, str) for value in text.values()) or not isinstance(expires, str | None):
        raise ValueError("a member of a token has a wrong type")
    if vpcs is not None and not (isinstance(vpcs, list) and vpcs and all(isinstance(vpc, str) for vpc in vpcs)):
        raise ValueError("the VPCs of a token are no list of names")
    found = Token(
        id=str(text["id"]),
        name=str(text["name"]),
        role=Role(str(text["role"])),
        vpcs=None if vpcs is None else tuple(vpcs),
        created_at=str(text["created_at"]),
        expires_at=expires,
        digest=str(text["digest"]),
    )
    if not tokens.ID.match(found.id) or len(found.digest) != 64:
        raise ValueError("a token has no proper id or digest")
    found.expired(_now())
    return found
