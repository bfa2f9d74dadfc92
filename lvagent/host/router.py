"""What root has for all uplinks together: its table, forwarding, and, by setting, a rule in chains of others.

The table stands before anything is forwarded, and goes after. A chain of somebody else that drops (Docker's FORWARD,
firewalld's, ufw's) drops all the same: an accept in our table ends only our own chain. Such chains are looked for,
named, and, if ``uplink.foreign`` is ``accept``, given a rule that lets uplinks pass; what may pass is still decided by
our own table, which comes first.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

from lvagent.config import Settings
from lvagent.config_uplink import nets
from lvagent.errors import CommandError, HostError
from lvagent.failpoints import point
from lvagent.host import conntrack, files, nft_read, others, rootfilter
from lvagent.host.crossing import Closed, Way, closed_to_uplinks
from lvagent.host.forwarding import Forwarding
from lvagent.host.netspace import Netspace, translated
from lvagent.host.nft import without
from lvagent.host.nft_read import INET
from lvagent.host.rootfilter import GONE, Chain, RootFilter
from lvagent.host.rootfilter import UPLINK_COMMENT as COMMENT
from lvagent.plan.resources import Router
from lvagent.render.elements import Element
from lvagent.render.inward import ROOT_SETS, TARGETS, Placed, root_text
from lvagent.render.nft import TABLE
from lvagent.spec import names

log = logging.getLogger(__name__)

WAYS = ('iifname "ux-*"', 'oifname "ux-*"')

MOST_FLOWS = 1 << 16
"""Of root's flows that nobody answered, looked at when the filter is put back."""


