"""What somebody took away of a filter is brought back, as soon as the kernel tells of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from lvagent.agent.index import Index
from lvagent.agent.networks import Networks
from lvagent.errors import LvagentError
from lvagent.spec import names

log = logging.getLogger(__name__)


class Healer:
    """Brings filters back. Before the first sweep nothing is known of what is wanted, and it does nothing.

    :param told: is told where: ``vpc``, ``root`` or ``fabric``.
    """

    def __init__(self, index: Index, networks: Networks, told: Callable[[str], None] = lambda _where: None) -> None:
        self._told = told
        self._index = index
        self._networks = networks

    def heal(self, name: str) -> None:
        """Bring the filter of a VPC, of root or of the underlay side back: somebody changed it. Nothing is removed.

        :param name: of a VPC; '' for root; of the underlay side's namespace otherwise.
        """
        try:
            if not self._index.loaded:
                return
            if name in self._index.vpcs():
                self._told("vpc")
                self._networks.heal(name)
            elif not names.VPC_NAME.match(name):
                self._told("fabric" if name else "root")
                if not name:
                    self._networks.heal_router()
                if name == self._networks.policy.fabric:
                    self._networks.heal_fabric()
        except LvagentError as error:
            log.warning("%s: %s", name, error)
        except Exception:
            log.exception("%s", name)
