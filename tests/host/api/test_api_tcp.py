"""The API on TCP: TLS, tokens, places, and clients that are slow, greedy or hostile."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lvagent.api.app import create_app
from lvagent.api.doors import TokenDoor
from lvagent.api.operations import Operations
from lvagent.api.server import ApiServer
from lvagent.api.tcp import TcpListener, source_of
from lvagent.config import Api, Settings
from lvagent.errors import HostError, SpecError, Unavailable
from lvagent.host.tokens import TokenStore
from lvagent.spec.access import Role
from tests.host.api.certificates import Authority
from tests.host.api.served import serving
from tests.lab.aside import until
from tests.lab.http import Answer, request
from tests.unit.api.doors import Lines
from tests.unit.api.fake_agent import FakeAgent
from tests.unit.api.specs import full, vm

pytestmark = pytest.mark.host

TREE = Path(__file__).parents[3]
VM1 = "/v1/vms/i-0000000001"
PLAIN = "127.0.0.1:0"


class Served:
    """A server with both doors under test, its agent, and clients of it."""

    def __init__(self, folder: Path, api: Api) -> None:
        self.folder = folder
        self.agent = FakeAgent()
        self.audit = Lines()
        self.store = TokenStore(folder / "state")
        settings = Settings(api=api)
        operations = Operations(most=api.operations)
        local = create_app(self.agent, settings, operations, audit=self.audit)
        door = TokenDoor(api, self.store)
        remote = create_app(self.agent, settings, operations, door=door, audit=self.audit)
        self.server = ApiServer(local, settings, remote)
        self.host = api.listen.rsplit(":", 1)[0].strip("[]")

    @property
    def port(self) -> int:
        assert self.server.tcp is not None
        return self.server.tcp.port

    @property
    def url(self) -> str:
        return f"{'[::1]' if ':' in self.host else self.host}:{self.port}"

    def token(self, role: Role = Role.ADMIN) -> str:
        return self.store.create("test", role)[1]

    def raw(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=20)

    def call(
        self, method: str, path: str, token: str = "", body: object = None, *, tls: ssl.SSLContext | None = None
    ) -> Answer:
        with contextlib.closing(self.connection(tls)) as connection:
            return ask(connection, method, path, token, body)

    def connection(self, tls: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
        if tls is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=30)
        return http.client.HTTPSConnection(self.host, self.port, timeout=30, context=tls)

    def local(self, method: str, path: str, body: object = None) -> Answer:
        return request(str(self.folder / "api.sock"), method, path, body, timeout=30, headers={})


def ask(connection: http.client.HTTPConnection, method: str, path: str, token: str, body: object = None) -> Answer:
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, path, raw, headers)
    answer = connection.getresponse()
    return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def answered(client: socket.socket) -> tuple[int, dict[str, object]]:
    answer = http.client.HTTPResponse(client)
    answer.begin()
    return answer.status, json.loads(answer.read())


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    with serving(Served, tmp_path) as start:
        yield lambda listen=PLAIN, **api: start(listen=listen, **{"slow": 2, **api})


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "authority")


@pytest.fixture(scope="module")
def tls(authority: Authority) -> dict[str, str]:
    """The settings of a server with a certificate."""
    cert, key = authority.sign("server", "serverAuth", "IP:127.0.0.1,IP:::1")
    return {"tls_cert": str(cert), "tls_key": str(key)}


@pytest.fixture
def trust(authority: Authority) -> ssl.SSLContext:
    """A client's context that trusts the authority."""
    return ssl.create_default_context(cafile=str(authority.cert))


# who is let in


