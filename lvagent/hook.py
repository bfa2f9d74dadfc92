"""The hook working alone: what it does when the agent does not answer.

The domain's XML bears the whole spec, so the taps can be plugged without the agent: namespace, links, filter, and
dnsmasq, exactly as the agent makes them. Nothing is ever removed here, for the other members of the VPC are not known;
what is there already is added to. The agent's first sweep completes it.

    python3 -I -c '...' start i-0000000001 < domain.xml
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from lvagent.agent.index import Index
from lvagent.agent.networks import Networks
from lvagent.agent.plug import check_phase, check_taps, entry_of, parse_domain, taps_of
from lvagent.agent.policy import configs, float_wishes, locks_folder, policy, port_wishes
from lvagent.agent.trace import Trace
from lvagent.config import Settings, load
from lvagent.errors import HostError, LvagentError
from lvagent.host.dnsmasq import DhcpServer
from lvagent.host.imds import MetadataService
from lvagent.host.network import Network
from lvagent.host.timelines import TimelineFiles
from lvagent.host.volumes import VolumeStore
from lvagent.plan import wanted
from lvagent.plan.resources import Dhcp
from lvagent.plan.wanted import Policy
from lvagent.render.element import find_element, parse_element
from lvagent.spec.vm import VmConfig

LOCK_SECONDS = 5.0


def alone(vm: str, xml: str, settings: Settings) -> None:
    """Plug the taps of a VM that is starting, without the agent.

    :raise LvagentError: it could not be done; the start must be refused.
    """
    text = find_element(xml)
    if text is None:
        return  # a stranger's domain whose name looks like ours
    entry = entry_of(parse_element(text))
    taps = taps_of(parse_domain(xml))
    if entry.spec.id != vm:
        raise HostError(vm, "plug", f"its element is that of {entry.spec.id}")
    check_phase(entry)
    check_taps(vm, entry.spec, taps)
    VolumeStore(settings).check(entry.spec.volumes)
    index = Index()
    index.adopt(entry)
    dhcp, metadata = DhcpServer(settings), MetadataService(settings)
    networks = Networks(
        index,
        Network(settings),
        dhcp,
        metadata,
        policy(settings),
        locks_folder(settings),
        configs(settings),
        ports=port_wishes(settings),
        floating=float_wishes(settings),
    )
    networks.plug(entry.spec, taps, lambda: True, Trace(), within=LOCK_SECONDS)
    note = {"at": time.time(), "kind": "plugged", "vpcs": entry.spec.vpcs, "detail": {"by": "the hook, working alone"}}
    TimelineFiles(Path(settings.paths.state)).append(vm, note)
    for vpc in entry.spec.vpcs:
        with networks.locks.services(vpc, within=LOCK_SECONDS):
            _serve(vpc, entry.spec, dhcp, metadata, networks.policy)
    networks.close()


def _serve(vpc: str, spec: VmConfig, dhcp: DhcpServer, metadata: MetadataService, rules: Policy) -> None:
    own = wanted.dhcp(vpc, [spec], rules)
    if own is not None:
        there = dhcp.observe(vpc)
        dhcp.ensure(own if there is None else _with(there, own))
    guests = wanted.metadata(vpc, [spec], rules)
    if guests is not None and metadata.observe(vpc) is None:
        metadata.ensure(guests)


def _with(there: Dhcp, own: Dhcp) -> Dhcp:
    """What is served already, and our own."""
    subnets = {subnet.name: subnet for subnet in (*there.subnets, *own.subnets)}
    hosts = {(host.vm, host.position): host for host in (*there.hosts, *own.hosts)}
    return Dhcp(
        vpc=there.vpc,
        domain=there.domain,
        subnets=tuple(subnets[name] for name in sorted(subnets)),
        hosts=tuple(hosts[key] for key in sorted(hosts)),
        forwarders=there.forwarders,
        private=there.private,
    )


def main() -> None:
    """Entry of the hook: ``start <vm>`` with the XML on standard input. Exit code 1 refuses the start."""
    try:
        alone(sys.argv[2], sys.stdin.read(), load())
    except LvagentError as error:
        sys.stderr.write(f"lvagent: {' '.join(str(error).split())}\n")
        sys.exit(1)
