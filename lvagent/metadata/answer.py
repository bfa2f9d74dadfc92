"""Which answer a request gets: a pure function of the request and of who asks.

Who asks is known from the namespace and the source address before this is called; nothing in a request is believed
about it. An address that no guest has gets 404 with nothing in it, whatever it asks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lvagent.metadata.http import Answer, Request
from lvagent.metadata.tokens import TTL_MOST, Tokens
from lvagent.plan.resources import Guest
from lvagent.render.metadata import EC2_VERSIONS, document

TOKEN_FIELD = "x-aws-ec2-metadata-token"
TTL_FIELD = "x-aws-ec2-metadata-token-ttl-seconds"

_TOKEN_PATHS = tuple([version, "api", "token"] for version in EC2_VERSIONS)


@dataclass(frozen=True, slots=True)
class Asker:
    """A guest that asks, in the namespace with this inode."""

    namespace: int
    guest: Guest

    @property
    def audience(self) -> str:
        """Who a token is for."""
        return f"{self.namespace}/{self.guest.vm}"


def answer(request: Request, asker: Asker | None, tokens: Tokens) -> Answer:
    """Answer a request.

    :param asker: None: an address that belongs to no guest.
    """
    if asker is None:
        return Answer(404)
    if [segment for segment in request.path.split("/") if segment] in _TOKEN_PATHS:
        return _token(request, asker, tokens)
    if request.method not in ("GET", "HEAD"):
        return Answer(405, fields={"Allow": "GET, HEAD"})
    if TOKEN_FIELD in request.fields and not tokens.valid(asker.audience, request.one(TOKEN_FIELD) or ""):
        return Answer(401)
    found = document(asker.guest, request.path)
    return Answer(404) if found is None else Answer(200, found.body, found.media)


def _token(request: Request, asker: Asker, tokens: Tokens) -> Answer:
    """A PUT that came through a proxy is refused: whoever sent it may not be in the guest (EC2's IMDSv2 does so)."""
    if request.method != "PUT":
        return Answer(405, fields={"Allow": "PUT"})
    if "x-forwarded-for" in request.fields:
        return Answer(403)
    text = request.one(TTL_FIELD) or ""
    ttl = int(text) if re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) else 0
    if not 1 <= ttl <= TTL_MOST:
        return Answer(400)
    issued = tokens.issue(asker.audience, ttl)
    return Answer(200, issued.encode("ascii"), fields={"X-aws-ec2-metadata-token-ttl-seconds": str(ttl)}, near=True)
