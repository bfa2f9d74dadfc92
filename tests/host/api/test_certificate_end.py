"""When a certificate ends, learnt in a handshake in memory."""

from __future__ import annotations

import dataclasses
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from lvagent.api.tls import server_context
from lvagent.config import Api
from lvagent.host.certificates import expires_at
from tests.host.api.certificates import Authority

DAY = 86_400


@pytest.fixture
def api(tmp_path: Path) -> Api:
    cert, key = Authority(tmp_path, "ca").sign("server", "serverAuth", "DNS:localhost")
    return Api(listen="127.0.0.1:7443", tls_cert=str(cert), tls_key=str(key))


def end_of(path: str) -> float:
    argv = ["openssl", "x509", "-noout", "-enddate", "-in", path]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return ssl.cert_time_to_seconds(text.strip().partition("=")[2])


def test_a_certificate_of_an_authority(api: Api, tmp_path: Path) -> None:
    context = server_context(api)
    assert context is not None
    assert expires_at(context, api.tls_cert) == end_of(api.tls_cert)
    clients = Authority(tmp_path, "clients").cert
    context = server_context(dataclasses.replace(api, tls_client_ca=str(clients)))
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert expires_at(context, api.tls_cert) == end_of(api.tls_cert)


def self_signed(folder: Path, days: int) -> Api:
    """A certificate that ends in so many days; it may have ended already."""
    cert, key, request = (str(folder / f"own.{kind}") for kind in ("pem", "key", "csr"))
    new = ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=own", "-keyout", key, "-out", request]
    sign = ["x509", "-req", "-in", request, "-signkey", key, "-days", str(days), "-out", cert]
    for argv in (new, sign):
        subprocess.run(["openssl", *argv], check=True, capture_output=True)
    Path(key).chmod(0o600)
    return Api(listen="127.0.0.1:7443", tls_cert=cert, tls_key=key)


def test_a_self_signed_one(tmp_path: Path) -> None:
    api = self_signed(tmp_path, 10)
    context = server_context(api)
    assert context is not None
    assert abs(expires_at(context, api.tls_cert) - (time.time() + 10 * DAY)) < 120


def test_one_that_is_over(tmp_path: Path) -> None:
    api = self_signed(tmp_path, -1)
    context = server_context(api)
    assert context is not None
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        expires_at(context, api.tls_cert)
