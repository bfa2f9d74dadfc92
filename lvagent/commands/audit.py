"""``lvagent audit``: who did what over the API, from the audit log."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import click

from lvagent.commands.failure import Failure
from lvagent.commands.session import Session, output_option, pass_session
from lvagent.commands.tables import plain, print_json, print_table

HEADS = ("TIME", "WHO", "WHAT", "OBJECT", "RESULT", "MS", "OPERATION")


@click.command()
@click.option("--tail", type=click.IntRange(1, 100_000), default=50, help="Lines from its end.", show_default=True)
@output_option
@pass_session
def audit(session: Session, tail: int) -> None:
    """Show who changed what, and who was refused, the newest last."""
    from lvagent.host import audit as log

    session.need_local()
    if not session.root:
        raise Failure("the audit log is root's", hint="sudo lvagent audit")
    folder = Path(session.settings().paths.state)
    try:
        found = _parsed(log.tail(folder, tail))
    except OSError as error:
        raise Failure(f"cannot read {folder / log.FILE}: {error.strerror}") from error
    if session.json:
        print_json(found)
        return
    print_table(HEADS, [_row(line) for line in found], empty="nothing was done yet")


def _parsed(lines: Iterable[str]) -> list[dict[str, object]]:
    """The lines as objects; one that is none (somebody wrote into the file) is shown as it is."""
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        found.append(value if isinstance(value, dict) else {"unreadable": plain(line)[:200]})
    return found


def _row(line: dict[str, object]) -> tuple[object, ...]:
    if "unreadable" in line:
        return ("?", "?", line["unreadable"], "", "", "", "")
    what = " ".join(str(line[key]) for key in ("route", "command") if line.get(key))
    ended = "ended: " if line.get("event") == "end" else ""
    untold = f" (+{line['untold']} more)" if line.get("untold") else ""
    kind = f" {line['type']}" if line.get("type") else ""
    result = f"{ended}{line.get('status', '')}{kind}{untold}"
    return (
        line.get("time"),
        _who(line),
        what or line.get("method"),
        line.get("object"),
        result,
        line.get("ms"),
        line.get("operation"),
    )


def _who(line: dict[str, object]) -> str:
    if line.get("token"):
        return f"{line.get('name')} ({line['token']}) at {line.get('address')}"
    return f"uid {line['uid']}" if "uid" in line else str(line.get("address", "?"))
