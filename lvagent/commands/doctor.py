"""``lvagent doctor``: is this host as lvagent needs it, and is on it what the specs call for?"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from lvagent.commands.failure import UNREACHABLE, Failure
from lvagent.commands.session import Session, output_option, pass_session
from lvagent.commands.tables import plain, print_json

if TYPE_CHECKING:
    from lvagent.doctor.findings import Finding, Repair

CANNOT = 2


@click.command()
@click.option("--fix", is_flag=True, help="Repair what is ours; first shows what it would do.")
@click.option("--yes", is_flag=True, help="With --fix: do it, do not ask.")
@click.option("--quiet", "-q", is_flag=True, help="Leave out what is as it should be.")
@output_option
@pass_session
def doctor(session: Session, fix: bool, yes: bool, quiet: bool) -> None:
    """Check this host, and compare what is on it with what the VMs' specs call for. Needs no running agent.

    Exit codes: 0 nothing is wrong (there may be warnings), 1 something is, 2 it could not be checked.
    """
    from lvagent.doctor.examine import examine
    from lvagent.doctor.findings import exit_code, repairs

    session.need_local()
    if not session.root:
        raise Failure("only root sees what there is to check", code=CANNOT, hint="sudo lvagent doctor")
    settings = session.settings()
    found = examine(settings)
    wanted = repairs(found) if fix else ()
    done: list[dict[str, str]] = []
    if not session.json:
        _print(found, quiet=quiet)
    if fix and _agreed(session, wanted, yes=yes):
        from lvagent.doctor.repair import Repairer

        done = [_do(Repairer(settings, lambda: _ask(session)), repair) for repair in wanted]
        found = examine(settings)
        if not session.json:
            _print_done(done)
            _print(found, quiet=True)
    if session.json:
        print_json(_document(found, wanted, done))
    sys.exit(exit_code(found))


def _agreed(session: Session, wanted: Sequence[Repair], *, yes: bool) -> bool:
    """Show what would be done; whether to do it."""
    if not wanted:
        if not session.json:
            click.echo("there is nothing that --fix could repair")
        return False
    if not session.json:
        click.echo("this would be done:")
        for repair in wanted:
            click.echo(f"  {plain(repair)}")
    if yes:
        return True
    if session.json or not sys.stdin.isatty():
        if not session.json:
            click.echo("nothing was done; --fix --yes does it")
        return False
    return click.confirm("do it?", default=False)


def _ask(session: Session) -> bool:
    """Have the running agent sweep; False: none answers."""
    try:
        found = session.client().call("POST", "/v1/sweep").json
    except Failure as failure:
        if failure.exit_code == UNREACHABLE:
            return False
        raise
    if found["held"]:
        raise Failure(str(found["held"]))
    return True


def _do(repairer: object, repair: Repair) -> dict[str, str]:
    from lvagent.doctor.repair import Repairer, told
    from lvagent.errors import LvagentError

    assert isinstance(repairer, Repairer)
    try:
        repairer.do(repair)
    except LvagentError as error:
        return {"repair": str(repair), "error": told(error)}
    except Failure as failure:
        return {"repair": str(repair), "error": failure.message}
    return {"repair": str(repair), "error": ""}


def _print(found: Sequence[Finding], *, quiet: bool) -> None:
    for one in found:
        if quiet and one.level == "PASS":
            continue
        click.echo(f"{one.level:<7} {plain(one.subject)}: {plain(one.text)}")
        if one.remedy:
            click.echo(f"        -> {plain(one.remedy)}")
        elif one.repair is not None:
            click.echo("        -> lvagent doctor --fix")
    counted = Counter(str(one.level) for one in found)
    click.echo(", ".join(f"{count} {level}" for level, count in sorted(counted.items())))


def _print_done(done: Sequence[dict[str, str]]) -> None:
    for one in done:
        click.echo(f"  {'FAILED: ' + plain(one['error']) if one['error'] else 'done'}: {plain(one['repair'])}")
    click.echo("what is left:")


def _document(found: Sequence[Finding], wanted: Sequence[Repair], done: Sequence[dict[str, str]]) -> dict[str, object]:
    return {
        "findings": [dataclasses.asdict(one) | {"repair": str(one.repair or "") or None} for one in found],
        "repairs": [str(repair) for repair in wanted],
        "done": list(done),
    }