class RouterSide:
    """Root, as far as uplinks need it.

    :param root: opens the namespace in which the agent runs.
    """

    def __init__(self, settings: Settings, root: Callable[[], Netspace]) -> None:
        self._root = root
        self._ipv6 = settings.uplink.ipv6 != "none"
        self._pools = nets((settings.uplink.pool_v4, settings.uplink.pool_v6))
        self._accept = settings.uplink.foreign == "accept"
        self._others = settings.uplink.others == "forward"
        self._forwarding = Forwarding(Path(settings.paths.state))
        self._lock = Path(settings.paths.run) / "router.lock"
        self.trouble: tuple[str, ...] = ()
        """Chains of others that drop what uplinks forward, as they were when last looked for."""
        self.unreached: tuple[str, ...] = ()
        """Those that drop only what comes to floating addresses and routed prefixes."""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of root's table; not to be taken twice."""
        with translated(str(self._lock), "lock"), files.flocked(self._lock):
            yield

    def observe(self) -> Router | None:
        """What there is of it; with an empty digest if it is not as it should be."""
        with translated("the filter of root", "read"):
            root = self._root()
            digest = nft_read.table_comment(root.netfilter, INET)
            if digest is None and not self._forwarding.remembered():
                return None
            on = root.inside(lambda: self._forwarding.holds(ipv6=self._ipv6))
        return Router(digest or "" if on else "", self._ipv6)

    def ensure(self, wanted: Router) -> None:
        """Load the table, then forward; and look who else has a say.

        :raise HostError: nft refused, or forwarding cannot be switched on.
        """
        with self.locked():
            self._make(wanted)
        self.look()

    def mend(self, wanted: Router) -> bool:
        """Make it again if somebody changed it; whether that was so. Then look who else has a say by now."""
        with self.locked():  # what is just being made is no change of somebody's
            sound = self.observe() == wanted
            if not sound:
                self._make(wanted)
        self.look()
        return not sound

    def _make(self, wanted: Router) -> None:
        root = self._root()
        with translated("the filter of root", "read"):
            loaded = nft_read.table_comment(root.netfilter, INET)
        if loaded != wanted.digest:
            self._load(wanted.text)
            others.settle(root, root.inside(rootfilter.read), self._for_us_alone())
            self._forget()
        point("router.filtered")
        root.inside(lambda: self._forwarding.ensure(ipv6=wanted.ipv6))
        point("router.forwarding")

    def _for_us_alone(self) -> tuple[int, ...]:
        """The IP versions that other links do not forward."""
        if self._others:
            return ()
        return self._root().inside(lambda: self._forwarding.for_us_alone(ipv6=self._ipv6))

    def _load(self, text: str) -> None:
        """Load the table, with what leads into VPCs in the old one: no flow of theirs is cut."""
        with translated("the filter of root", "read"):
            found = nft_read.elements(self._root().netfilter, ROOT_SETS, INET)
        vpcs = {one.comment for one in found if names.VPC_NAME.match(one.comment)}
        led = "".join(root_text(vpc, (), [placed(one) for one in found if one.comment == vpc]) for vpc in sorted(vpcs))
        self._root().nft.run(text + led, "the filter of root")

    def _forget(self) -> None:
        """Forget what uplinks began while nothing translated it: nobody outside can answer it."""
        root = self._root()
        pools = self._pools
        with translated("flows of uplinks", "forget"):
            gone = root.inside(
                lambda: conntrack.forget_unled(
                    root.netfilter, lambda flow: any(flow.source in pool for pool in pools), MOST_FLOWS
                )
            )
        if gone:
            log.info("%s flows that VPCs began while the filter of root was gone begin anew", gone)

    def look(self) -> None:
        """Look who else drops what uplinks forward, by setting let it pass; and who needs forwarding. Never raises."""
        try:
            with self.locked():
                found, refused = self._look()
        except HostError as error:
            self.trouble, self.unreached = (f"whether others drop what is forwarded is not known: {error}",), ()
            return
        closed = tuple(closed_to_uplinks(found))
        self.unreached = tuple(_told(one, refused) for one in closed if one.ways == (Way.ADDRESSED,))
        self.trouble = tuple(_told(one, refused) for one in closed if one.ways != (Way.ADDRESSED,))
        if found.legacy:
            tables = ", ".join(found.legacy)
            self.trouble += (
                f"iptables-legacy has tables too ({tables}), and nft does not show them: iptables-legacy -S",
            )

    def _look(self) -> tuple[RootFilter, dict[str, str]]:
        """What filters, after what we have put right in it; and where nft refused that."""
        root = self._root()
        found, refused = root.inside(rootfilter.read), {}
        if self._accept and any(closed_to_uplinks(found)):
            refused = self._open(found)
            found = root.inside(rootfilter.read)
        others.settle(root, found, self._for_us_alone())
        return found, refused

    def _open(self, found: RootFilter) -> dict[str, str]:
        """Put our rules into the chains that drop; why that could not be done, by the chain that drops."""
        refused = {}
        for one in closed_to_uplinks(found):
            chain = _place(found, one.chain)
            where = f"{chain.family} {chain.table} {chain.name}"
            rules = "".join(f'insert rule {where} {way} counter accept comment "{COMMENT}"\n' for way in WAYS)
            try:
                self._root().nft.run(rules, str(chain), "let uplinks pass in")
                log.warning("%s drops what uplinks forward, and has rules of ours now that let it pass", one.chain)
            except HostError as error:
                refused[str(one.chain)] = str(error)
                # What has gone meanwhile is heard of, and looked at again: firewalld makes its chains anew.
                log.log(logging.DEBUG if GONE in str(error) else logging.WARNING, "%s", error)
        return refused

    def remove(self) -> None:
        """Forward no more, if it was off before; take our rules out of chains of others, and the table away."""
        with self.locked():
            root = self._root()
            user = self._user(root)
            root.inside(lambda: self._forwarding.restore(user))
            point("router.restored")
            self._close(root)
            with translated("the filter of root", "read"):
                there = nft_read.table_comment(root.netfilter, INET) is not None
            if there:
                root.nft.run(without(f"inet {TABLE}"), "the filter of root", "remove")
            self.trouble = self.unreached = ()

    def _user(self, root: Netspace) -> str:
        """Who else forwards here by the look of the filter, and found forwarding on; '' if nobody does."""
        try:
            found = root.inside(rootfilter.read)
        except HostError as error:
            return f"somebody, perhaps ({error})"
        return rootfilter.forwarder(found)

    def _close(self, root: Netspace) -> None:
        """Take our rules out of chains of others; they are looked for whatever the setting says now."""
        try:
            found = root.inside(rootfilter.read)
        except CommandError as error:
            log.warning("rules of uplinks may be left in chains of others: %s", error)
            return
        gone = [
            f"delete rule {chain.family} {chain.table} {chain.name} handle {rule.handle}\n"
            for chain in found.chains
            for rule in chain.rules
            if rule.comment == COMMENT
        ]
        if gone:
            root.nft.run("".join(gone), "rules of uplinks", "remove")


def _place(found: RootFilter, chain: Chain) -> Chain:
    """Where a rule of others stays: Docker leaves DOCKER-USER to its users, and makes the rest anew."""
    return next((one for one in found.reached(chain) if one.name == "DOCKER-USER"), chain)


def _told(one: Closed, refused: Mapping[str, str]) -> str:
    why = refused.get(str(one.chain))
    other = "set uplink.foreign to accept" if why is None else f"find out why no rule of ours stays there: {why}"
    return f"{one}; {one.remedy}; or {other}"


def placed(one: Element) -> Placed:
    """An element by which root leads into a VPC: without the address of the uplink in its key, and that address."""
    ends = TARGETS[one.set[:-1]]
    if ends:
        return one.set, one.key[:-ends], one.key[-1]
    size = 4 if one.set.endswith("4") else 16
    return one.set, one.key, str(ip_address(int(one.value or 0).to_bytes(size, "little")))
