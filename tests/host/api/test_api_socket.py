"""The API on a real unix socket: its file, many clients, slow ones, hostile ones, and the end."""

from __future__ import annotations

import contextlib
import grp
import http.client
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lvagent.config import Api
from lvagent.errors import HostError
from tests.host.api.served import Served
from tests.lab.aside import until
from tests.unit.api.specs import vm

pytestmark = pytest.mark.host

VM1 = "/v1/vms/i-0000000001"


def mode_of(path: Path) -> tuple[int, int]:
    found = path.lstat()
    assert stat.S_ISSOCK(found.st_mode)
    return stat.S_IMODE(found.st_mode), found.st_gid


# the file


def test_mode_and_group(serve: Callable[..., Served]) -> None:
    group = grp.getgrnam("daemon")
    served = serve(group="daemon", mode="0660")
    assert mode_of(served.path) == (0o660, group.gr_gid)
    assert served.call("GET", "/healthz").json == {"status": "ok"}


def test_a_group_that_is_not_there_leaves_it_to_the_owner(serve: Callable[..., Served]) -> None:
    served = serve(group="no-such-group", mode="0666")
    assert mode_of(served.path) == (0o600, os.getegid())


def test_the_umask_of_other_threads_stays(serve: Callable[..., Served]) -> None:
    before = os.umask(0o022)
    try:
        served = serve(group="daemon", mode="0666")
        assert mode_of(served.path)[0] == 0o666
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_it_is_never_open_to_others(tmp_path: Path, serve: Callable[..., Served]) -> None:
    """While servers come and go, nobody ever sees a mode with a bit that was not asked for."""
    seen: set[int] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            with contextlib.suppress(FileNotFoundError):
                seen.add(stat.S_IMODE((tmp_path / "api.sock").lstat().st_mode))

    watcher = threading.Thread(target=look)
    watcher.start()
    for count in range(200):  # on a busy machine it may hardly be looked at while it is there
        if count >= 5 and 0o640 in seen:
            break
        serve(mode="0640").server.stop()
    done.set()
    watcher.join()
    assert 0o640 in seen
    assert seen <= {0o640, 0o600}


def test_the_socket_of_a_dead_agent_is_replaced(tmp_path: Path, serve: Callable[..., Served]) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "api.sock"))
    assert serve().call("GET", "/healthz").status == 200


def test_a_second_agent_is_refused_and_the_first_goes_on(tmp_path: Path, serve: Callable[..., Served]) -> None:
    first = serve()
    with pytest.raises(HostError, match="another agent is running"):
        serve()
    assert first.call("GET", "/healthz").status == 200


def test_of_many_that_start_at_once_one_serves(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "api.sock"))
    many = [Served(tmp_path, Api(socket=str(tmp_path / "api.sock"), group="", slow=1)) for _ in range(8)]

    def start(served: Served) -> bool:
        try:
            served.server.start()
        except HostError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        started = list(pool.map(start, many))
    assert started.count(True) == 1
    winner = many[started.index(True)]
    assert winner.call("PUT", VM1, vm()).status == 201
    assert winner.agent.calls == [("put", "i-0000000001")]
    winner.server.stop()


def test_what_is_no_socket_is_left_alone(tmp_path: Path, serve: Callable[..., Served]) -> None:
    path = tmp_path / "api.sock"
    path.write_text("precious")
    with pytest.raises(HostError, match="something else"):
        serve()
    assert path.read_text() == "precious"
    path.unlink()
    path.symlink_to("/dev/null")
    with pytest.raises(HostError, match="something else"):
        serve()


def test_a_path_that_is_too_long_is_told(tmp_path: Path, serve: Callable[..., Served]) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with pytest.raises(HostError, match="more than 107 bytes"):
        serve(folder)


def test_the_name_goes_with_the_server_but_not_another_ones(tmp_path: Path, serve: Callable[..., Served]) -> None:
    first = serve()
    first.server.stop()
    assert not first.path.exists()
    second = serve()
    second.path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(second.path))
        second.server.stop()
        assert second.path.exists()


# clients


