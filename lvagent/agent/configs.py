"""The wishes of VPCs, in memory as they stand in their files.

Read once at the start; every change goes through here. A file that cannot be read is no wish that could be obeyed: its
VPC keeps the way out that it has, and is told of, until the file is mended or the wish is put again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Protocol

from lvagent.errors import LvagentError
from lvagent.spec.vpc import DEFAULT, VpcConfig, dump_vpc, parse_vpc

log = logging.getLogger(__name__)


class Kept(Protocol):
    """Where wishes are kept (``host.wishes.WishFiles``)."""

    def keys(self) -> frozenset[str]: ...
    def read(self, key: str) -> object | None: ...
    def write(self, key: str, document: Mapping[str, object]) -> None: ...
    def remove(self, key: str) -> None: ...


class VpcConfigs:
    """What is wanted of each VPC.

    :param kept: None: in memory alone.
    """

    def __init__(self, kept: Kept | None = None) -> None:
        self._kept = kept
        self._guard = threading.Lock()
        self._read = False
        self._wishes: dict[str, VpcConfig] = {}
        self._broken: dict[str, str] = {}

    def all(self) -> Mapping[str, VpcConfig]:
        """The wishes of the VPCs of which something was said."""
        with self._guard:
            self._load()
            return dict(self._wishes)

    def broken(self) -> Mapping[str, str]:
        """The VPCs whose file cannot be read, with the reason."""
        with self._guard:
            self._load()
            return dict(self._broken)

    def get(self, vpc: str) -> VpcConfig | None:
        """The wish of a VPC; None: nothing was said."""
        return self.all().get(vpc)

    def set(self, vpc: str, config: VpcConfig | None) -> None:
        """From now on this is wanted, in memory; None: nothing is said."""
        with self._guard:
            self._load()
            self._broken.pop(vpc, None)
            if config is None:
                self._wishes.pop(vpc, None)
            else:
                self._wishes[vpc] = config

    def keep(self, vpc: str) -> None:
        """Write down what is wanted of a VPC.

        :raise HostError: it could not be written.
        """
        config = self.get(vpc)
        if self._kept is None:
            return
        if config is None:
            self._kept.remove(vpc)
        else:
            self._kept.write(vpc, dump_vpc(config))

    def _load(self) -> None:
        if self._read or self._kept is None:
            return
        for vpc in sorted(self._kept.keys()):
            try:
                self._wishes[vpc] = parse_vpc(self._kept.read(vpc) or dump_vpc(DEFAULT))
            except LvagentError as error:
                log.error("what is wanted of %s cannot be read, it stays as it is: %s", vpc, error)
                self._broken[vpc] = str(error)
        self._read = True
