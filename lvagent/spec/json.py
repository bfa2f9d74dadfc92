"""Strict JSON: what two parsers could read in two ways is refused.

The standard parser takes the last of two equal keys, reads ``NaN``, lets a lone surrogate through and recurses as deep
as its input. Here a document is measured before it is parsed (size, nesting), and looked through after: keys may not
repeat, not even in another spelling (``memoryMB`` and ``memory_mb`` are one key), numbers and strings must be such that
every other parser reads the same (RFC 8259; RFC 7493, "I-JSON").
"""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from typing import NoReturn

from lvagent.errors import SpecError

MAX_DEPTH = 32
"""Lists and objects inside one another."""

MAX_DIGITS = 20
"""Of a whole number; the largest that 64 bits hold has 20."""

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A string, ended or not. It matches at every quote, so that the search never goes back: linear in the input."""
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_OPENING = b"[{"
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}\Z")


class _Pairs(list[tuple[str, object]]):
    """An object as it was written, with its repeated keys."""


class _Refused:
    """A number that was read and cannot be kept; ``why`` says so once its path is known."""

    def __init__(self, why: str, hint: str) -> None:
        self.why = why
        self.hint = hint


def load(raw: bytes, *, max_bytes: int) -> object:
    """Parse one JSON document.

    :param raw: the document, UTF-8 without byte order mark.
    :param max_bytes: the largest document that is looked at, in bytes.
    :raise SpecError: it is no strict JSON; with the JSON path where there is one.
    """
    if len(raw) > max_bytes:
        raise SpecError("", f"the document has {len(raw)} bytes", f"at most {max_bytes}")
    if not raw.strip():
        raise SpecError("", "the document is empty", "send one JSON value")
    _check_depth(raw)
    return _plain(_decode(_text(raw)), "")


def fold(key: str) -> str:
    """A key without case and underscores: what two spellings of one key have in common.

    Only ASCII is folded: there are letters elsewhere whose lower case is an ASCII one (KELVIN SIGN).
    """
    return key.replace("_", "").lower() if key.isascii() else key


def member(path: str, key: str) -> str:
    """The JSON path of an object's member: ``networks[0].ipv4``, or ``networks[0]["a key"]`` for an odd key."""
    if not _PLAIN_KEY.match(key):
        return f"{path}[{quoted(key)}]"
    return f"{path}.{key}" if path else key


def quoted(text: str, limit: int = 60) -> str:
    """A caller's text for an error message: in quotes, on one line, ASCII, cut after ``limit`` characters."""
    return json.dumps(text if len(text) <= limit else text[:limit] + "...")


def _check_depth(raw: bytes) -> None:
    brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    depth = max(accumulate(1 if bracket in _OPENING else -1 for bracket in brackets), default=0)
    if depth > MAX_DEPTH:
        raise SpecError("", f"lists and objects are nested {depth} deep", f"at most {MAX_DEPTH}")


def _text(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise SpecError("", f"byte {error.start} is not UTF-8", "JSON is UTF-8 (RFC 8259)") from None
    if text.startswith("\ufeff"):
        raise SpecError("", "the document begins with a byte order mark", "send it without (RFC 8259, 8.1)")
    return text


def _decode(text: str) -> object:
    try:
        return json.loads(
            text,
            object_pairs_hook=_Pairs,
            parse_int=_integer,
            parse_float=_fraction,
            parse_constant=lambda name: _Refused(f"{name} is not a JSON number", "a finite number (RFC 8259, 6)"),
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise SpecError(
            "", f"this is not JSON: {error.msg} at {where}", "`python3 -m json.tool FILE` shows the place"
        ) from None


def _integer(digits: str) -> int | _Refused:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        return _Refused(f"the number has more than {MAX_DIGITS} digits", "a number of 64 bits")
    return int(digits)


def _fraction(digits: str) -> float | _Refused:
    value = float(digits)
    return (
        value
        if math.isfinite(value)
        else _Refused("the number is too large", "a number that a double can hold (RFC 8259, 6)")
    )


def _plain(value: object, path: str) -> object:
    match value:
        case _Pairs():
            return _object(value, path)
        case list():
            return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
        case str():
            return _string(value, path, "the string")
        case _Refused():
            _refuse(path, value.why, value.hint)
    return value


def _object(pairs: _Pairs, path: str) -> dict[str, object]:
    found: dict[str, object] = {}
    spellings: dict[str, str] = {}
    for key, value in pairs:
        at = member(path, _string(key, path, "a key"))
        first = spellings.setdefault(fold(key), key)
        if first != key:
            _refuse(at, f"{quoted(first)} and {quoted(key)} are the same key", "case and underscores do not count")
        if key in found:
            _refuse(at, f"the key {quoted(key)} is there twice", "say it once")
        found[key] = _plain(value, at)
    return found


def _string(text: str, path: str, what: str) -> str:
    if "\0" in text:
        _refuse(path, f"{what} has a NUL character", "leave \\u0000 out")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        _refuse(path, f"{what} has half a surrogate pair", "both halves, or the character itself in UTF-8")
    return text


def _refuse(path: str, why: str, hint: str) -> NoReturn:
    raise SpecError(path, why, hint)