def test_many_clients_at_once(serve: Callable[..., Served]) -> None:
    served = serve(slow=10)

    def create(number: int) -> int:
        return served.call("POST", "/v1/vms", vm(number)).status

    with ThreadPoolExecutor(60) as pool:
        codes = list(pool.map(create, range(1, 61)))
    assert codes == [201] * 60
    assert len(served.call("GET", "/v1/vms").json["items"]) == 60


def test_a_connection_is_kept_and_idle_ones_hold_no_thread(serve: Callable[..., Served]) -> None:
    served = serve(threads=20, slow=20)
    idle = [served.raw() for _ in range(10)]
    kept = http.client.HTTPConnection("localhost")
    kept.sock = served.raw()
    for _ in range(3):
        kept.request("GET", "/v1/vms")
        assert json.loads(kept.getresponse().read()) == {"items": [], "next": None}
    assert served.server.threads < len(idle)
    for client in idle:
        client.close()


def test_slow_clients_hold_their_own_threads_only_and_not_for_long(serve: Callable[..., Served]) -> None:
    """Each sends a byte now and then: cheroot alone would wait for ever, for there is always a byte in time."""
    served = serve(slow=1, threads=40)
    slow = [served.raw() for _ in range(30)]
    ended = threading.Event()

    def drip() -> None:
        for byte in b"GET /v1/vms HTTP/1.1\r\nX-Slow: " + b"x" * 40:
            for client in slow:
                with contextlib.suppress(OSError):
                    client.sendall(bytes([byte]))
            if ended.wait(0.1):
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    time.sleep(0.3)
    assert served.call("GET", "/v1/vms").status == 200
    answers = []
    for client in slow:
        answers.append(client.recv(64).split(b"\r\n")[0])
        client.close()
    ended.set()
    dripping.join()
    assert answers == [b"HTTP/1.1 408 Request Timeout"] * 30


