"""Hostile guests, real ones: what they reach, what their floods cost a neighbour, and what rules do to live streams."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lvagent.spec import names
from tests.e2e.conftest import SshKey
from tests.e2e.specs import guest, nic, vm
from tests.lab.host import TREE, LabHost

pytestmark = pytest.mark.e2e

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
SA, SB, SC = "subnet-aaaaaaaaaa", "subnet-bbbbbbbbbb", "subnet-cccccccccc"
BOOT = 150
ONE, TWO, THREE, FAR = "10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.6"
SSH_AND_PING = [{"proto": "tcp", "port": 22}, {"proto": "icmp"}, {"proto": "icmpv6"}]


def in_a(number: int, key: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    """Guest number n has the address 10.0.0.<4 + n> in VPC a."""
    return guest(number, key, nic(A, SA, host=4 + number), rules=rules)


@pytest.fixture(scope="module")
def site(agent_lab: LabHost, ssh_key: SshKey) -> Iterator[LabHost]:
    """Guests 1 and 2 are neighbours, 3 lets nothing in but SSH; 4 is in another VPC with the address of 2."""
    key = ssh_key.public
    specs = [in_a(1, key, SSH_AND_PING), in_a(2, key, SSH_AND_PING), in_a(3, key, SSH_AND_PING[:1])]
    specs.append(guest(4, key, nic(B, SB, host=6, vni=200)))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda spec: agent_lab.api("PUT", f"/v1/vms/{spec['id']}", spec), specs))
    assert [answer.status for answer in answers] == [201] * 4, [answer.text for answer in answers]
    for vpc, address in ((A, ONE), (A, TWO), (A, THREE), (B, FAR)):
        agent_lab.guest_ssh(vpc, address, "true", ssh_key.private, wait=BOOT)
    yield agent_lab
    for spec in specs:
        agent_lab.api("DELETE", f"/v1/vms/{spec['id']}?volumes=delete")


def say(lab: LabHost, key: SshKey, address: str, command: str, *, vpc: str = A, check: bool = True) -> str:
    return lab.guest_ssh(vpc, address, command, key.private, wait=60, check=check).stdout.strip()


def put_rules(lab: LabHost, number: int, key: str, rules: list[dict[str, Any]]) -> None:
    spec = in_a(number, key, rules)
    answer = lab.api("PUT", f"/v1/vms/{spec['id']}", spec)
    assert answer.status == 200, answer.text


PINGS = "ping -c 2 -W 2 {} >/dev/null 2>&1 && echo yes || echo no"
CONNECTS = "timeout 3 nc -w 2 {} {} </dev/null >/dev/null 2>&1 && echo yes || echo no"


def test_a_neighbour_is_reached_as_its_rules_say(site: LabHost, ssh_key: SshKey) -> None:
    assert say(site, ssh_key, ONE, PINGS.format(TWO)) == "yes"
    assert say(site, ssh_key, ONE, PINGS.format(THREE)) == "no"
    assert say(site, ssh_key, ONE, CONNECTS.format(THREE, 22)) == "yes"
    local = names.link_local(names.nic_mac("i-0000000003", 0))
    assert say(site, ssh_key, ONE, f"ping -6 -c 2 -W 2 -I eth0 {local} >/dev/null && echo yes || echo no") == "no"
    local = names.link_local(names.nic_mac("i-0000000002", 0))
    assert say(site, ssh_key, ONE, f"ping -6 -c 2 -W 2 -I eth0 {local} >/dev/null && echo yes || echo no") == "yes"


def test_a_foreign_address_or_mac_leads_nowhere(site: LabHost, ssh_key: SshKey) -> None:
    own = names.nic_mac("i-0000000001", 0)
    script = f"""
        ip addr add 10.0.0.99/24 dev eth0
        ping -c 2 -W 2 -I 10.0.0.99 {TWO} >/dev/null 2>&1 && echo address || true
        ip addr del 10.0.0.99/24 dev eth0
        ip link set eth0 down; ip link set eth0 address 06:66:66:66:66:66; ip link set eth0 up
        ping -c 2 -W 2 {TWO} >/dev/null 2>&1 && echo mac || true
        ip link set eth0 down; ip link set eth0 address {own}; ip link set eth0 up
        ip addr add {ONE}/24 dev eth0 2>/dev/null; ip route add default via 10.0.0.1 2>/dev/null
        sleep 1
        ping -c 2 -W 2 {TWO} >/dev/null 2>&1 && echo own
    """
    command = f"cat >/tmp/s.sh <<'E'\n{script}\nE\nsetsid sh /tmp/s.sh >/tmp/s.out 2>&1 </dev/null & sleep 0.1"
    say(site, ssh_key, ONE, command)
    deadline = time.monotonic() + 120
    while (said := say(site, ssh_key, ONE, "cat /tmp/s.out")) == "" and time.monotonic() < deadline:
        time.sleep(1)
    assert said == "own"


def test_forged_arp_changes_no_neighbours_table(site: LabHost, ssh_key: SshKey) -> None:
    entry = f"ip neigh show {THREE} dev eth0 | grep -o 'lladdr [0-9a-f:]*'"
    say(site, ssh_key, TWO, CONNECTS.format(THREE, 22))
    before = say(site, ssh_key, TWO, entry)
    assert before == f"lladdr {names.nic_mac('i-0000000003', 0)}"
    forge = f"arping -c 3 -A -I eth0 -s {THREE} {TWO} >/dev/null 2>&1; arping -c 3 -U -I eth0 -s {THREE} {TWO}"
    say(site, ssh_key, ONE, f"{forge} >/dev/null 2>&1; true")
    assert say(site, ssh_key, TWO, entry) == before


def test_no_way_leads_to_the_host_or_another_vpc(site: LabHost, ssh_key: SshKey) -> None:
    host = "192.0.2.10"
    assert f"inet {host}/24" in site.run(["ip", "addr", "show", "dev", "eth0"]).stdout
    for address in (host, "127.0.0.1", "10.0.0.1"):
        for port in (22, 111, 16509):
            if address != "127.0.0.1":
                assert say(site, ssh_key, ONE, CONNECTS.format(address, port)) == "no", (address, port)
    assert say(site, ssh_key, ONE, PINGS.format(host)) == "no"
    assert say(site, ssh_key, ONE, PINGS.format("10.0.0.1")) == "yes"
    assert say(site, ssh_key, ONE, "hostname") == "i-0000000001"
    assert say(site, ssh_key, FAR, "hostname", vpc=B) == "i-0000000004"
    arp = f"ip neigh show {TWO} dev eth0 | grep -o 'lladdr [0-9a-f:]*'"
    say(site, ssh_key, ONE, PINGS.format(TWO))
    assert say(site, ssh_key, ONE, arp) == f"lladdr {names.nic_mac('i-0000000002', 0)}", "that of its own VPC"


RECEIVE = "rm -f /tmp/got; (tail -f /dev/null | setsid nc -l -p 5000 >/tmp/got) >/dev/null 2>&1 </dev/null & sleep 0.3"
SEND = (
    "setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i; usleep 50000; done | nc {} 5000' "
    ">/dev/null 2>&1 </dev/null & sleep 0.3"
)
COUNT = "wc -l </tmp/got"
RETRANSMITTED = "awk '/^Tcp:/ {n=$13} END {print n}' /proc/net/snmp"


def stream(site: LabHost, ssh_key: SshKey) -> None:
    """Guest 1 sends numbered lines to guest 2 over one connection."""
    put_rules(site, 2, ssh_key.public, [*SSH_AND_PING, {"proto": "tcp", "port": 5000, "source": "i-0000000001"}])
    say(site, ssh_key, TWO, RECEIVE)
    say(site, ssh_key, ONE, SEND.format(TWO))
    deadline = time.monotonic() + 90
    while int(say(site, ssh_key, TWO, COUNT)) < 20:
        assert time.monotonic() < deadline


def end_stream(site: LabHost, ssh_key: SshKey) -> None:
    for address in (ONE, TWO):
        say(site, ssh_key, address, "killall nc tail 2>/dev/null; true")


def change_others(site: LabHost, changes: int) -> None:
    """Change the rules of two VMs without disks again and again."""
    others = [vm(number, nic(A, SA, host=4 + number)) for number in (8, 9)]
    for spec in others:
        assert site.api("PUT", f"/v1/vms/{spec['id']}", spec).status == 201
    for number in range(changes):
        spec = others[number % 2] | {"rules": [{"proto": "tcp", "port": 1 + number, "source": "i-0000000001"}]}
        assert site.api("PUT", f"/v1/vms/{spec['id']}", spec).status == 200
    for spec in others:
        assert site.api("DELETE", f"/v1/vms/{spec['id']}").status == 204


def refusals(site: LabHost) -> list[int]:
    """How many packets of the two guests no rule let in, or out."""
    told = [site.api("GET", f"/v1/vms/i-{number:010}/rules").json["refused"] for number in (1, 2)]
    return [one[way]["packets"] for one in told for way in ("ingress", "egress")]


@pytest.mark.parametrize("changes", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_stream_feels_no_rules_of_others_and_ends_with_its_own(site: LabHost, ssh_key: SshKey, changes: int) -> None:
    stream(site, ssh_key)
    retransmitted, dropped = int(say(site, ssh_key, ONE, RETRANSMITTED)), refusals(site)
    lines = int(say(site, ssh_key, TWO, COUNT))
    change_others(site, changes)
    assert int(say(site, ssh_key, TWO, COUNT)) > lines + 10
    assert refusals(site) == dropped, "nothing was dropped meanwhile"
    more = int(say(site, ssh_key, ONE, RETRANSMITTED)) - retransmitted
    assert more <= changes // 10, "nothing was lost; guests that wait for a busy CPU answer late now and then"
    began = time.monotonic()
    put_rules(site, 2, ssh_key.public, SSH_AND_PING)
    print(f"cut by a PUT of {(time.monotonic() - began) * 1000:.0f} ms, after {changes} changes of others' rules")
    cut = say(site, ssh_key, TWO, COUNT)
    time.sleep(1.5)
    assert say(site, ssh_key, TWO, COUNT) == cut, "not one more line since the PUT was answered"
    got = say(site, ssh_key, TWO, "cat /tmp/got").split()
    assert got == [str(number) for number in range(1, len(got) + 1)]
    put_rules(site, 2, ssh_key.public, [*SSH_AND_PING, {"proto": "tcp", "port": 5000}])
    deadline = time.monotonic() + 120
    while say(site, ssh_key, TWO, COUNT) == cut:
        assert time.monotonic() < deadline, "another rule allows it, and it goes on"
    end_stream(site, ssh_key)
    put_rules(site, 2, ssh_key.public, SSH_AND_PING)


def test_rules_are_counted(site: LabHost, ssh_key: SshKey) -> None:
    before = site.api("GET", "/v1/vms/i-0000000003/rules").json
    assert say(site, ssh_key, ONE, CONNECTS.format(THREE, 22)) == "yes"
    assert say(site, ssh_key, ONE, PINGS.format(THREE)) == "no"
    after = site.api("GET", "/v1/vms/i-0000000003/rules").json
    (was,), (rule,) = before["rules"], after["rules"]
    assert (rule["proto"], rule["port"], rule["direction"]) == ("tcp", 22, "ingress")
    assert rule["packets"] > was["packets"]
    assert rule["bytes"] > was["bytes"]
    assert rule["last_hit"] is not None
    refused = [one["refused"]["ingress"]["packets"] for one in (before, after)]
    assert refused[1] - refused[0] == 2, "two pings"
    told = site.run(["lvagent", "vm", "rules", "i-0000000003"]).stdout.splitlines()
    heads = ("DIRECTION", "PROTO", "PORT", "SOURCE", "DESTINATION", "PACKETS", "BYTES", "LAST", "HIT", "NOTE")
    assert tuple(told[0].split()) == heads
    assert told[1].split()[:5] == ["ingress", "tcp", "22", "any", "any"]


FLOODS = ("syn", "arp", "dhcp", "metadata")
METADATA = (
    "i=0; a=$(cut -d. -f1,2 /proc/uptime | cut -d' ' -f1); while [ $i -lt 20 ]; do "
    "timeout 10 wget -q -O /dev/null http://169.254.169.254/latest/meta-data/instance-id || echo failed; i=$((i+1)); "
    "done; echo $a $(cut -d' ' -f1 /proc/uptime)"
)


def flood(site: LabHost, kind: str, seconds: float) -> int:
    """Guest 3's port floods; how many frames it sent."""
    gateway, router = names.gateway_mac(SA), "10.0.0.1"
    own = [names.nic_mac("i-0000000003", 0), THREE, gateway, router, names.nic_mac("i-0000000002", 0), TWO]
    command = [sys.executable, "-IS", str(Path(TREE) / "tests/lab/flood.py"), names.tap("i-0000000003", 0), kind]
    done = site.run([*command, str(seconds), *own], netns=A, timeout=seconds + 60)
    return int(done.stdout.split()[-1])


