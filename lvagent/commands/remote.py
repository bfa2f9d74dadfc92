"""The agent's API over TCP: HTTPS with a bearer token."""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from lvagent.commands.client import TIMEOUT, Lines, Reply, Transport, lines
from lvagent.commands.failure import UNREACHABLE, Failure


@dataclass(frozen=True, slots=True)
class Remote:
    """How to reach an agent elsewhere.

    ``url``: ``https://host:port``. ``token``: the text of a token. ``cacert``: PEM of who signed the agent's
    certificate; empty: the system's. ``cert``: PEM of our own with its key; empty: none.
    """

    url: str
    token: str
    cacert: str = ""
    cert: str = ""


def over_tcp(remote: Remote) -> Transport:
    """Requests go to the host and port of a URL.

    :return: a transport; it raises Failure (exit code 5) if no agent answers there.
    :raise Failure: the URL, a file or the token cannot be used. No text of it has the token.
    """
    parts = _parts(remote.url)
    context = _context(remote) if parts.scheme == "https" else None
    if not re.fullmatch(r"[!-~]+", remote.token):
        raise Failure("the token has spaces, or is none", hint="a line lva_..., as lvagent token create printed it")

    def send(method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        with contextlib.closing(_connection(parts, context)) as connection:
            sent = {**headers, "Authorization": f"Bearer {remote.token}"}
            try:
                with contextlib.suppress(BrokenPipeError):  # it was refused before all of it was sent: read why
                    connection.request(method, target, body, sent)
                answer = connection.getresponse()
                fields = {name.lower(): value for name, value in answer.getheaders()}
                return Reply(answer.status, fields, answer.read())
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                raise _unreachable(remote.url, error) from error

    return send


def lines_over_tcp(remote: Remote) -> Lines:
    """GETs go to the host and port of a URL; errors as of ``over_tcp``, and if the agent refuses."""
    parts = _parts(remote.url)
    context = _context(remote) if parts.scheme == "https" else None

    def read(target: str, headers: Mapping[str, str]) -> Iterator[bytes]:
        with contextlib.closing(_connection(parts, context)) as connection:
            sent = {**headers, "Authorization": f"Bearer {remote.token}"}
            try:
                yield from lines(connection, target, sent)
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                raise _unreachable(remote.url, error) from error

    return read


def _connection(parts: SplitResult, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    assert parts.hostname is not None
    if context is None:
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT)
    return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT, context=context)


def _parts(url: str) -> SplitResult:
    """The parts of a URL; a token goes in the clear to nobody but this host."""
    hint = "https://host:port"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Failure("the URL cannot be read", hint=hint) from None
    if parts.scheme not in ("https", "http") or not parts.hostname or not port or parts.path.strip("/"):
        raise Failure("the URL cannot be used", hint=hint)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise Failure("the URL has more than a host and a port", hint=f"{hint}; the token comes from --token-file")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise Failure("a token is not sent over plain HTTP", hint=f"{hint}; http is for 127.0.0.1 and [::1]")
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _context(remote: Remote) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=remote.cacert or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if remote.cert:
            context.load_cert_chain(remote.cert)
    except OSError as error:
        files = " or ".join(path for path in (remote.cacert, remote.cert) if path)
        raise Failure(f"{files} cannot be used: {error.strerror or error}", hint="a PEM file") from error
    return context


def token_of(file: str, text: str) -> str:
    """The token from a file, or from the text of LVAGENT_TOKEN.

    :raise Failure: the file cannot be read, or there is neither.
    """
    if file:
        try:
            return Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise Failure(f"cannot read the token in {file}: {why}") from error
    if text.strip():
        return text.strip()
    raise Failure("there is no token", hint="--token-file FILE, or LVAGENT_TOKEN in the environment")


def _unreachable(url: str, error: Exception) -> Failure:
    why = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
    hint = "is api.listen set there, and may this host connect?"
    if isinstance(error, ssl.SSLCertVerificationError):
        why, hint = error.verify_message, "--cacert FILE has who signed the agent's certificate"
    elif isinstance(error, ssl.SSLError):
        hint = "does the agent speak TLS there, and does it want a certificate (--cert)?"
    elif isinstance(error, TimeoutError):
        hint = "it runs but does not answer: look at its log"
    return Failure(f"the agent does not answer on {url}: {why}", code=UNREACHABLE, hint=hint)