def test_a_slow_body_times_out_as_well(serve: Callable[..., Served]) -> None:
    served = serve(slow=1)
    answer = served.exchange(b"POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    told = json.loads(answer.read())
    assert (answer.status, told["type"]) == (408, "urn:lvagent:error:timeout")
    assert served.agent.calls == []


def test_a_client_that_does_not_read_loses_its_connection(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lvagent.api.connection.ANSWER_SECONDS", 0.5)
    served = serve(slow=5, threads=4)
    served.agent.console = b"x" * (1 << 20)
    assert served.call("PUT", VM1, vm()).status == 201
    greedy = [served.raw() for _ in range(4)]
    for client in greedy:
        client.sendall(f"GET {VM1}/console?tail=1048576 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    time.sleep(1.5)
    assert served.call("GET", "/healthz").status == 200
    for client in greedy:
        client.close()


def test_too_many_connections_are_refused_politely(serve: Callable[..., Served]) -> None:
    served = serve(threads=2, slow=20)
    idle = [served.raw() for _ in range(8)]  # they are accepted in their order, before who comes now
    answer = served.exchange(b"")
    told = json.loads(answer.read())
    assert (answer.status, told["detail"]) == (503, "there are too many connections")
    assert answer.headers["Retry-After"] == "2"
    for client in idle:
        client.close()
    assert until(lambda: served.call("GET", "/healthz").status == 200, 20)


def test_a_client_that_hangs_up_cancels_nothing(serve: Callable[..., Served]) -> None:
    served = serve()
    served.agent.gate.clear()
    body = json.dumps(vm()).encode()
    client = served.raw()
    client.sendall(b"POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    served.agent.waits_for(1)
    client.close()
    served.agent.gate.set()
    operation = served.call("GET", "/v1/operations").json["items"][0]["id"]
    assert served.call("GET", f"/v1/operations/{operation}?wait=10").json["status"] == "succeeded"
    assert served.call("GET", VM1).json["state"] == "running"


# what hostile clients send


def test_a_body_that_is_too_large_is_refused_and_the_client_gets_to_know(serve: Callable[..., Served]) -> None:
    served = serve(slow=5)
    for size in ((1 << 20) + 1, 8 << 20):
        head = b"PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (VM1.encode(), size)
        answer = served.exchange(head + b" " * size)
        told = json.loads(answer.read())
        assert (answer.status, told["type"]) == (413, "urn:lvagent:error:too-large")
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert served.call("GET", "/healthz").status == 200


def test_bodies_in_chunks(serve: Callable[..., Served]) -> None:
    served = serve()

    def send(chunks: bytes) -> tuple[int, bytes]:
        head = b"POST /v1/vms HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = served.exchange(head + chunks)
        return answer.status, answer.read()

    body = json.dumps(vm()).encode()
    good = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (10, body[:10], len(body) - 10, body[10:])
    assert send(good)[0] == 201
    assert send(b"zz\r\n")[0] == 400
    assert send(b"%x\r\n" % (2 << 20))[0] == 413
    assert send((b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 17)[0] == 413


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"get / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\n\r\n", 505),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\n" + b"X-Y: z\r\n" * 4000 + b"\r\n", 413),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST /v1/vms HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v1/vms HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n", 400),
        (b"POST /v1/vms HTTP/1.1\r\nContent-Length: +5\r\n\r\n12345", 400),
        (b"POST /v1/vms HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"CONNECT x:1 HTTP/1.1\r\n\r\n", 405),
    ],
)
def test_what_is_no_proper_request(serve: Callable[..., Served], raw: bytes, status: int) -> None:
    served = serve()
    answer = served.exchange(raw)
    told = json.loads(answer.read())
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert (told["status"], told["type"].startswith("urn:lvagent:error:")) == (status, True)
    assert (answer.headers["Cache-Control"], answer.headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    assert served.call("GET", "/healthz").status == 200


def test_a_body_that_ends_early(serve: Callable[..., Served]) -> None:
    served = serve()
    client = served.raw()
    client.sendall(b"POST /v1/vms HTTP/1.1\r\nContent-Length: 50\r\n\r\n{}")
    client.shutdown(socket.SHUT_WR)
    answer = http.client.HTTPResponse(client)
    answer.begin()
    assert (answer.status, json.loads(answer.read())["detail"]) == (400, "the body ends after 2 bytes of 50")


def test_deep_json_costs_nothing(serve: Callable[..., Served]) -> None:
    served = serve(slow=5)
    answer = served.call("PUT", VM1, b"[" * 100_000)
    assert (answer.status, answer.json["detail"]) == (422, "lists and objects are nested 100000 deep")


def test_junk(serve: Callable[..., Served]) -> None:
    served = serve()
    clients = []
    for size in (1, 100, 5000):
        client = served.raw()
        client.sendall(os.urandom(size))
        client.shutdown(socket.SHUT_WR)
        clients.append(client)
    for client in clients:
        client.recv(1 << 16)
        client.close()
    assert served.call("GET", "/healthz").status == 200


# the end


def test_a_stop_finishes_what_is_under_way(serve: Callable[..., Served]) -> None:
    served = serve()
    served.agent.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        create = pool.submit(served.call, "PUT", VM1, vm())
        served.agent.waits_for(1)
        stop = pool.submit(served.server.stop)
        assert until(lambda: served.server._operations._closed, 20)
        late = served.call("PUT", "/v1/vms/i-0000000002", vm(2))
        assert (late.status, late.json["hint"]) == (503, "it is stopping; try again when it is back")
        assert served.call("GET", "/v1/vms").status == 200
        served.agent.gate.set()
        assert create.result(30).status == 201
        stop.result(30)
    with pytest.raises(FileNotFoundError):
        served.call("GET", "/healthz")


def test_threads_and_descriptors_are_given_back(serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvagent.api.workers.IDLE_SECONDS", 0.2)
    served = serve()
    served.call("GET", "/healthz")
    time.sleep(0.5)
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(30) as pool:
        codes = list(pool.map(lambda _: served.call("GET", "/v1/vms").status, range(200)))
    assert codes == [200] * 200
    assert until(lambda: len(os.listdir("/proc/self/fd")) <= before and served.server.threads == 0, 20)
