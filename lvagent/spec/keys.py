"""SSH public keys: the line that goes into a guest's authorized_keys.

A key is looked at down to its blob, because a line that was cut while copying locks its owner out of the guest. Errors
do not repeat what was sent: it may have been the private half.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence

from lvagent.errors import SpecError
from lvagent.spec.limits import MAX_KEY_LENGTH

TYPES = {
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}
"""Each type with the number of fields in its blob, itself among them (RFC 4253, 5656, 8709; OpenSSH PROTOCOL.u2f)."""

_HINT = "one line of a .pub file: type, base64, and a comment if you like"
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}\Z")


def parse_keys(lines: Sequence[str], path: str) -> tuple[str, ...]:
    """The keys in their order, each once, with single spaces between their parts.

    :raise SpecError: at ``path[i]``.
    """
    return tuple(dict.fromkeys(_key(line, f"{path}[{index}]") for index, line in enumerate(lines)))


def _key(line: str, path: str) -> str:
    line = line.strip()
    _check_line(line, path)
    kind, _, rest = line.partition(" ")
    if kind not in TYPES:
        raise SpecError(
            path, "the key does not begin with a type that is known", f"one of {', '.join(TYPES)}; no options"
        )
    coded, _, comment = rest.strip().partition(" ")
    fields = _fields(coded, path)
    if fields[0] != kind.encode():
        raise SpecError(path, f"the key says {kind}, and its base64 holds another type", _HINT)
    if len(fields) != TYPES[kind] or not all(fields[:2]):
        raise SpecError(path, "the key's base64 is not whole", _HINT)
    return " ".join(part for part in (kind, coded, comment.strip()) if part)


def _check_line(line: str, path: str) -> None:
    if "PRIVATE KEY" in line:
        raise SpecError(
            path, "this is a private key", "send the public one (.pub), and make a new pair: this one was shown"
        )
    if not line:
        raise SpecError(path, "the key is empty", _HINT)
    if len(line) > MAX_KEY_LENGTH:
        raise SpecError(path, f"the key has {len(line)} characters", f"at most {MAX_KEY_LENGTH}")
    if not line.isprintable():
        raise SpecError(path, "the key has a line break or another control character", _HINT)


def _fields(coded: str, path: str) -> list[bytes]:
    try:
        if not _BASE64.match(coded):
            raise ValueError
        return list(_split(base64.b64decode(coded, validate=True)))
    except (ValueError, binascii.Error):
        raise SpecError(path, "the key's base64 is not whole", _HINT) from None


def _split(blob: bytes) -> Iterator[bytes]:
    """The fields of a blob, each after its length in four bytes (RFC 4251, 5: string)."""
    while blob:
        end = 4 + int.from_bytes(blob[:4])
        if len(blob) < max(end, 4):
            raise ValueError
        yield blob[4:end]
        blob = blob[end:]