@pytest.mark.parametrize("listen", [PLAIN, "[::1]:0"])
def test_a_token_opens_and_nothing_else_does(serve: Callable[..., Served], listen: str) -> None:
    served = serve(listen)
    assert served.call("GET", "/healthz").json == {"status": "ok"}
    for token in ("", "lva_" + "0" * 12 + "_" + "0" * 64):
        refused = served.call("GET", "/v1/vms", token)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
    token = served.token()
    assert served.call("PUT", VM1, token, vm()).status == 201
    assert served.call("DELETE", VM1, served.token(Role.OPERATE)).status == 403
    assert served.local("GET", VM1).json["id"] == "i-0000000001"
    served.store.revoke(token.split("_")[1])
    assert served.call("GET", VM1, token).status == 401


def test_a_header_cannot_make_somebody_local(serve: Callable[..., Served]) -> None:
    served = serve()
    for name in (
        "X-Remote-Uid",
        "X_REMOTE_UID",
        "Remote-User",
        "lvagent.local_address",
        "X-Forwarded-For",
        "Remote-Addr",
    ):
        with contextlib.closing(served.connection()) as connection:
            connection.request("GET", "/v1/vms", headers={name: "0"})
            assert connection.getresponse().status == 401


def test_the_line_has_the_address_and_the_log_no_secret(
    serve: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    served = serve()
    token = served.token()
    served.call("PUT", VM1, token, full())
    served.call("PUT", VM1, token[:-1], full())
    served.call("GET", f"/{token}", token)
    served.call("POST", "/v1/vms", token, b"{")
    served.local("DELETE", VM1)
    assert [(line.get("address"), line.get("uid"), line["status"]) for line in served.audit.lines] == [
        ("127.0.0.1", None, 201),
        ("127.0.0.1", None, 401),
        ("127.0.0.1", None, 422),
        (None, os.geteuid(), 204),
    ]
    assert served.audit.lines[3]["pid"] == os.getpid()
    written = caplog.text + json.dumps(served.audit.lines)
    assert "PUT" in caplog.text
    for secret in (token.split("_")[2], "swordfish"):
        assert secret not in written


def test_an_application_without_tokens_is_not_for_tcp(serve: Callable[..., Served]) -> None:
    with pytest.raises(TypeError):
        TcpListener(create_app(FakeAgent(), Settings()), Settings(api=Api(listen=PLAIN)))


def test_a_token_file_of_somebody_else_closes_the_door(serve: Callable[..., Served]) -> None:
    served = serve()
    token = served.token()
    os.chown(served.store.path, 65534, -1)
    with pytest.raises(Unavailable):
        served.store.find(token)
    assert served.call("GET", "/v1/vms", token).status == 503
    assert served.call("PUT", VM1, token, vm()).status == 503
    assert served.agent.calls == []


def test_a_name_that_was_pointed_at_us_is_not_ours(serve: Callable[..., Served]) -> None:
    served = serve()
    token = served.token()
    for host, status in (
        (f"127.0.0.1:{served.port}", 200),
        ("localhost", 200),
        ("evil.example", 421),
        ("127.0.0.2", 421),
    ):
        with contextlib.closing(served.connection()) as connection:
            connection.request("GET", "/v1/vms", headers={"Host": host, "Authorization": f"Bearer {token}"})
            assert connection.getresponse().status == status
    with served.raw() as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert answered(client)[0] == 421


# TLS


def test_over_tls(serve: Callable[..., Served], tls: dict[str, str], trust: ssl.SSLContext) -> None:
    served = serve(**tls)
    token = served.token()
    assert served.call("PUT", VM1, token, vm(), tls=trust).status == 201
    with contextlib.closing(served.connection(trust)) as kept:
        for _ in range(3):
            assert ask(kept, "GET", VM1, token).status == 200
        big = json.dumps(vm(2)).encode() + b" " * 900_000
        assert ask(kept, "POST", "/v1/vms", token, big).status == 201
        assert ask(kept, "GET", "/v1/vms", token).status == 200


def test_requests_that_come_in_one_record_are_all_answered(
    serve: Callable[..., Served], tls: dict[str, str], trust: ssl.SSLContext
) -> None:
    """What TLS has taken from the socket no selector tells of: here the second request, when the first is answered.

    A record has 16384 bytes at most, and 8192 are read of it at once.
    """
    served = serve(**tls, slow=20)
    head = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Pad: "
    line = head + b"x" * (8192 - len(head) - 4) + b"\r\n\r\n"
    with trust.wrap_socket(served.raw(), server_hostname="127.0.0.1") as client:
        client.settimeout(10)
        client.sendall(line * 2)
        found = b""
        while found.count(b'{"status": "ok"}') < 2:
            got = client.recv(1 << 16)
            assert got
            found += got


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_tls_is_refused(serve: Callable[..., Served], tls: dict[str, str], version: ssl.TLSVersion) -> None:
    served = serve(**tls)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.minimum_version = old.maximum_version = version
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        served.call("GET", "/healthz", tls=old)


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256"])
def test_old_ciphers_are_refused(
    serve: Callable[..., Served], tls: dict[str, str], trust: ssl.SSLContext, cipher: str
) -> None:
    served = serve(**tls)
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    assert served.call("GET", "/healthz", tls=trust).status == 200
    trust.set_ciphers(f"{cipher}:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="ALERT_HANDSHAKE_FAILURE"):
        served.call("GET", "/healthz", tls=trust)


def test_plain_http_to_the_tls_port_is_told_so(serve: Callable[..., Served], tls: dict[str, str]) -> None:
    served = serve(**tls)
    refused = served.call("GET", "/healthz", served.token())
    assert (refused.status, refused.json["detail"]) == (400, "this port speaks TLS: use https")
    assert served.agent.calls == []


def test_clients_show_certificates_if_they_must(
    serve: Callable[..., Served], tls: dict[str, str], authority: Authority, tmp_path: Path
) -> None:
    served = serve(**tls, tls_client_ca=str(authority.cert))
    token = served.token()
    stranger = Authority(tmp_path, "stranger")

    def client(*files: Path) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(authority.cert))
        if files:
            made.load_cert_chain(*files)
        return made

    mine = authority.sign("mine", "clientAuth", "DNS:me")
    assert served.call("GET", "/v1/vms", token, tls=client(*mine)).status == 200
    assert served.call("GET", "/v1/vms", tls=client(*mine)).status == 401
    servers = authority.sign("no-client", "serverAuth", "DNS:me")
    for files in ((), stranger.sign("other", "clientAuth", "DNS:me"), servers):
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            served.call("GET", "/v1/vms", token, tls=client(*files))


def test_files_that_cannot_be_used_stop_the_start(tmp_path: Path, tls: dict[str, str], authority: Authority) -> None:
    _, other_key = authority.sign("another", "serverAuth", "DNS:x")
    open_key, locked_key = tmp_path / "open.key", tmp_path / "locked.key"
    open_key.write_bytes(Path(tls["tls_key"]).read_bytes())
    open_key.chmod(0o644)
    locked = ["openssl", "ec", "-in", tls["tls_key"], "-aes128", "-passout", "pass:x", "-out", str(locked_key)]
    subprocess.run(locked, check=True, capture_output=True)
    for changed, path, why in (
        ({"tls_cert": str(tmp_path / "absent")}, "api.tls_cert", "No such file"),
        ({"tls_cert": tls["tls_key"]}, "api.tls_cert", "cannot be used with its key"),
        ({"tls_key": str(other_key)}, "api.tls_cert", "cannot be used with its key"),
        ({"tls_key": str(locked_key)}, "api.tls_cert", "cannot be used with its key"),
        ({"tls_key": str(open_key)}, "api.tls_key", "open to everybody"),
        ({"tls_client_ca": tls["tls_key"]}, "api.tls_client_ca", "cannot be used"),
    ):
        with pytest.raises(SpecError) as refused:
            Served(tmp_path, Api(socket=str(tmp_path / "s"), group="", listen=PLAIN, **{**tls, **changed}))
        assert refused.value.path == path
        assert why in refused.value.message


def test_a_port_that_is_taken_stops_the_start_and_leaves_no_socket(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        served = Served(tmp_path, Api(socket=str(tmp_path / "api.sock"), group="", slow=1, listen=listen))
        with pytest.raises(HostError, match="Address already in use"):
            served.server.start()
    assert not (tmp_path / "api.sock").exists()


def test_an_address_that_the_host_has_not_got_yet_is_listened_on(tmp_path: Path) -> None:
    """In a network namespace of the test's own, which is that of the threads begun in it, too."""
    found: list[int] = []

    def listen(host: str) -> None:
        assert ctypes.CDLL(None, use_errno=True).unshare(0x40000000) == 0
        served = Served(tmp_path, Api(socket=str(tmp_path / "api.sock"), group="", slow=1, listen=f"{host}:0"))
        served.server.start()
        found.append(served.local("GET", "/healthz").status)
        served.server.stop()

    for host in ("192.0.2.77", "[2001:db8::77]"):
        thread = threading.Thread(target=listen, args=(host,))
        thread.start()
        thread.join()
    assert found == [200, 200]


# slow, greedy, hostile


class Dripping:
    """Clients that send their TLS hello a byte now and then, until they are told to stop."""

    def __init__(self, served: Served, count: int) -> None:
        self.clients = [served.raw() for _ in range(count)]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._drip)

    def _drip(self) -> None:
        for byte in b"\x16\x03\x01\x02\x00" + b"\x01" * 500:
            for client in self.clients:
                with contextlib.suppress(OSError):
                    client.sendall(bytes([byte]))
            if self._ended.wait(0.1):
                return

    def __enter__(self) -> list[socket.socket]:
        self._thread.start()
        return self.clients

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for client in self.clients:
            client.close()


def test_slow_handshakes_keep_nobody_out(
    serve: Callable[..., Served], tls: dict[str, str], trust: ssl.SSLContext
) -> None:
    """Some say nothing, some send a byte of their hello now and then, some stop in the middle of it."""
    served = serve(**tls, slow=40, threads=40)
    others = [served.raw() for _ in range(10)]
    for client in others[5:]:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
    with Dripping(served, 10) as dripping:
        began = time.monotonic()
        for _ in range(5):
            assert served.call("GET", "/healthz", tls=trust).status == 200
        assert time.monotonic() - began < 30
        for client in (*others, *dripping):
            client.setblocking(False)
            with pytest.raises(BlockingIOError):  # it is still held
                client.recv(1)
    for client in others:
        client.close()


def test_slow_handshakes_end(serve: Callable[..., Served], tls: dict[str, str]) -> None:
    served = serve(**tls, slow=1)
    with served.raw() as stuck, Dripping(served, 5) as dripping:
        stuck.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        for client in (stuck, *dripping):
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(64) == b""


def test_slow_requests_within_tls_end_too(
    serve: Callable[..., Served], tls: dict[str, str], trust: ssl.SSLContext
) -> None:
    served = serve(**tls, slow=3)
    with trust.wrap_socket(served.raw(), server_hostname="127.0.0.1") as client:
        with contextlib.suppress(OSError):
            for byte in b"GET /v1/vms HTTP/1.1\r\nX: " + b"x" * 400:
                client.sendall(bytes([byte]))
                client.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    assert client.recv(64).startswith(b"HTTP/1.1 408")
                    break
            else:
                pytest.fail("it was read to its end, for 20 seconds")


def test_a_slow_body_with_a_token_times_out(serve: Callable[..., Served]) -> None:
    served = serve(slow=1)
    with served.raw() as client:
        head = f"POST /v1/vms HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {served.token()}\r\n"
        client.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert answered(client)[0] == 408


def test_no_body_is_read_of_who_has_no_token(serve: Callable[..., Served]) -> None:
    """He is answered before he has sent it, and gets to read the answer when he has sent all of it."""
    served = serve(slow=30)
    for header in ("Content-Length: 1000000", "Transfer-Encoding: chunked"):
        with served.raw() as client:
            client.sendall(f"POST /v1/vms HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}\r\n\r\n".encode())
            began = time.monotonic()
            assert answered(client)[0] == 401
            assert time.monotonic() - began < 20
    refused = served.call("PUT", VM1, "lva_" + "0" * 12 + "_" + "0" * 64, b" " * 900_000)
    assert refused.status == 401
    assert served.call("PUT", VM1, served.token(), b" " * 900_000).status == 422


def test_one_address_has_few_places_and_others_their_own(serve: Callable[..., Served]) -> None:
    served = serve(address_connections=3, slow=20)
    held = [served.raw() for _ in range(3)]  # they are accepted in their order, before who comes now
    with served.raw() as client:
        status, told = answered(client)
    assert (status, told["detail"]) == (503, "there are too many connections from this address")
    other = socket.create_connection((served.host, served.port), timeout=20, source_address=("127.0.0.9", 0))
    other.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert answered(other) == (200, {"status": "ok"})
    other.close()
    held.pop().close()
    assert until(lambda: served.call("GET", "/healthz").status == 200, 20)
    for client in held:
        client.close()


def test_what_counts_as_one_address() -> None:
    found = [
        source_of(one) for one in ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2:3", "fe80::1%eth0", "x")
    ]
    assert found == ["192.0.2.1", "192.0.2.1", "2001:db8::/64", "2001:db8::/64", "fe80::/64", "x"]


def test_a_flood_on_tcp_leaves_the_unix_socket_alone(serve: Callable[..., Served]) -> None:
    """All places and all threads of TCP are taken, by slow clients and by idle ones; and more keep coming."""
    served = serve(threads=4, slow=40, address_connections=1000)
    served.agent.gate.clear()
    token = served.token()
    waiting = [served.raw() for _ in range(3)]
    for number, client in enumerate(waiting, 1):
        body = json.dumps(vm(number)).encode()
        head = f"POST /v1/vms HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    slow = [served.raw() for _ in range(13)]
    for client in slow:
        client.sendall(b"GET ")
    ended = threading.Event()

    def knock() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError), served.raw() as client:
                client.recv(1)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(knock)
        time.sleep(0.3)
        began = time.monotonic()
        assert [served.local("GET", "/v1/vms").status for _ in range(20)] == [200] * 20
        assert time.monotonic() - began < 20
        served.agent.gate.set()
        assert served.local("PUT", "/v1/vms/i-0000000009", vm(9)).status == 201
        ended.set()
    for client in (*waiting, *slow):
        client.close()