def ping_and_ask(site: LabHost, ssh_key: SshKey, seconds: float) -> tuple[int, float]:
    """While it lasts guest 1 pings guest 2 and guest 2 asks for metadata: percent lost, milliseconds an answer."""
    with ThreadPoolExecutor(1) as pool:
        pings = pool.submit(say, site, ssh_key, ONE, f"ping -q -c {int(seconds * 2)} -i 0.5 -W 5 {TWO}", check=False)
        asked = say(site, ssh_key, TWO, METADATA)
        assert "failed" not in asked, asked
        begin, end = map(float, asked.split()[-2:])
        lost = re.search(r"(\d+)% packet loss", pings.result())
    assert lost is not None
    return int(lost[1]), (end - begin) * 1000 / 20


@pytest.mark.parametrize("kind", FLOODS)
@pytest.mark.parametrize("seconds", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_flood_costs_a_neighbour_no_answers(site: LabHost, ssh_key: SshKey, kind: str, seconds: float) -> None:
    calm = ping_and_ask(site, ssh_key, 2)
    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(flood, site, kind, seconds)
        time.sleep(0.7)
        stormy = ping_and_ask(site, ssh_key, seconds - 1)
        sent = flooding.result()
    print(
        f"{kind}: {sent / seconds:.0f} frames/s; lost {calm[0]} -> {stormy[0]} %, {calm[1]:.0f} -> {stormy[1]:.0f} ms"
    )
    assert sent > 1000 * seconds
    assert stormy[0] == 0
    assert say(site, ssh_key, TWO, "wget -q -O - http://169.254.169.254/latest/meta-data/instance-id") == "i-0000000002"
