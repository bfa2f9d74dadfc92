"""Other links of the host: what they forward to each other while forwarding is on for uplinks alone.

Linux forwards for all links or, as good as, for none. So where nobody forwarded before the first uplink, a rule in
root's table drops what neither comes from nor goes to an uplink, as if forwarding were off still. It goes as soon as
software that needs forwarding shows in the ruleset: that found it on, and cannot know for whom.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lvagent.host import rootfilter
from lvagent.host.netspace import Netspace
from lvagent.host.rootfilter import OTHERS, OTHERS_COMMENT, RootFilter
from lvagent.render.nft import TABLE

log = logging.getLogger(__name__)


def settle(root: Netspace, found: RootFilter, versions: Sequence[int]) -> None:
    """Have the rule there for these IP versions and no other; for none if somebody else forwards.

    :param found: what filters in root, read just now.
    :raise HostError: nft refused.
    """
    user = rootfilter.forwarder(found)
    wanted = () if user else tuple(versions)
    if rootfilter.held(found) in (None, wanted):
        return
    where = f"inet {TABLE} {OTHERS}"
    rules = [
        f'add rule {where} meta nfproto ipv{version} counter drop comment "{OTHERS_COMMENT} (IPv{version})"\n'
        for version in wanted
    ]
    root.nft.run(f"flush chain {where}\n{''.join(rules)}", "the filter of root", "settle what other links forward in")
    if user:
        log.warning("other links of this host may forward to each other: %s needs it", user)
    elif wanted:
        log.warning("other links of this host forward nothing to each other, as before: uplink.others")
