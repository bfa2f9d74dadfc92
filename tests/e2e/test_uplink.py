"""A real guest reaches the world by the uplink of its VPC, whatever becomes of the agent and of root's filter."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import SshKey
from tests.e2e.specs import guest, nic
from tests.lab.host import LabHost

pytestmark = pytest.mark.e2e

A, VM = "vpc-aaaaaaaaaa", "/v1/vms/i-0000000001"
WEB, HOST = "203.0.113.2", "203.0.113.1"
BOOT = 150
RARELY = {"LVAGENT_SWEEP_INTERVAL": "3600"}
SERVER = """
import http.server, socketserver, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"you are {self.client_address[0]}\\n".encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):  # that of HTTPServer asks a DNS server for its name first
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "web", 8080
Server((sys.argv[1], 8080), Answer).serve_forever()
"""


@pytest.fixture(scope="module")
def world(agent_lab: LabHost) -> Iterator[LabHost]:
    """A web server beside the host, and one on the host itself; no sweep mends what is to be heard of."""
    agent_lab.kill_agent(signal.SIGTERM)
    agent_lab.start_agent(RARELY)
    for command in (
        "ip netns add world",
        "ip link add wan type veth peer name eth0 netns world",
        f"ip address add {HOST}/24 dev wan",
        "ip link set wan up",
    ):
        agent_lab.run(command.split())
    for command in (f"ip address add {WEB}/24 dev eth0", "ip link set eth0 up", "ip link set lo up"):
        agent_lab.run(command.split(), netns="world")
    servers = [
        agent_lab.popen(["python3", "-c", SERVER, address], netns=space)
        for address, space in ((WEB, "world"), (HOST, ""))
    ]
    for space in ("world", ""):
        assert until(lambda space=space: ":8080" in agent_lab.run(["ss", "-Hltn"], netns=space).stdout, 60)  # type: ignore[misc]
    yield agent_lab
    for one in servers:
        one.terminate()
        one.wait()
    agent_lab.run(["ip", "netns", "delete", "world"])


def fetch(lab: LabHost, key: SshKey, address: str, *, seconds: int = 30) -> str:
    """What a guest gets; 5 seconds are enough for what must not come."""
    command = f"timeout {seconds} wget -q -O - http://{address}:8080/ || echo nothing"
    return lab.guest_ssh(A, "10.0.0.5", command, key.private, wait=BOOT).stdout.strip()


def measured(lab: LabHost) -> bool:
    """Whether the flows of the VM, and what went by its uplink, come to be in the metrics."""

    def value(name: str) -> float:
        lines = lab.api("GET", "/metrics").text.splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(f"lvagent_{name}")), 0)

    own = f'{{vm="i-0000000001",vpc="{A}"}}'
    carried = [f'vpc_uplink_bytes_total{{direction="{way}",vpc="{A}"}}' for way in ("in", "out")]
    names = (f"vm_uplink_sessions{own}", f"vm_uplink_session_bytes{own}", f'vpc_dhcp_leases{{vpc="{A}"}}', *carried)
    return until(lambda: all(value(name) > 0 for name in names), 60)


def test_a_guest_reaches_the_world_and_not_the_host(world: LabHost, ssh_key: SshKey) -> None:
    lab = world
    before = lab.run(["sysctl", "-n", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]).stdout
    shown = lab.run(["lvagent", "vpc", "set", A, "--uplink", "nat", "--domain", "shop.internal"]).stdout
    assert "uplink     nat" in shown
    assert lab.api("PUT", VM, guest(1, ssh_key.public, nic())).status == 201
    view = lab.api("GET", f"/v1/vpcs/{A}").json
    assert view["uplink"]["mode"] == "nat"
    assert view["uplink"]["address_v4"].startswith("198.19.")
    assert view["settings"] == {
        "uplink": "nat",
        "domain": "shop.internal",
        "forwarders": None,
        "mtu": None,
        "metadata": None,
    }
    assert fetch(lab, ssh_key, WEB) == f"you are {HOST}"
    assert fetch(lab, ssh_key, HOST, seconds=5) == "nothing"
    flows = lab.api("GET", f"/v1/vpcs/{A}").json["sessions"]
    assert [(one["vm"], one["sessions"] > 0, one["bytes"] > 200) for one in flows["vms"]] == [
        ("i-0000000001", True, True)
    ]
    assert measured(lab)
    for target, verdict, element in ((WEB, "allowed", "uplink nat"), (HOST, "refused", "this host")):
        query = f"from=i-0000000001&to={target}&proto=tcp&port=8080"
        told = lab.api("POST", f"/v1/explain?{query}").json
        assert (told["verdict"], told["decider"]["element"]) == (verdict, element)
        assert told["live"]["agrees"], told["live"]

    lab.run(["nft", "flush", "ruleset"])
    healed = lambda: "masquerade" in lab.run(["nft", "list", "ruleset"]).stdout  # noqa: E731
    assert until(healed, 20), "not healed"
    assert fetch(lab, ssh_key, WEB) == f"you are {HOST}"

    lab.kill_agent(signal.SIGKILL)
    assert fetch(lab, ssh_key, WEB) == f"you are {HOST}"
    lab.start_agent(RARELY)
    assert lab.api("GET", f"/v1/vpcs/{A}").json["uplink"] == view["uplink"]
    assert fetch(lab, ssh_key, WEB) == f"you are {HOST}"

    assert lab.api("PUT", f"/v1/vpcs/{A}", {"uplink": "none"}).status == 200
    assert fetch(lab, ssh_key, WEB, seconds=5) == "nothing"
    assert lab.run(["sysctl", "-n", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]).stdout == before
    assert lab.api("PUT", f"/v1/vpcs/{A}", {"uplink": "nat"}).status == 200
    assert fetch(lab, ssh_key, WEB) == f"you are {HOST}"

    assert lab.api("DELETE", f"{VM}?volumes=delete").status == 204
    assert "ux-" not in lab.run(["ip", "link"]).stdout
    assert lab.run(["sysctl", "-n", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]).stdout == before
    assert lab.api("GET", f"/v1/vpcs/{A}").json["settings"]["uplink"] == "nat"
    assert lab.api("DELETE", f"/v1/vpcs/{A}").status == 204
    assert lab.api("DELETE", f"/v1/vpcs/{A}").status == 404


FLOAT = "203.0.113.50"
BANNER = """
import socket, sys
try:
    print(socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=int(sys.argv[3])).recv(4).decode())