def test_turning_away_takes_no_time(serve: Callable[..., Served]) -> None:
    """Nobody waits for a client that there is no place for: not for what it sends, nor for it to read."""
    served = serve(threads=1, slow=60, address_connections=1000)
    held = [served.raw() for _ in range(3)]
    kept = served.connection()
    assert ask(kept, "GET", "/healthz", "").status == 200
    turned = [served.raw() for _ in range(60)]
    began = time.monotonic()
    assert {ask(kept, "GET", "/healthz", "").status for _ in range(30)} == {200}
    assert time.monotonic() - began < 15
    for client in (*held, *turned):
        client.close()
    kept.close()


def test_junk_is_no_reason_to_stop(
    serve: Callable[..., Served], tls: dict[str, str], trust: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve(**tls)
    for raw in (b"", b"\x16", b"\x16\x03\x01\x00\x05junk!", b"\x00" * 100, b"GET / HTTP/1.1\r\n\r\n", os.urandom(5000)):
        with served.raw() as client, contextlib.suppress(OSError):
            client.sendall(raw)
            client.shutdown(socket.SHUT_WR)
            while client.recv(1 << 16):
                pass
    with contextlib.suppress(OSError), trust.wrap_socket(served.raw(), server_hostname="127.0.0.1") as client:
        bare = socket.socket(fileno=os.dup(client.fileno()))
        bare.sendall(b"\x17\x03\x03\x00\x05junk!")
        bare.close()
        client.recv(1)
    assert served.call("GET", "/healthz", tls=trust).status == 200
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_threads_and_descriptors_are_given_back(
    serve: Callable[..., Served], tls: dict[str, str], trust: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lvagent.api.workers.IDLE_SECONDS", 0.2)
    served = serve(**tls, slow=10)
    served.call("GET", "/healthz", tls=trust)
    time.sleep(0.5)
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(10) as pool:
        codes = list(pool.map(lambda _: served.call("GET", "/healthz", tls=trust).status, range(60)))
        for _ in range(20):
            served.raw().close()
    assert codes == [200] * 60
    assert until(lambda: len(os.listdir("/proc/self/fd")) <= before, 30)
    assert served.server.tcp is not None
    assert served.server.tcp._sources == {}


# the command line


def test_the_command_line_over_tls(serve: Callable[..., Served], tls: dict[str, str], authority: Authority) -> None:
    served = serve(**tls, tls_client_ca=str(authority.cert))
    cert, key = authority.sign("cli", "clientAuth", "DNS:cli")
    both, file = served.folder / "both.pem", served.folder / "token"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    token = served.token()
    file.write_text(f"{token}\n")

    def run(*args: str, stdin: str = "", **env: str) -> tuple[int, str, str]:
        argv = [sys.executable, "-m", "lvagent", *args]
        environment = {**os.environ, "LVAGENT_URL": f"https://{served.url}", "LVAGENT_CERT": str(both), **env}
        done = subprocess.run(
            argv, cwd=TREE, env=environment, input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stdout, done.stderr

    trusted = ("--cacert", str(authority.cert))
    assert run(*trusted, "--token-file", str(file), "vm", "ls")[:2] == (0, "there are no VMs\n")
    made = run(*trusted, "vm", "create", "-f", "-", stdin=json.dumps(vm()), LVAGENT_TOKEN=token)
    assert (made[0], "i-0000000001 created, running" in made[1]) == (0, True)
    denied = run(*trusted, "vm", "delete", "i-0000000001", LVAGENT_TOKEN=served.token(Role.READ))
    assert (denied[0], denied[2].splitlines()[0]) == (6, "error: this needs the role admin; the token has read")
    assert run(*trusted, "vm", "ls", LVAGENT_TOKEN="lva_x")[0] == 6
    untrusted = run("vm", "ls", LVAGENT_TOKEN=token)
    assert (untrusted[0], "--cacert" in untrusted[2]) == (5, True)
    uncertified = run(*trusted, "vm", "ls", LVAGENT_TOKEN=token, LVAGENT_CERT="")
    assert uncertified[0] == 5
    for _, out, err in (made, denied, untrusted, uncertified):
        assert token.split("_")[2] not in out + err


def test_events_over_tls_end_with_their_token(
    serve: Callable[..., Served], tls: dict[str, str], authority: Authority
) -> None:
    served = serve(**tls)
    news = served.agent.follow()
    token = served.token(Role.READ)
    argv = [sys.executable, "-m", "lvagent", "--url", f"https://{served.url}", "--cacert", str(authority.cert)]
    argv += ["events", "-o", "json", "--after", f"{news.epoch}.0"]
    news.publish("i-0000000001", "crashed", reason="killed")
    environment = {**os.environ, "LVAGENT_TOKEN": token}
    with subprocess.Popen(argv, cwd=TREE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        assert client.stdout is not None
        event = json.loads(client.stdout.readline())
        assert (event["id"], event["vm"], event["type"]) == (f"{news.epoch}.1", "i-0000000001", "crashed")
        served.store.revoke(token.split("_")[1])
        _, complaint = client.communicate(timeout=30)
    assert (client.returncode, b"the stream ended" in complaint) == (5, True)
    news.close()
