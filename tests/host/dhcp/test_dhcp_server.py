"""A real dnsmasq in a namespace, asked by real clients."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv6Interface
from pathlib import Path

import pytest

from lvagent.config import Paths, Settings
from lvagent.errors import HostError, Vanished
from lvagent.host import daemons
from lvagent.host.dnsmasq import DhcpServer
from lvagent.host.run import run
from lvagent.render import dnsmasq as texts
from tests.host.dhcp import wire
from tests.host.dhcp.site import BRIDGE_ONE, BRIDGE_TWO, ONE, TWO, Site, a_site, host
from tests.lab.clock import DAY, WallClock

pytestmark = pytest.mark.host

A, AAAA, PTR = 1, 28, 12
NOERROR, NXDOMAIN, REFUSED = 0, 3, 5


def test_reservation_v4(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    with site.client(host(5)) as guest:
        ack = guest.lease()
        assert ack is not None
        assert (ack.kind, ack.address, ack.router) == (wire.ACK, "10.0.0.5", "10.0.0.1")
        options = {number: ack.options[number] for number in (1, 6, 12, 15, 26, 51)}
        assert options == {
            1: bytes([255, 255, 255, 0]),
            6: bytes([10, 0, 0, 1]),
            12: b"i-0000000005",
            15: b"vpc.internal",
            26: (1450).to_bytes(2, "big"),
            51: (3600).to_bytes(4, "big"),
        }
        asked = guest.lease(bytes([55, 4, 121, 119, 3, 33]))
        assert asked is not None
        assert (121 in asked.options, 33 in asked.options, asked.router) == (False, False, "10.0.0.1")
        assert asked.options[119] == b"\x03vpc\x08internal\0"


def leased(site: Site, count: int) -> dict[str, float]:
    """The leases, when there are this many: dnsmasq writes its file after it has answered."""
    deadline = time.monotonic() + 20
    while len(told := site.server.leased(site.vpc)) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return told


def test_leases_are_told_and_a_lost_lease_file_comes_back(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    began = time.time()
    with site.client(host(5)) as guest:
        assert guest.lease() is not None
        assert guest.lease6() == "fd00:a::5"
        told = leased(site, 2)
        assert told.keys() == {"10.0.0.5", "fd00:a::5"}
        assert all(began - 2 <= at <= time.time() + 1 for at in told.values())
        (site.run / "dnsmasq" / site.vpc / "leases").unlink()
        assert site.server.lease_file(site.vpc) is None
        site.server.renew(site.vpc)
        assert site.server.lease_file(site.vpc) is not None
        assert (site.server.alive(site.vpc), site.server.look(site.vpc)) == (True, site.wanted(host(5)))
        again = guest.lease()
        assert again is not None
        assert again.address == "10.0.0.5"


def test_reservation_v6_and_router(site: Site) -> None:
    site.server.ensure(site.wanted(host(5), host(6, TWO, position=1)))
    with site.client(host(5)) as guest, site.client(host(6, TWO, position=1)) as second:
        assert guest.lease6() == "fd00:a::5"
        assert second.lease6() == "fd00:b::6"
        advert = guest.router()
        # options: 1 link-layer address, 3 prefix, 5 MTU, 25 DNS servers (RFC 8106), 31 search list
        assert advert == wire.Advert(True, True, 9000, 1450, (1, 3, 5, 25, 31), False)
        advert = second.router()
        assert advert == wire.Advert(True, True, 0, 1400, (1, 3, 5, 25, 31), False)


def test_second_nic_gets_no_router(site: Site) -> None:
    site.server.ensure(site.wanted(host(5), host(5, TWO, position=1), host(7, TWO)))
    with site.client(host(5)) as first, site.client(host(5, TWO, position=1)) as second, site.client(host(7, TWO)) as x:
        got = [nic.lease(bytes([55, 4, 3, 6, 12, 26])) for nic in (first, second, x)]
    assert [(ack.address, ack.router, ack.options.get(12)) for ack in got if ack] == [
        ("10.0.0.5", "10.0.0.1", b"i-0000000005"),
        ("10.0.1.5", None, None),
        ("10.0.1.7", "10.0.1.1", b"i-0000000007"),
    ]


def test_unknown_mac_is_refused(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    with site.client(host(9)) as stranger:
        assert stranger.lease(wait=1) is None
        assert stranger.dhcp(wire.REQUEST, bytes([50, 4, 10, 0, 0, 5]), wait=1) is None or (
            stranger.dhcp(wire.REQUEST, bytes([50, 4, 10, 0, 0, 5]), wait=1).kind == wire.NAK  # type: ignore[union-attr]
        )
        assert stranger.lease6(wait=2) is None
    assert "10.0.0.5" not in (site.run / "dnsmasq" / site.vpc / "leases").read_text()


def test_on_another_subnet_its_reservation_is_not_given(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    with wire.client(site.vpc, BRIDGE_TWO, host(5).mac) as moved:
        assert moved.lease(wait=1) is None
        assert moved.lease6(wait=2) is None


def test_names_resolve_before_the_first_lease(site: Site) -> None:
    site.server.ensure(site.wanted(host(5), host(6), host(6, TWO, position=1)))
    with site.client(host(5)) as guest:
        guest.address("10.0.0.5/24", "fd00:a::5/64")
        for server in ("10.0.0.1", "fd00:a::1"):
            assert guest.resolve(server, "i-0000000006.vpc.internal", A) == (NOERROR, ("10.0.0.6",))
            assert guest.resolve(server, "i-0000000006.vpc.internal", AAAA) == (NOERROR, ("fd00:a::6",))
        assert guest.resolve("10.0.0.1", "i-0000000006.vpc.internal", A, tcp=True) == (NOERROR, ("10.0.0.6",))
        for address in ("10.0.0.6", "fd00:a::6"):
            answer = guest.resolve("10.0.0.1", wire.reverse(address), PTR)
            assert answer == (NOERROR, ("i-0000000006.vpc.internal",))
        assert guest.resolve("10.0.0.1", wire.reverse("10.0.1.6"), PTR) == (NXDOMAIN, ())
        assert guest.resolve("10.0.0.1", "i-0000000009.vpc.internal", A) == (NXDOMAIN, ())
        assert guest.resolve("10.0.0.1", "example.org", A) == (REFUSED, ())


def test_a_guest_cannot_name_itself(site: Site) -> None:
    site.server.ensure(site.wanted(host(5), host(6, TWO, position=1)))
    claims = b"\x0c\x02db" + bytes([81, 3 + 12, 1, 0, 0]) + b"i-0000000005"
    fqdn = b"\0\x27\0\x04\0\x02db"
    with site.client(host(5)) as guest, site.client(host(6, TWO, position=1)) as liar:
        assert liar.lease(claims) is not None
        assert liar.lease6(extra=fqdn) == "fd00:b::6"
        assert guest.lease(claims) is not None
        assert guest.lease6(extra=fqdn) == "fd00:a::5"
        guest.address("10.0.0.5/24")
        for name in ("db.vpc.internal", "db", "i-0000000006.vpc.internal"):
            assert guest.resolve("10.0.0.1", name, A)[1] == ()
            assert guest.resolve("10.0.0.1", name, AAAA)[1] == ()
        assert guest.resolve("10.0.0.1", "i-0000000005.vpc.internal", A) == (NOERROR, ("10.0.0.5",))


def test_a_client_id_of_another_takes_nothing(site: Site) -> None:
    site.server.ensure(site.wanted(host(5), host(6)))
    client_id = bytes([61, 3, 0, 7, 7])
    with site.client(host(5)) as guest, site.client(host(6)) as liar:
        assert [ack.address for ack in (guest.lease(client_id), liar.lease(client_id)) if ack] == [
            "10.0.0.5",
            "10.0.0.6",
        ]
        leases = site.run / "dnsmasq" / site.vpc / "leases"
        assert _until(lambda: _addresses(leases) == ["10.0.0.5", "10.0.0.6"])
        assert {line.split()[1] for line in leases.read_text().splitlines() if "10.0" in line} == {
            host(5).mac,
            host(6).mac,
        }


def test_a_new_reservation_is_live(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    before = site.pid()
    site.server.ensure(site.wanted(host(5), host(6)))
    with site.client(host(6)) as guest:
        ack = guest.lease()
        assert (site.pid(), ack and ack.address) == (before, "10.0.0.6")
        assert guest.lease6() == "fd00:a::6"
    assert site.server.observe(site.vpc) == site.wanted(host(5), host(6))


def test_removal_frees_the_address_and_keeps_other_leases(site: Site) -> None:
    site.server.ensure(site.wanted(host(5), host(6)))
    leases = site.run / "dnsmasq" / site.vpc / "leases"
    heir = host(5, mac="06:00:00:00:00:99")
    with site.client(host(5)) as old, site.client(host(6)) as other, site.client(heir) as new:
        for guest in (old, other):
            assert guest.lease() is not None
            assert guest.lease6() is not None
        site.server.ensure(site.wanted(host(6)))
        assert _until(lambda: _addresses(leases) == ["10.0.0.6", "fd00:a::6"])
        site.server.ensure(site.wanted(heir, host(6)))
        ack = new.lease()
        assert ack is not None
        assert (ack.kind, ack.address, new.lease6()) == (wire.ACK, "10.0.0.5", "fd00:a::5")
        assert old.lease(wait=1) is None
        other.address("10.0.0.6/24")
        renewed = other.dhcp(wire.REQUEST, ciaddr="10.0.0.6")
        assert renewed is not None
        assert (renewed.kind, renewed.address) == (wire.ACK, "10.0.0.6")


def test_a_changed_mac_gets_the_address_at_once(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    changed = host(5, mac="06:00:00:00:00:77")
    with site.client(host(5)) as old, site.client(changed) as new:
        assert old.lease() is not None
        assert old.lease6() is not None
        site.server.ensure(site.wanted(changed))
        ack = new.lease()
        assert (ack and ack.address, new.lease6()) == ("10.0.0.5", "fd00:a::5")


def test_a_removed_name_is_gone(site: Site) -> None:
    site.server.ensure(site.wanted(host(5), host(6)))
    site.server.ensure(site.wanted(host(5)))
    with site.client(host(5)) as guest:
        guest.address("10.0.0.5/24")
        assert guest.resolve("10.0.0.1", "i-0000000006.vpc.internal", A) == (NXDOMAIN, ())


def test_forget_lets_a_reinstalled_guest_in(site: Site) -> None:
    site.server.ensure(site.wanted(host(5), host(6)))
    with site.client(host(5)) as guest, site.client(host(6)) as other:
        assert guest.lease6(duid=b"\0\x04" + b"1" * 16) == "fd00:a::5"
        assert other.lease6() == "fd00:a::6"
        assert guest.lease6(duid=b"\0\x04" + b"2" * 16, iaid=9, wait=2) is None
        site.server.forget(site.vpc, "i-0000000005")
        assert guest.lease6(duid=b"\0\x04" + b"2" * 16, iaid=9) == "fd00:a::5"
        leases = site.run / "dnsmasq" / site.vpc / "leases"
        assert _until(lambda: "fd00:a::6" in leases.read_text())
        before = site.pid()
        site.server.forget(site.vpc, "i-0000000099")
        assert site.pid() == before


def test_adopted_by_the_next_agent(site: Site) -> None:
    wanted = site.wanted(host(5), host(6, TWO, position=1))
    site.server.ensure(wanted)
    before = site.pid()
    heir = DhcpServer(Settings(paths=Paths(run=str(site.run))))
    assert heir.observe(site.vpc) == wanted
    heir.ensure(wanted)
    assert site.pid() == before
    assert heir.vpcs() == {site.vpc}


def test_one_that_died_is_started_again_with_its_leases(site: Site) -> None:
    wanted = site.wanted(host(5))
    site.server.ensure(wanted)
    with site.client(host(5)) as guest:
        assert guest.lease() is not None
        before = site.pid()
        os.kill(before, signal.SIGKILL)
        assert _until(lambda: not wire.exists(before))
        assert site.server.observe(site.vpc) is None
        site.server.ensure(wanted)
        assert site.pid() != before
        assert site.server.observe(site.vpc) == wanted
        assert _until(lambda: _addresses(site.run / "dnsmasq" / site.vpc / "leases") == ["10.0.0.5"])
        guest.address("10.0.0.5/24")
        renewed = guest.dhcp(wire.REQUEST, ciaddr="10.0.0.5")
        assert renewed is not None
        assert renewed.kind == wire.ACK


def test_two_vpcs_with_equal_addresses(folder: Path) -> None:
    with a_site(folder) as left, a_site(folder) as right:
        left.server.ensure(left.wanted(host(5)))
        right.server.ensure(right.wanted(host(5, mac="06:00:00:00:00:55")))
        with left.client(host(5)) as a, right.client(host(5, mac="06:00:00:00:00:55")) as b:
            got = [ack and ack.address for ack in (a.lease(), b.lease())]
            assert got == ["10.0.0.5", "10.0.0.5"]
        assert left.server.vpcs() == {left.vpc, right.vpc}
        left.server.remove(left.vpc)
        assert left.server.vpcs() == {right.vpc}
        assert right.server.observe(right.vpc) == right.wanted(host(5, mac="06:00:00:00:00:55"))


def test_removed_leaves_nothing(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    pid = site.pid()
    site.server.remove(site.vpc)
    site.server.remove(site.vpc)
    assert (wire.exists(pid), site.server.vpcs(), list((site.run / "dnsmasq").iterdir())) == (False, frozenset(), [])


def test_one_in_a_dead_namespace_is_ended(folder: Path) -> None:
    server = DhcpServer(Settings(paths=Paths(run=str(folder))))
    vpc = wire.name()
    with wire.namespace(vpc):
        wire.bridge(vpc, BRIDGE_ONE, "10.0.0.1/24")
        site = Site(vpc, folder, server)
        server.ensure(site.wanted(host(5)))
        pid = site.pid()
    with wire.namespace(vpc):
        wire.bridge(vpc, BRIDGE_ONE, "10.0.0.1/24", "fd00:a::1/64")
        assert wire.exists(pid)
        assert server.observe(vpc) is None
        assert not wire.exists(pid)
        server.ensure(site.wanted(host(5)))
        with site.client(host(5)) as guest:
            ack = guest.lease()
            assert ack is not None
            assert ack.address == "10.0.0.5"
        server.remove(vpc)


def test_one_whose_files_were_deleted_is_found(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    pid = site.pid()
    shutil.rmtree(site.run / "dnsmasq")
    assert site.server.vpcs() == {site.vpc}
    site.server.ensure(site.wanted(host(5)))
    assert not wire.exists(pid)
    assert site.server.observe(site.vpc) == site.wanted(host(5))


def test_an_edit_by_hand_is_undone(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    before = site.pid()
    conf = site.run / "dnsmasq" / site.vpc / "conf"
    good = conf.read_text()
    conf.write_text(good + "address=/#/10.0.0.66\n")
    assert site.server.observe(site.vpc) is None
    site.server.ensure(site.wanted(host(5)))
    assert (conf.read_text(), site.pid() != before) == (good, True)


def test_a_folder_that_somebody_takes_away_while_it_is_written(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.server.ensure(site.wanted(host(5)))
    keep = texts.keep_leases

    def take_away(leases: str, kept: Collection[str]) -> str:
        shutil.rmtree(site.run / "dnsmasq" / site.vpc)
        return keep(leases, frozenset(kept))

    with monkeypatch.context() as patched:
        patched.setattr(texts, "keep_leases", take_away)
        with pytest.raises(Vanished, match="cannot write files for"):
            site.server.ensure(site.wanted())
    site.server.ensure(site.wanted(host(6)))
    assert site.server.observe(site.vpc) == site.wanted(host(6))


def test_a_pid_that_a_thread_of_a_stranger_has_by_now(tmp_path: Path) -> None:
    """Threads are numbered as processes are, and none can be pinned."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    (tmp_path / "pid").write_text(f"{thread.native_id}\n")
    try:
        daemons.let_die(tmp_path / "pid")
        daemons.end(thread.native_id or 0, daemons.Identity("dnsmasq", "--conf-file=/elsewhere"))
    finally:
        over.set()
        thread.join()