except OSError as error:
    print(error.errno or error)
"""


def answers(lab: LabHost, address: str, port: int, space: str = "world", *, seconds: int = 30) -> bool:
    """Whether the guest's SSH answers at an address; 2 seconds are enough for what must not."""
    return lab.run(["python3", "-c", BANNER, address, str(port), str(seconds)], netns=space).stdout == "SSH-\n"


def until(what: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
    return True


def test_the_world_reaches_a_guest_by_a_port_and_by_an_address(world: LabHost, ssh_key: SshKey) -> None:
    lab = world
    assert lab.api("PUT", f"/v1/vpcs/{A}", {"uplink": "nat"}).status == 200
    assert lab.api("PUT", VM, guest(1, ssh_key.public, nic(), rules=[])).status == 201
    shown = lab.run(["lvagent", "vm", "ports", "i-0000000001", "--add", "2222:22"]).stdout
    assert shown.splitlines()[1].split() == ["tcp", "any", "2222", "22", "any"]
    assert until(lambda: answers(lab, HOST, 2222, seconds=2), BOOT)
    taken = lab.api("PUT", f"{VM}/ports", [{"host_port": 8080}])
    assert (taken.status, taken.json["path"]) == (409, "[0].host_port")
    assert "python3 (pid " in taken.json["detail"]
    assert answers(lab, HOST, 2222, "")
    assert not answers(lab, HOST, 2223, seconds=2)
    assert lab.run(["lvagent", "floating", "set", FLOAT, "i-0000000001", "--interface", "wan"]).stdout
    assert answers(lab, FLOAT, 22)
    assert fetch(lab, ssh_key, WEB) == f"you are {FLOAT}"
    refused = lab.api("PUT", f"/v1/floating/{WEB}", {"vm": "i-0000000001", "interface": "wan"})
    assert refused.status == 409
    assert f"answers for {WEB} on wan" in refused.json["detail"]

    for number in (signal.SIGKILL, signal.SIGTERM):
        lab.kill_agent(number)
        assert answers(lab, HOST, 2222)
        assert answers(lab, FLOAT, 22)
        lab.start_agent(RARELY)
        assert answers(lab, HOST, 2222)
        assert answers(lab, FLOAT, 22)
    lab.run(["nft", "flush", "ruleset"])
    assert until(lambda: answers(lab, HOST, 2222) and answers(lab, FLOAT, 22), 20)
    vm = lab.api("GET", VM).json
    assert [one["host_port"] for one in vm["published"]] == [2222]
    assert vm["floating"] == [FLOAT]
    implied = [one for one in lab.api("GET", f"{VM}/rules").json["rules"] if one["implied"]]
    assert [(one["proto"], one["port"], one["packets"] > 0) for one in implied] == [("tcp", 22, True)]
    assert lab.run(["lvagent", "doctor"], check=False).stdout.count("published ports") == 0
    with ThreadPoolExecutor(4) as pool:
        add = [["lvagent", "vm", "ports", "i-0000000001", "--add", str(port)] for port in range(9001, 9005)]
        assert all(done.stdout for done in pool.map(lab.run, add))
    assert [one["host_port"] for one in lab.api("GET", f"{VM}/ports").json["items"]] == [2222, *range(9001, 9005)]

    assert lab.api("PUT", f"/v1/vpcs/{A}", {"uplink": "none"}).status == 409
    assert lab.api("DELETE", f"{VM}?volumes=delete").status == 204
    assert lab.api("GET", f"/v1/floating/{FLOAT}").status == 404
    assert not answers(lab, FLOAT, 22, seconds=2)
    assert [one.name for one in lab.path("/var/lib/lvagent/vpcs").iterdir()] == [f"{A}.json"]
    assert lab.api("DELETE", f"/v1/vpcs/{A}").status == 204
