"""The settings of the TCP listener: combinations that would carry tokens in the clear do not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvagent.config import load
from lvagent.config_listen import address_of
from lvagent.errors import SpecError

CERT = {"tls_cert": "/etc/c.pem", "tls_key": "/etc/k.pem"}


def settings(tmp_path: Path, **api: object) -> Path:
    path = tmp_path / "lvagent.toml"
    lines = [
        f"{name} = {list(value)!r}" if isinstance(value, tuple) else f'{name} = "{value}"'
        for name, value in api.items()
    ]
    path.write_text("\n".join(["[api]", *lines]))
    return path


@pytest.mark.parametrize(
    "api",
    [
        {"listen": "127.0.0.1:7443"},
        {"listen": "127.9.9.9:1"},
        {"listen": "[::1]:65535"},
        {"listen": "192.0.2.1:7443", **CERT},
        {"listen": "0.0.0.0:7443", **CERT},
        {"listen": "[::]:7443", **CERT, "tls_client_ca": "/etc/ca.pem"},
        {
            "listen": "127.0.0.1:7443",
            "hosts": ("api.example", "192.0.2.5", "fd00::1", "a"),
            "origins": ("https://x.example:8443",),
        },
        {"origins": ("http://[::1]:80",)},
    ],
)
def test_what_can_be(tmp_path: Path, api: dict[str, object]) -> None:
    found = load(settings(tmp_path, **api), {}).api
    assert all(getattr(found, name) == value for name, value in api.items())


@pytest.mark.parametrize(
    ("api", "path", "hint"),
    [
        ({"listen": "7443"}, "api.listen", "an IP address and a port"),
        ({"listen": "localhost:7443"}, "api.listen", "an IP address and a port"),
        ({"listen": "127.0.0.1"}, "api.listen", "an IP address and a port"),
        ({"listen": "127.0.0.1:0"}, "api.listen", "an IP address and a port"),
        ({"listen": "127.0.0.1:65536"}, "api.listen", "an IP address and a port"),
        ({"listen": "::1:7443"}, "api.listen", "an IP address and a port"),
        ({"listen": "[127.0.0.1]:7443"}, "api.listen", "an IP address and a port"),
        ({"listen": "256.0.0.1:7443"}, "api.listen", "an IP address and a port"),
        ({"listen": "192.0.2.1:7443"}, "api.tls_cert", "or listen on 127.0.0.1"),
        ({"listen": "0.0.0.0:7443"}, "api.tls_cert", "or listen on 127.0.0.1"),
        ({"listen": "[::]:7443"}, "api.tls_cert", "or listen on 127.0.0.1"),
        ({"listen": "[::ffff:192.0.2.1]:7443"}, "api.tls_cert", "or listen on 127.0.0.1"),
        ({"listen": "127.0.0.1:7443", "tls_cert": "/c"}, "api.tls_key", "a PEM file"),
        ({"listen": "127.0.0.1:7443", "tls_key": "/k"}, "api.tls_cert", "a PEM file"),
        ({"listen": "127.0.0.1:7443", "tls_client_ca": "/ca"}, "api.tls_cert", "a PEM file"),
        ({"listen": "127.0.0.1:7443", "tls_cert": "c.pem", "tls_key": "/k"}, "api.tls_cert", "begin with /"),
        (CERT, "api.tls_cert", "set api.listen too"),
        ({"tls_client_ca": "/ca"}, "api.tls_client_ca", "set api.listen too"),
        ({"hosts": ("api.example",)}, "api.hosts", "set api.listen too"),
        ({"listen": "127.0.0.1:1", "hosts": ("api.example:7443",)}, "api.hosts", "without ports"),
        ({"listen": "127.0.0.1:1", "hosts": ("API.example",)}, "api.hosts", "lower case"),
        ({"listen": "127.0.0.1:1", "hosts": ("*",)}, "api.hosts", "without ports"),
        ({"origins": ("*",)}, "api.origins", "without path"),
        ({"origins": ("null",)}, "api.origins", "without path"),
        ({"origins": ("https://x.example/",)}, "api.origins", "without path"),
        ({"address_connections": "5"}, "api.address_connections", ""),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, api: dict[str, object], path: str, hint: str) -> None:
    with pytest.raises(SpecError) as refused:
        load(settings(tmp_path, **api), {})
    assert refused.value.path == path
    assert hint in refused.value.hint


def test_an_address_reads_as_it_is_written() -> None:
    assert [str(address_of(text)) for text in ("127.0.0.1:7443", "[::1]:1")] == ["127.0.0.1:7443", "[::1]:1"]
