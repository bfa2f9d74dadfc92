"""What the filter costs a packet: by the number of rules of its VM, and by the number of VMs in the VPC.

    unshare --net --mount .ci/python -m tests.bench.packets

Frames are written into a guest's tap and read from its neighbour's; the kernel's work is done within the write. The
variants are measured in turns, so that a busy machine is the same to all; medians of the rounds.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lvagent.config import Settings
from lvagent.host import netns
from lvagent.host.network import Network
from tests.host.net.conftest import Guest, settings_for
from tests.host.net.site import A, B, C, Host, Site, datagram, document

ROUNDS, FRAMES = 9, 20_000
RULES = (1, 10, 100, 900)
CROWDS = (3, 100, 1000)


def cost(site: Site, sender: Host, receiver: Host) -> float:
    """Microseconds that a frame takes from one guest to the other, what reads it not counted."""
    source, sink = site.taps[sender.name], site.taps[receiver.name]
    frame = datagram(sender, receiver, 53, payload=b"x" * 64)
    spent, sent = 0.0, 0
    while sent < FRAMES:
        began = time.perf_counter()
        for _ in range(200):
            source.send(frame)
        spent += time.perf_counter() - began
        sent += 200
        sink.drain()
    return spent / sent * 1e6


def rules(count: int) -> list[dict[str, object]]:
    """Rules of which the last one lets the frame in; the kernel looks at the newest first."""
    last = {"proto": "udp", "port": 53, "direction": "ingress"}
    found: list[dict[str, object]] = [last]
    for at in range(count - 1):
        found.append({"proto": "tcp", "port": 1000 + at, "source": f"10.9.{at >> 8}.{at & 255}"})
    return found


def others(count: int) -> list[dict[str, object]]:
    """Other VMs of the VPC, each with a rule of its own."""
    found = []
    for number in range(count):
        v4, v6 = f"10.2.{1 + (number >> 8)}.{number & 255}", f"fd00:2::{number + 1:x}"
        one = document(Host("", f"i-{10_000 + number:010}", "", v4, v6, C.subnet), [{"proto": "tcp", "source": B.vm}])
        nic = document(C)["networks"][0] | {"subnetname": "subnet-cccccccccc", "ipv6": f"{v6}/64"}
        nic |= {"ipv4": f"{v4}/16", "gateway_v4": "10.2.255.1", "gateway_v6": "fd00:2::ffff:1"}
        found.append(one | {"networks": [nic]})
    return found


def measure(site: Site, variants: dict[str, Callable[[], None]]) -> None:
    """Print the medians of variants, each made before it is measured."""
    seen: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, make in variants.items():
            make()
            seen[name].append(cost(site, A, B))
    for name, times in seen.items():
        print(f"{name:<16}{statistics.median(times):8.2f} us  (best {min(times):.2f})")


def crowd(site: Site, count: int) -> None:
    """Print what a frame and a change of rules cost among so many VMs."""
    site.put(*others(count - 3))
    began = time.perf_counter()
    for port in range(20):
        site.put(document(C, [{"proto": "tcp", "port": 100 + port}]))
    change = (time.perf_counter() - began) / 20 * 1000
    times = [cost(site, A, B) for _ in range(ROUNDS)]
    told = f"{statistics.median(times):8.2f} us  (best {min(times):.2f}); a change of rules {change:.1f} ms"
    print(f"{count:<5} VMs       {told}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings: Settings = settings_for(Path(folder))
        site = Site(Network(settings), settings, Guest, Path(folder))
        try:
            site.put(document(A), document(B, rules(1)), document(C))
            site.start(A, B, C)
            measure(site, {f"{n} rules": lambda n=n: site.put(document(B, rules(n))) for n in RULES})  # type: ignore[misc]
            site.put(document(B, rules(1)))
            for count in CROWDS:
                crowd(site, count)
        finally:
            site.network.close()
            for name in Path(settings.paths.netns).iterdir():
                netns.delete(str(name))
            subprocess.run(["umount", settings.paths.netns], check=True)


if __name__ == "__main__":
    main()
