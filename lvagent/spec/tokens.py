"""Bearer tokens as values: ``lva_<id>_<secret>``, and what is kept of one.

The secret has 256 random bits, so a plain SHA-256 keeps it: there is nothing to guess that a slow hash would protect.
The beginning ``lva_`` lets scanners of repositories and logs recognise one.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
from dataclasses import dataclass

from lvagent.errors import SpecError
from lvagent.spec.access import Caller, Role

ID = re.compile(r"[0-9a-f]{12}\Z")
MAX_NAME = 64
ID_BYTES = 6
SECRET_BYTES = 32

_TEXT = re.compile(r"lva_([0-9a-f]{12})_([0-9a-f]{64})\Z")
_ANYWHERE = re.compile(r"(lva_[0-9a-f]{0,12})[0-9A-Za-z_]*")
_SPAN = re.compile(r"([1-9][0-9]{0,5})([dhm])\Z")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_NOBODY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept. ``digest``: SHA-256 of its secret in hex. Times are RFC 3339; ``expires_at`` None: never.

    ``vpcs`` None: it is limited to none.
    """

    id: str
    name: str
    role: Role
    vpcs: tuple[str, ...] | None
    created_at: str
    expires_at: str | None
    digest: str

    def expired(self, now: datetime.datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and datetime.datetime.fromisoformat(self.expires_at) <= now

    @property
    def caller(self) -> Caller:
        """Who shows it."""
        return Caller(self.role, None if self.vpcs is None else frozenset(self.vpcs), self.id, self.name)


def text_of(ident: str, secret: str) -> str:
    """The token as its bearer has it."""
    return f"lva_{ident}_{secret}"


def split(text: str) -> tuple[str, str] | None:
    """The id and the secret of a token's text; None if it has not the form of one."""
    match = _TEXT.match(text)
    return (match[1], match[2]) if match else None


def digest_of(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(token: Token | None, secret: str) -> bool:
    """Whether this is the token's secret. It takes as long for no token as for a wrong secret."""
    kept = _NOBODY if token is None else token.digest
    return hmac.compare_digest(kept, digest_of(secret)) and token is not None


def scrub(text: str) -> str:
    """A text for a log, without the secrets of tokens that somebody put where they do not belong."""
    return _ANYWHERE.sub(r"\1...", text)


def check_name(name: str) -> str:
    """A name that people can tell tokens apart by.

    :raise SpecError: it is empty, too long, or has control characters.
    """
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise SpecError("name", "is no name for a token", f"1 to {MAX_NAME} printable characters")
    return name


def expiry(text: str, now: datetime.datetime) -> str | None:
    """When a token ends, as RFC 3339.

    :param text: ``30d``, ``12h``, ``45m``, or RFC 3339 with an offset; empty: never.
    :raise SpecError: it is none of these, or lies in the past.
    """
    if not text:
        return None
    hint = "30d, 12h, 45m, or RFC 3339 with an offset: 2030-01-31T12:00:00Z"
    span = _SPAN.match(text)
    try:
        end = now + datetime.timedelta(**{_UNITS[span[2]]: int(span[1])}) if span else _moment(text)
    except (ValueError, OverflowError):
        raise SpecError("expires", f"{text[:60]!r} is no time", hint) from None
    if end <= now:
        raise SpecError("expires", f"{text[:60]!r} is in the past", hint)
    return rfc3339(end)


def _moment(text: str) -> datetime.datetime:
    found = datetime.datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("no offset")
    return found


def rfc3339(moment: datetime.datetime) -> str:
    """A moment, to the second, in UTC."""
    return moment.astimezone(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