def test_a_pid_file_that_names_a_stranger(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    pid = site.pid()
    (site.run / "dnsmasq" / site.vpc / "pid").write_text(f"{os.getpid()}\n")
    assert site.server.observe(site.vpc) is None
    site.server.remove(site.vpc)
    assert not wire.exists(pid)


def test_one_that_cannot_start(site: Site) -> None:
    with pytest.raises(HostError) as caught:
        site.server.ensure(replace(site.wanted(host(5)), vpc=wire.name()))
    assert caught.value.action == "start"
    squatter = wire.Client(site.vpc, "lo", "").open(socket.AF_INET, socket.SOCK_DGRAM)
    with squatter:
        squatter.bind(("0.0.0.0", 67))
        with pytest.raises(HostError, match="in use"):
            site.server.ensure(site.wanted(host(5)))
    assert site.server.observe(site.vpc) is None
    site.server.ensure(site.wanted(host(5)))
    assert site.server.observe(site.vpc) == site.wanted(host(5))


def test_a_folder_that_its_user_cannot_pass(folder: Path) -> None:
    folder.chmod(0o700)
    with a_site(folder) as site, pytest.raises(HostError, match="cannot pass") as caught:
        site.server.ensure(site.wanted(host(5)))
    assert caught.value.hint == f"chmod o+x {folder}"


def test_a_bridge_made_anew_is_served(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    before = site.pid()
    run(["ip", "-n", site.vpc, "link", "del", BRIDGE_ONE])
    wire.bridge(site.vpc, BRIDGE_ONE, "10.0.0.1/24", "fd00:a::1/64")
    with site.client(host(5)) as guest:
        ack = guest.lease()
        assert (ack and ack.address, guest.lease6(), site.pid()) == ("10.0.0.5", "fd00:a::5", before)


def test_it_listens_on_the_bridges_only(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    with wire.namespace("lvt-" + wire.name("")) as outside:
        peer = ["peer", "name", "up0", "netns", outside]
        run(["ip", "-n", site.vpc, "link", "add", "ui-test", "type", "veth", *peer])
        run(["ip", "-n", site.vpc, "addr", "add", "192.0.2.1/30", "dev", "ui-test"])
        run(["ip", "-n", site.vpc, "link", "set", "ui-test", "up"])
        run(["ip", "-n", outside, "link", "set", "up0", "up"])
        run(["ip", "-n", outside, "addr", "add", "192.0.2.2/30", "dev", "up0"])
        other = wire.Client(outside, "up0", host(5).mac)
        assert other.lease(wait=1) is None
        with pytest.raises(ConnectionError):
            other.resolve("192.0.2.1", "i-0000000005.vpc.internal", A)


def test_other_names_go_to_the_forwarders(site: Site) -> None:
    site.server.ensure(replace(site.wanted(host(5), host(6)), forwarders=("10.0.0.5",)))
    with site.client(host(5)) as upstream, site.client(host(6)) as guest:
        upstream.address("10.0.0.5/24")
        guest.address("10.0.0.6/24")
        with upstream.open(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            asked.settimeout(1)
            asked.bind(("10.0.0.5", 53))
            assert guest.resolve("10.0.0.1", "i-0000000009.vpc.internal", A) == (NXDOMAIN, ())
            assert guest.resolve("10.0.0.1", wire.reverse("10.0.0.200"), PTR) == (NXDOMAIN, ())
            with pytest.raises(TimeoutError):
                asked.recv(512)
            with pytest.raises(TimeoutError):
                guest.resolve("10.0.0.1", "example.org", A, wait=1)
            asked.settimeout(wire.LONG)
            assert b"\x07example\x03org\0" in asked.recv(512)


def test_what_it_cannot_serve(site: Site) -> None:
    wide = replace(ONE, gateway_v6=IPv6Interface("fd00:a::1/56"))
    with pytest.raises(HostError, match="no IPv6 prefix shorter than 64"):
        site.server.ensure(replace(site.wanted(), subnets=(wide,)))
    assert site.server.vpcs() == frozenset()


def test_many_vpcs_at_once(folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        sites = [stack.enter_context(a_site(folder)) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            for number in (1, 2, 1, 0):
                wishes = [site.wanted(*(host(5 + n) for n in range(number))) for site in sites]
                list(pool.map(lambda pair: pair[0].server.ensure(pair[1]), zip(sites, wishes, strict=True)))
                assert [site.server.observe(site.vpc) for site in sites] == wishes


def test_it_gave_root_up(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{site.pid()}/status").read_text().splitlines())
    assert status["Uid"].split() == [str(os.stat(site.run / "dnsmasq" / site.vpc / "pid").st_uid)] * 4
    assert status["Uid"].split()[0] != "0"
    assert os.getsid(site.pid()) != os.getsid(0)


def test_ending_by_pid_spares_who_is_not_it(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    daemons.end(site.pid(), daemons.Identity("dnsmasq", "--conf-file=/elsewhere"))
    assert site.server.observe(site.vpc) == site.wanted(host(5))


@contextlib.contextmanager
def in_a_container(folder: Path, vpc: str) -> Iterator[subprocess.Popen[bytes]]:
    """A dnsmasq with the arguments of ours, where these name other files: the agent of a container has such ones."""
    conf = folder / "dnsmasq" / vpc / "conf"
    script = f"""
mount -t tmpfs none {folder}
mkdir -p {conf.parent}
printf 'port=0\\npid-file={folder}/pid\\n' > {conf}
exec dnsmasq --keep-in-foreground --user=root --conf-file={conf}
"""
    enter = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc"]
    process = subprocess.Popen([*enter, "sh", "-ec", script])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        assert _until(lambda: f"--conf-file={conf}" in "".join(map(_arguments, children.read_text().split())), 30)
        yield process
    finally:
        for pid in children.read_text().split() if process.poll() is None else ():
            os.kill(int(pid), signal.SIGKILL)  # the first of its pid namespace: all of that ends
        process.wait(timeout=30)


def _arguments(pid: str) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_a_server_in_a_container_is_a_strangers(site: Site) -> None:
    site.server.ensure(site.wanted(host(5)))
    other = wire.name()
    with in_a_container(site.run, site.vpc) as same, in_a_container(site.run, other) as strange:
        assert site.server.vpcs() == {site.vpc}
        site.server.remove(other)
        site.server.remove(site.vpc)
        assert (same.poll(), strange.poll()) == (None, None)
        site.server.ensure(site.wanted(host(5)))
        assert (same.poll(), site.server.observe(site.vpc)) == (None, site.wanted(host(5)))


def _addresses(leases: Path) -> list[str]:
    return sorted(line.split()[2] for line in leases.read_text().splitlines() if not line.startswith("duid"))


def _until(true: Callable[[], bool], seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.01)
    return true()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[WallClock]:
    """A clock that every dnsmasq goes by; where one sees it."""
    with WallClock(Path("/var/lib")) as made:
        program = made.folder / "dnsmasq"
        program.write_text(f'#!/bin/sh\nexec {" ".join(made.within)} /usr/sbin/dnsmasq "$@"\n')
        program.chmod(0o755)
        monkeypatch.setattr("lvagent.host.run.PATH", f"{made.folder}:/usr/sbin:/usr/bin:/sbin:/bin")
        yield made


def test_a_clock_that_jumps_by_days_costs_nobody_his_address(site: Site, clock: WallClock) -> None:
    """Leases are over at once, or last for days more; who has which address is said by the reservations."""
    both = site.wanted(host(5), host(6))
    site.server.ensure(both)
    with site.client(host(5)) as guest, site.client(host(6)) as other:
        assert other.lease() is not None
        other.address("10.0.0.6/24")
        for days in (0, 5, -5):
            clock.jump(days)
            asked = guest.lease(), other.dhcp(wire.REQUEST, ciaddr="10.0.0.6")
            got = [(ack.kind, ack.address) for ack in asked if ack]
            assert got == [(wire.ACK, "10.0.0.5"), (wire.ACK, "10.0.0.6")]
            assert (guest.lease6(), other.lease6()) == ("fd00:a::5", "fd00:a::6")
            assert _until(lambda days=days: days_ahead(site) == [days] * 4)  # type: ignore[misc]
    assert (site.server.alive(site.vpc), site.server.look(site.vpc)) == (True, both)


def days_ahead(site: Site) -> list[int]:
    """By how many days the time of each lease is ahead of the machine's clock."""
    return [round((at - time.time()) / DAY) for at in leased(site, 4).values()]
