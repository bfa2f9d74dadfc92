"""``make bench``: what lvagent adds to libvirt's own work.

Ours is a PUT until the answer "running"; bare is define and start of the same domain XML through libvirt's library on a
connection that is open already (no start-up of virsh, which would flatter us). The two run in turns, in random order,
on one host made of namespaces. Guests have no disk: their qemu starts as fast as it can, so that what we add shows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import re
import statistics
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libvirt

from tests.bench.statistics import paired
from tests.e2e.specs import nic, vm
from tests.lab.host import LabHost

Json = dict[str, Any]

MEASUREMENTS = ("new_vpc", "first_vpc", "existing_subnet", "at_once", "footprint")


def timed(call: Callable[[], object]) -> float:
    """Milliseconds that a call took."""
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1000


class Bench:
    """The measurements, on one lab."""

    def __init__(self, lab: LabHost, pairs: int) -> None:
        self.lab = lab
        self.pairs = pairs
        self.bare = libvirt.open(lab.libvirt_uri)
        self.chance = random.Random(7)

    def put(self, spec: Json) -> Json:
        answer = self.lab.api("PUT", f"/v1/vms/{spec['id']}", spec)
        assert answer.status in (200, 201), answer.text
        return dict(answer.json)

    def delete(self, vm_id: str) -> None:
        answer = self.lab.api("DELETE", f"/v1/vms/{vm_id}?volumes=delete")
        assert answer.status in (200, 204), answer.text

    def twin(self, xml: str, number: int) -> str:
        """The same domain under a name, uuid, MAC and tap of its own, and without our mark: the hook leaves at once."""
        xml = re.sub(r"<metadata>.*</metadata>", "", xml, flags=re.S)
        xml = re.sub(r"<name>[^<]*</name>", f"<name>bare-{number}</name>", xml)
        name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"bare-{number}"))
        xml = re.sub(r"<uuid>[^<]*</uuid>", f"<uuid>{name}</uuid>", xml)
        xml = re.sub(r"<entry name='uuid'>[^<]*</entry>", f"<entry name='uuid'>{name}</entry>", xml)
        xml = re.sub(r"t\d{10}-0", f"bare{number}", xml)
        xml = re.sub(r"i-\d{10}", f"bare-{number}", xml)
        return xml.replace("address='06:", "address='52:")

    def xml(self, spec: Json) -> str:
        return str(self.lab.api("POST", "/v1/plan", spec).json["xml"])

    def start_bare(self, xml: str) -> None:
        self.bare.defineXML(xml).create()

    def end_bare(self, number: int) -> None:
        domain = self.bare.lookupByName(f"bare-{number}")
        domain.destroy()
        domain.undefine()

    def one_by_one(self, spec_of: Callable[[int], Json]) -> Json:
        """PUT against define + start, DELETE against destroy + undefine."""
        series: defaultdict[str, list[float]] = defaultdict(list)
        phases: defaultdict[str, list[float]] = defaultdict(list)
        for number in range(1, self.pairs + 3):
            spec = spec_of(number)
            xml = self.twin(self.xml(spec), number)
            steps = [("ours", lambda spec=spec: self.put(spec)), ("bare", lambda xml=xml: self.start_bare(xml))]
            took = self._in_turns(steps)
            for phase in self.lab.api("GET", f"/v1/vms/{spec['id']}").json["timings"]:
                phases[phase["phase"]].append(phase["ms"])
            ends = [("ours", lambda spec=spec: self.delete(spec["id"])), ("bare", lambda n=number: self.end_bare(n))]
            gone = self._in_turns(ends)
            if number > 2:  # the first two warm caches
                for name in ("ours", "bare"):
                    series[f"create {name}"].append(took[name])
                    series[f"delete {name}"].append(gone[name])
        return {
            "create": dataclasses.asdict(paired(series["create ours"], series["create bare"])),
            "delete": dataclasses.asdict(paired(series["delete ours"], series["delete bare"])),
            "phases_ms": {name: round(statistics.median(values), 1) for name, values in phases.items()},
        }

    def _in_turns(self, steps: list[tuple[str, Callable[[], object]]]) -> dict[str, float]:
        self.chance.shuffle(steps)
        return {name: timed(step) for name, step in steps}

    def first_vpc(self) -> Json:
        """The host has no VPC: the namespace of the underlay side is made as well."""
        return self.one_by_one(lambda number: vm(number))

    def new_vpc(self) -> Json:
        """A new VPC beside another one."""
        self.put(vm(900, nic("vpc-resident00", "subnet-resident00", vni=900)))
        found = self.one_by_one(lambda number: vm(number))
        self.delete("i-0000000900")
        return found

    def existing_subnet(self) -> Json:
        self.put(vm(900, nic(host=200)))
        found = self.one_by_one(lambda number: vm(number, nic(host=4 + number)))
        self.delete("i-0000000900")
        return found

    def at_once(self, count: int = 20, rounds: int = 5) -> Json:
        """``count`` creates at the same time against as many bare ones."""
        ours: list[float] = []
        bare: list[float] = []
        specs = [vm(100 + i, nic(host=20 + i)) for i in range(count)]
        xmls = [self.twin(self.xml(spec), 100 + i) for i, spec in enumerate(specs)]
        for turn in range(rounds):
            first, second = (self._all_ours, self._all_bare) if turn % 2 else (self._all_bare, self._all_ours)
            for call in (first, second):
                (ours if call == self._all_ours else bare).append(call(specs, xmls))
            for spec in specs:
                self.delete(spec["id"])
            for i in range(count):
                self.end_bare(100 + i)
        return dataclasses.asdict(paired(ours, bare)) | {"at_once": count}

    def _all_ours(self, specs: list[Json], _xmls: list[str]) -> float:
        with ThreadPoolExecutor(len(specs)) as pool:
            return timed(lambda: list(pool.map(self.put, specs)))

    def _all_bare(self, _specs: list[Json], xmls: list[str]) -> float:
        """Each on a connection of its own, opened before."""
        connections = [libvirt.open(self.lab.libvirt_uri) for _ in xmls]
        with ThreadPoolExecutor(len(xmls)) as pool:
            took = timed(lambda: list(pool.map(_start, connections, xmls)))
        for connection in connections:
            connection.close()
        return took

    def footprint(self) -> Json:
        """Memory, threads and descriptors at 0, 20 and 50 VMs; a restart with 50; idle CPU with 20."""
        found: Json = {"at": {}}
        made = 0
        for count in (0, 20, 50):
            for number in range(made + 1, count + 1):
                self.put(vm(number, nic(host=4 + number)))
            made = count
            time.sleep(2)
            found["at"][str(count)] = _usage(self.lab.agent_pid)
            if count == 20:
                found["idle"] = self.idle()
        self.lab.kill_agent()
        found["restart_with_50_s"] = round(self.lab.start_agent(), 2)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: self.delete(f"i-{number:010}"), range(1, made + 1)))
        return found

    def idle(self) -> Json:
        seconds = float(os.environ.get("BENCH_IDLE_SECONDS", "300"))
        begin = _cpu_seconds(self.lab.agent_pid)
        time.sleep(seconds)
        used = _cpu_seconds(self.lab.agent_pid) - begin
        return {"seconds": seconds, "cpu_percent_of_one_core": round(100 * used / seconds, 3)}


def _start(connection: libvirt.virConnect, xml: str) -> None:
    connection.defineXML(xml).create()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _usage(pid: int) -> Json:
    rows = dict(row.split(":", 1) for row in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in row)
    return {
        "rss_mb": round(int(rows["VmRSS"].split()[0]) / 1024, 1),
        "threads": int(rows["Threads"]),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20, help="pairs of each comparison (default 20)")
    parser.add_argument("--only", default="", help=f"one measurement: {', '.join(MEASUREMENTS)}")
    parser.add_argument("--out", type=Path, default=None, help="write the result as JSON to this file")
    options = parser.parse_args()
    result: Json = {}
    with LabHost() as lab:
        lab.start_libvirtd()
        lab.run(["lvagent", "hook", "install"])
        lab.reload_libvirtd()
        lab.start_agent()
        bench = Bench(lab, options.pairs)
        for name in MEASUREMENTS:
            if options.only in ("", name):
                result[name] = getattr(bench, name)()
                print(json.dumps({name: result[name]}, indent=1), flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
