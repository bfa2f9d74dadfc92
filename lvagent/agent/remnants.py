"""What of a VM outlives its wish if nobody looks, or does not: user data in secrets, the log of its console."""

from __future__ import annotations

import logging
from pathlib import Path

from lvagent.agent.index import Entry
from lvagent.agent.ports import Domains
from lvagent.errors import HostError, LvagentError
from lvagent.host import files
from lvagent.render.domain import DomainOptions

log = logging.getLogger(__name__)


def tidy_secret(domains: Domains, entry: Entry) -> None:
    """Let go of user data that no wish has any more; whoever is interrupted before leaves it to the sweep."""
    try:
        domains.drop_secret(entry.spec.id, None if entry.spec.user_data is None else entry.revision)
    except LvagentError as error:
        log.warning("%s: %s", entry.spec.id, error)


def keep_secret(domains: Domains, entry: Entry) -> None:
    """See that libvirt has the user data that is known here: somebody may have undefined its secret."""
    vm, user_data = entry.spec.id, entry.spec.user_data
    if user_data is not None and domains.secret(vm, entry.revision) is None:
        log.warning("%s: its user data was gone from libvirt's secrets, keeping it again", vm)
        domains.set_secret(vm, user_data, entry.revision)


def drop_log(options: DomainOptions, vm: str) -> None:
    """Make sure that there is no log of a console; before the VM's domain goes, for then nobody knows of it.

    :raise HostError: it is there and cannot be removed.
    """
    path = options.console_log(vm)
    try:
        if path:
            files.remove(Path(path))
    except OSError as error:
        raise HostError(path, "remove", error.strerror or str(error)) from error
