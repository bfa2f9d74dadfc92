"""Other software that filters: who could cut bridged traffic or the underlay, and what that means here. PURE.

Tenants' bridges stand in VPCs and, unless ``fabric.netns`` is empty, in a namespace of their own: there no chain of the
root namespace is met by any frame of theirs. The VXLAN socket is in root in both cases, so root's INPUT chain must let
its UDP port in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lvagent.doctor.findings import Finding, failed, passed, warned
from lvagent.host.crossing import Way, closed_to_uplinks
from lvagent.host.rootfilter import IP_FAMILIES, Chain, RootFilter, culprits, held, whose


def _named(filters: RootFilter, chain: Chain, how: str) -> str:
    owner = whose(filters, chain)
    return f"{chain}: {how}{f' ({owner})' if owner else ''}"


def bridged(filters: RootFilter, calls: Mapping[str, int], fabric: str) -> Iterator[Finding]:
    """What drops frames that are bridged in the root namespace.

    :param calls: the bridge-nf-call sysctls of root (1: IP chains see bridged frames), without those that are absent.
    :param fabric: ``fabric.netns``.
    """
    seen = [family for name, family in (("iptables", "ip"), ("ip6tables", "ip6")) if calls.get(name)]
    families = (*seen, "inet", "bridge") if seen else ("bridge",)
    dropping = [one for one in culprits(filters, "forward", families) if fabric or not _lets_ours(filters, one[0])]
    found = [_named(filters, chain, how) for chain, how in dropping]
    for text in found:
        if fabric:
            meaning = f"tenants do not meet it: their bridges are in {fabric} and their VPCs. Other bridges here do"
            yield warned("bridged traffic", f"{text}. {meaning}", "nothing for lvagent")
        else:
            remedy = "set fabric.netns (lvfabric), or bridge-nf-call-iptables and -ip6tables to 0, or accept lvb* there"
            yield failed("bridged traffic", f"{text}. It drops what tenants send between hosts", remedy)
    if not found:
        yield passed("bridged traffic", "no chain of the root namespace drops what is bridged")
    if filters.legacy:
        tables = ", ".join(filters.legacy)
        text = f"iptables-legacy has tables too ({tables}), and nft does not show them"
        yield warned("bridged traffic", text, "look: iptables-legacy -S")


def _lets_ours(filters: RootFilter, chain: Chain) -> bool:
    """Whether a chain accepts what crosses the bridges of VNIs."""
    rules = [rule for one in filters.reached(chain) for rule in one.rules if "accept" in rule.verdicts]
    return any(name.startswith("lvb") for rule in rules for name in rule.links)


def underlay(filters: RootFilter, port: int, *, segments: int) -> Iterator[Finding]:
    """Whether root lets VXLAN in.

    :param segments: how many VNIs are in use here.
    """
    subject = f"UDP {port} into this host"
    if not segments:
        yield passed(subject, "not needed: no VM here has a VNI")
        return
    closed = [(chain, how) for chain, how in culprits(filters, "input", IP_FAMILIES) if chain.family != "ip6"]
    bad = [(chain, how) for chain, how in closed if not _admits(filters, chain, port)]
    for chain, how in bad:
        text = f"{_named(filters, chain, how)}, and nothing there accepts UDP {port}"
        remedy = f"accept udp dport {port} from the other hosts in {chain}"
        opaque = any(rule.opaque for one in filters.reached(chain) for rule in one.rules)
        if opaque:
            yield warned(subject, f"{text} that nft can read", remedy)
        else:
            yield failed(subject, text, remedy)
    if not bad:
        yield passed(subject, f"let in, for {segments} VNIs")


def _admits(filters: RootFilter, chain: Chain, port: int) -> bool:
    rules = [rule for one in filters.reached(chain) for rule in one.rules if "accept" in rule.verdicts]
    return any(rule.bare or any(first <= port <= last for first, last in rule.ports) for rule in rules)


def uplinks(filters: RootFilter, *, there: int) -> Iterator[Finding]:
    """Whether root lets what VPCs send out pass.

    :param there: how many uplinks there are.
    """
    subject = "uplinks of VPCs"
    found = tuple(closed_to_uplinks(filters))
    for one in found:
        cure = f"{one.remedy}; or set uplink.foreign to accept"
        if one.ways == (Way.ADDRESSED,):
            yield warned(subject, f"{one}; what VPCs send out passes", f"nothing if there are none; else {cure}")
        elif there:
            yield failed(subject, f"{one}; there are {there} uplinks", cure)
        else:
            yield warned(subject, f"{one}; no VPC has an uplink", cure)
    if not found:
        yield passed(subject, f"no chain of the root namespace drops what they forward; there are {there}")


def other_links(filters: RootFilter) -> Iterator[Finding]:
    """Whether other links of the host forward to each other: nothing is wrong with either, but somebody may wonder."""
    subject = "other links of this host"
    versions = held(filters)
    if versions:
        told = " and ".join(f"IPv{version}" for version in versions if version)
        text = f"forward no {told} to each other, as before there were uplinks (uplink.others)"
        yield passed(subject, text)
    elif versions is not None:
        yield passed(subject, "may forward to each other: they did before there were uplinks, or software needs it")
