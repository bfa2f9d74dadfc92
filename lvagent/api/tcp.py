"""The API on TCP, where anybody may knock: behind TLS, and with few places for each address.

Its places, threads and seats to wait on are its own: whatever is done to it, the unix socket has all of its own left.
"""

from __future__ import annotations

import socket
from collections import Counter
from ipaddress import IPv6Address, ip_address, ip_network

from flask import Flask

from lvagent.api.app import parts_of
from lvagent.api.connection import Connection
from lvagent.api.doors import LOCAL_ADDRESS, TokenDoor
from lvagent.api.listener import Listener
from lvagent.api.tls import server_context
from lvagent.config import Settings
from lvagent.config_listen import address_of
from lvagent.errors import HostError, Unavailable

IP_FREEBIND = 15
IPV6_FREEBIND = 78
"""linux/in.h, linux/in6.h; ip(7): an address may be bound that the host does not have (yet)."""


class TcpListener(Listener):
    """The server on the address that the settings name.

    :param app: an application behind a ``TokenDoor``.
    :raise SpecError: the TLS files cannot be used.
    """

    def __init__(self, app: Flask, settings: Settings) -> None:
        door = parts_of(app).door
        if not isinstance(door, TokenDoor):
            raise TypeError("an application without tokens is not for TCP")
        self._door = door
        self._address = address_of(settings.api.listen)
        super().__init__((str(self._address.host), self._address.port), app, settings)
        self.tls = server_context(settings.api)
        self._each = settings.api.address_connections
        self._sources: Counter[str] = Counter()

    def prepare(self) -> None:
        """Listen.

        :raise HostError: it cannot.
        """
        try:
            super().prepare()
        except OSError as error:
            why = str(error.__cause__ or error)
            hint = "is the port free? setting api.listen"
            raise HostError(str(self._address), "listen on", why, hint=hint) from error

    @staticmethod
    def bind_socket(made: socket.socket, address: tuple[str, int]) -> socket.socket:
        """Bind, also when the host has not got the address yet: at boot nobody waits for the network to be up."""
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        made.bind(address)
        return made

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.bind_addr[1])

    def takes_body(self, authorization: bytes) -> bool:
        """Of who has no token that holds, no body is read; he is refused by the application, as every other."""
        try:
            return self._door.knows(authorization.decode("latin-1"))
        except Unavailable:
            return False

    def _refusal(self, connection: Connection) -> str:
        source = source_of(connection.remote_addr or "")
        if self._sources[source] >= self._each:
            return "there are too many connections from this address"
        if why := super()._refusal(connection):
            return why
        connection.ssl_env = {LOCAL_ADDRESS: str(connection.socket.getsockname()[0])}
        self._sources[source] += 1
        return ""

    def _left(self, connection: Connection) -> None:
        source = source_of(connection.remote_addr or "")
        self._sources[source] -= 1
        if self._sources[source] <= 0:
            del self._sources[source]


def source_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 that an IPv6 address is in (RFC 6177: a site's least)."""
    try:
        found = ip_address(address.split("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or ip_network((found, 64), strict=False))
