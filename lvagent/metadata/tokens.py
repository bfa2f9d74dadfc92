"""Session tokens of IMDSv2: a token proves that its bearer could send a PUT from inside the guest.

A token is an expiry and a MAC over (audience, expiry), so nothing is stored and no guest can fill a table. The audience
is the namespace and the VM: a token of another guest is worth nothing, even if it has the same address in another VPC.
The key lives as long as this service; after a restart clients meet 401 and ask for a new token, as they do at expiry.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
import time
from collections.abc import Callable

TTL_MOST = 21_600
"""Seconds; the longest that EC2 allows."""

_EXPIRY = struct.Struct("!Q")
_MAC_SIZE = 32


class Tokens:
    """Issues tokens and recognizes them.

    :param clock: seconds that never go backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, key: bytes | None = None) -> None:
        self._clock = clock
        self._key = key or secrets.token_bytes(32)

    def issue(self, audience: str, ttl: int) -> str:
        """A token for this audience.

        :param ttl: seconds, 1..21600.
        :raise ValueError: another ttl.
        """
        if not 1 <= ttl <= TTL_MOST:
            raise ValueError(f"a token lives 1 to {TTL_MOST} seconds, not {ttl}")
        expiry = _EXPIRY.pack(int(self._clock() * 1000) + ttl * 1000)
        return base64.urlsafe_b64encode(expiry + self._mac(audience, expiry)).decode("ascii")

    def valid(self, audience: str, token: str) -> bool:
        """Whether the token was issued here to this audience and has not expired. Takes the same time for any MAC."""
        try:
            raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            return False
        if len(raw) != _EXPIRY.size + _MAC_SIZE:
            return False
        expiry = raw[: _EXPIRY.size]
        genuine = hmac.compare_digest(raw[_EXPIRY.size :], self._mac(audience, expiry))
        return genuine and self._clock() * 1000 < _EXPIRY.unpack(expiry)[0]

    def _mac(self, audience: str, expiry: bytes) -> bytes:
        return hmac.digest(self._key, expiry + audience.encode(), hashlib.sha256)
