"""TLS of the TCP listener: 1.2 and 1.3, with forward secrecy and authenticated encryption only.

The certificate, its key and the clients' CA are read once, at start; a renewed one comes with the agent's next start,
which guests do not notice.
"""

from __future__ import annotations

import os
import ssl
import stat

from lvagent.config import Api
from lvagent.errors import SpecError

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2 (openssl-ciphers(1)); those of 1.3 are all of this kind."""


def server_context(api: Api) -> ssl.SSLContext | None:
    """How connections are secured; None: they are not, which the settings allow on a loopback address alone.

    Sessions are not resumed: a client's certificate is looked at each time.

    :raise SpecError: a file cannot be read or used, or the key is open to everybody.
    """
    if not api.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    _load_certificate(context, api)
    if api.tls_client_ca:
        _load_clients_ca(context, api.tls_client_ca)
    return context


def _load_certificate(context: ssl.SSLContext, api: Api) -> None:
    for name in ("tls_cert", "tls_key"):
        _check_file(f"api.{name}", getattr(api, name), secret=name == "tls_key")
    try:
        context.load_cert_chain(api.tls_cert, api.tls_key, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        hint = "a certificate (then those that lead to its CA) and its own key in PEM, the key without a passphrase"
        raise SpecError("api.tls_cert", f"cannot be used with its key: {_reason(error)}", hint) from error


def _load_clients_ca(context: ssl.SSLContext, path: str) -> None:
    _check_file("api.tls_client_ca", path)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise SpecError("api.tls_client_ca", f"cannot be used: {_reason(error)}", "certificates in PEM") from error
    context.verify_mode = ssl.CERT_REQUIRED


def _check_file(name: str, path: str, *, secret: bool = False) -> None:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise SpecError(name, f"cannot read {path}: {error.strerror}", "a PEM file") from error
    if secret and stat.S_IMODE(mode) & 0o007:
        raise SpecError(name, f"{path} is open to everybody", f"chmod o= {path}")


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error).lower().replace("_", " ")
