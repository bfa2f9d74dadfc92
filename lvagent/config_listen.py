"""The settings of the TCP listener, which make sense only together.

A password-like token goes over this connection, and what it opens is worth root on this host. So TLS may be left out
only where nobody listens on the way: on a loopback address.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

from lvagent.errors import SpecError

FORM = '"127.0.0.1:7443", "[::1]:7443", "[::]:7443": an IP address and a port'


class ListenSettings(Protocol):
    """The part of ``config.Api`` that is looked at here."""

    @property
    def listen(self) -> str: ...
    @property
    def tls_cert(self) -> str: ...
    @property
    def tls_key(self) -> str: ...
    @property
    def tls_client_ca(self) -> str: ...
    @property
    def hosts(self) -> Sequence[str]: ...
    @property
    def origins(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.host.version == 6 else f"{self.host}:{self.port}"


def address_of(listen: str) -> Address:
    """The address that ``api.listen`` names.

    :raise SpecError: it names none.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", listen)
    try:
        if match is None or int(match[3]) > 65_535:
            raise ValueError
        host = ip_address(match[1] or match[2])
        if (host.version == 6) is not bool(match[1]):
            raise ValueError
    except ValueError:
        raise SpecError("api.listen", f"{listen!r} cannot be", FORM) from None
    return Address(host, int(match[3]))


def check_listen(api: ListenSettings) -> None:
    """Look at the settings of the listener together.

    :raise SpecError: they contradict each other, or would carry tokens in the clear.
    """
    _check_names(api)
    if not api.listen:
        for name in ("tls_cert", "tls_key", "tls_client_ca", "hosts"):
            if getattr(api, name):
                raise SpecError(f"api.{name}", "is set, and there is no TCP listener", "set api.listen too")
        return
    address = address_of(api.listen)
    if not address.port:
        raise SpecError("api.listen", f"{api.listen!r} has no port", FORM)
    _check_tls(api, address)


def _check_tls(api: ListenSettings, address: Address) -> None:
    for name, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("tls_client_ca", "tls_cert")):
        if getattr(api, name) and not getattr(api, other):
            raise SpecError(f"api.{other}", f"is empty, and api.{name} is set", "a PEM file")
    for name in ("tls_cert", "tls_key", "tls_client_ca"):
        if getattr(api, name) and not getattr(api, name).startswith("/"):
            raise SpecError(f"api.{name}", "is not an absolute path", "begin with /")
    if not api.tls_cert and not address.host.is_loopback:
        hint = "set it and api.tls_key, or listen on 127.0.0.1 or [::1]"
        raise SpecError("api.tls_cert", f"is empty, and {address.host} is not a loopback address", hint)


def _check_names(api: ListenSettings) -> None:
    for host in api.hosts:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?", host) and not _is_ip(host):
            raise SpecError(
                "api.hosts", f"{host!r} cannot be", "DNS names in lower case or IP addresses, without ports"
            )
    for origin in api.origins:
        if not re.fullmatch(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?", origin):
            raise SpecError(
                "api.origins", f"{origin!r} cannot be", "https://console.example, without path, in lower case"
            )


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
