"""The doors of the API: who is let in, and as whom.

There are two, and an application has one of them for life: nothing in a request can choose another.

    SocketDoor   the unix socket; its mode says who may open it, and who may is trusted with everything
    TokenDoor    TCP; a bearer token says who somebody is, whatever address he comes from

At both a web page is turned away: a browser that is told to call us sends ``Origin`` (or, after a name was pointed at
our address, a ``Host`` that is not ours; RFC 9110, 7.2), and there is no page that we know of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import Protocol

from lvagent.api.problems import Forbidden, HttpError, Unauthenticated
from lvagent.config import Api
from lvagent.spec.access import Caller, Role
from lvagent.spec.tokens import Token

Environ = Mapping[str, object]
"""A WSGI environment (PEP 3333): headers as ``HTTP_*``, and what the server itself knows under other names."""

LOCAL_ADDRESS = "lvagent.local_address"
"""Where the server puts the address of its own end of a TCP connection."""

_BEARER = re.compile(r"bearer +([!-~]{1,200}) *\Z", re.IGNORECASE)
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]]+))(?::[0-9]{1,5})?\Z")


class Door(Protocol):
    """Decides about requests, by what the server says of the connection and what the headers say."""

    needs_token: bool

    def check_page(self, environ: Environ) -> None:
        """Turn web pages away.

        :raise Forbidden: it comes from a web page that is not among ``api.origins``.
        :raise HttpError: 421, it was meant for another host.
        """

    def caller(self, environ: Environ) -> Caller:
        """Who asks.

        :raise Unauthenticated: nobody who is known.
        :raise Unavailable: that cannot be told at the moment.
        """

    def peer(self, environ: Environ) -> dict[str, object]:
        """Where the request comes from, for the log: ``uid`` and ``pid``, or ``address``."""


class Tokens(Protocol):
    """Who knows the tokens (``host.tokens.TokenStore``)."""

    def find(self, text: str) -> Token | None: ...


def check_origin(environ: Environ, allowed: tuple[str, ...]) -> None:
    """Refuse what comes from a web page.

    :raise Forbidden: it has an ``Origin`` that is not allowed, be it empty.
    """
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and origin not in allowed:
        raise Forbidden("web pages may not call this API", hint="api.origins has those that may")


class SocketDoor:
    """The unix socket: whoever the file's mode lets through may do everything."""

    needs_token = False

    def __init__(self, api: Api) -> None:
        self._origins = api.origins

    def check_page(self, environ: Environ) -> None:
        """See ``Door``. There is no host to be mistaken about."""
        check_origin(environ, self._origins)

    def caller(self, environ: Environ) -> Caller:
        """See ``Door``."""
        return Caller(Role.ADMIN)

    def peer(self, environ: Environ) -> dict[str, object]:
        """See ``Door``: what the kernel says of the process that connected."""
        found = {"uid": environ.get("X_REMOTE_UID"), "pid": environ.get("X_REMOTE_PID")}
        return {name: int(value) for name, value in found.items() if isinstance(value, str)}


class TokenDoor:
    """TCP: whoever has a token is who the token says."""

    needs_token = True

    def __init__(self, api: Api, tokens: Tokens) -> None:
        self._origins = api.origins
        self._hosts = frozenset(_plain_host(host) for host in api.hosts)
        self._tokens = tokens

    def check_page(self, environ: Environ) -> None:
        """See ``Door``."""
        check_origin(environ, self._origins)
        host = _host_of(str(environ.get("HTTP_HOST", "")))
        if host is None or host not in self._hosts | self._own(environ):
            hint = "use the address that the agent listens on, or a name of api.hosts"
            raise HttpError(421, "the Host of the request is not one of this agent", hint=hint)

    def _own(self, environ: Environ) -> frozenset[str]:
        """What a client may call this host without more: the address that it connected to."""
        local = _plain_host(str(environ.get(LOCAL_ADDRESS, "")))
        return frozenset({local, "localhost"} if _is_loopback(local) else {local})

    def caller(self, environ: Environ) -> Caller:
        """See ``Door``."""
        token = self._shown(str(environ.get("HTTP_AUTHORIZATION", "")))
        if token is None:
            raise Unauthenticated
        return token.caller

    def _shown(self, authorization: str) -> Token | None:
        match = _BEARER.match(authorization)
        return self._tokens.find(match[1] if match else "")

    def knows(self, authorization: str) -> bool:
        """Whether it is worth while to read the body of a request with this header.

        :raise Unavailable: that cannot be told at the moment.
        """
        return self._shown(authorization) is not None

    def peer(self, environ: Environ) -> dict[str, object]:
        """See ``Door``."""
        return {"address": _plain_host(str(environ.get("REMOTE_ADDR", "")))}


def _host_of(text: str) -> str | None:
    """The host of a ``Host`` header, without the port; None if it is none."""
    match = _HOST.match(text.lower())
    return _plain_host(match[1] or match[2]) if match else None


def _plain_host(host: str) -> str:
    """A host in one spelling: addresses in their shortest, one that is IPv4 within IPv6 as IPv4."""
    try:
        address = ip_address(host.split("%")[0])
    except ValueError:
        return host.rstrip(".")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
