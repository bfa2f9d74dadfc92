"""What becomes of an entry when its VM is wished otherwise: values only, nothing is touched."""

from __future__ import annotations

import dataclasses

from lvagent.agent.index import Entry
from lvagent.host.volumes import Judged
from lvagent.spec.parse import changes
from lvagent.spec.vm import VmConfig

LIVE_FIELDS = ("rules", "keys", "user_data", "restart")
"""The fields of a spec that a running guest gets at once; all others take effect at its next start."""


def changed(entry: Entry, spec: VmConfig, judged: Judged) -> Entry:
    """An entry with another wish, whose volumes were judged. A running guest keeps what its volumes stand on."""
    kept = entry.below or () if entry.applied is not None else ()
    return dataclasses.replace(
        entry,
        spec=spec,
        revision=entry.revision + 1,
        files=tuple(dict.fromkeys((*entry.files, *judged.missing))),
        applied=None if entry.applied is None else with_live_fields(entry.applied, spec),
        former=entry.spec,
        outdated=False,
        edits=(),
        below=tuple(dict.fromkeys((*judged.below, *kept))),
    )


def with_live_fields(applied: VmConfig, spec: VmConfig) -> VmConfig:
    """What a running guest has, with those fields of the wish that reach it at once."""
    return dataclasses.replace(
        applied, rules=spec.rules, keys=spec.keys, user_data=spec.user_data, restart=spec.restart
    )


def restart_needed(entry: Entry) -> tuple[str, ...]:
    """The paths in which a running guest differs from the wish."""
    if entry.applied is None:
        return ()
    return tuple(path for path in changes(entry.applied, entry.spec) if path.split("[")[0] not in LIVE_FIELDS)
