"""``lvagent metrics``."""

from __future__ import annotations

import json

from tests.unit.api.specs import vm
from tests.unit.cli.shell import Shell


def test_what_is_measured_is_shown_as_it_is_and_what_is_asked_for_alone(shell: Shell) -> None:
    shell.app.test_client().post("/v1/vms", json=vm())
    done = shell.run("metrics")
    assert (done.exit_code, done.stdout.splitlines()[1]) == (0, "# TYPE lvagent_build_info gauge")
    done = shell.run("metrics", "running", "i-0000000001")
    assert done.stdout.splitlines() == [
        'lvagent_vm_running{vm="i-0000000001"} 1.0',
        'lvagent_vm_wanted_running{vm="i-0000000001"} 1.0',
    ]
    done = shell.run("metrics", "vm_running", "-o", "json")
    assert json.loads(done.stdout) == {
        "items": [{"name": "lvagent_vm_running", "labels": {"vm": "i-0000000001"}, "value": 1.0}]
    }
    assert shell.run("metrics", "nothing like it").stdout == ""
