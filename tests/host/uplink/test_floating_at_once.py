"""Floating addresses that are taken and let go of at the same time: a link goes on to answer for what it has."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lvagent.config import Paths, Settings
from lvagent.host import netns, sysctl
from lvagent.host.network import Network
from lvagent.host.proxies import ProxySide
from lvagent.host.run import run
from lvagent.plan.resources import Proxy

pytestmark = pytest.mark.host

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
MINE, THEIRS = Proxy(A, "2001:db8::50", "lan"), Proxy(B, "2001:db8::51", "lan")


def test_who_lets_go_of_one_does_not_silence_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Paths(run=f"{tmp_path}/run", netns=f"{tmp_path}/netns", state=f"{tmp_path}/state")

    def body() -> None:
        run(["ip", "link", "add", "lan", "type", "bridge"])
        run(["ip", "link", "set", "lan", "up"])
        network = Network(Settings(paths=paths))
        proxies, root = network._proxies, network._here()
        tell = ProxySide._tell
        others: list[threading.Thread] = []

        def told(side: ProxySide, link: str) -> None:
            """The link is told to answer; the address is not there yet, and the last one that was goes."""
            tell(side, link)
            others.append(threading.Thread(target=proxies.remove, args=([THEIRS],)))
            others[0].start()
            others[0].join(0.5)

        proxies.ensure(THEIRS)
        monkeypatch.setattr(ProxySide, "_tell", told)
        proxies.ensure(MINE)
        others[0].join()
        answers = root.inside(lambda: (sysctl.ROOT / "ipv6/conf/lan/proxy_ndp").read_text().strip())
        assert (answers, proxies.observe(A)) == ("1", {MINE})
        proxies.remove([MINE])
        assert root.inside(lambda: (sysctl.ROOT / "ipv6/conf/lan/proxy_ndp").read_text().strip()) == "0"
        network.close()

    netns.scratch(body)
