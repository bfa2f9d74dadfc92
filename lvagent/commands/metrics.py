"""``lvagent metrics``: what is measured, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Sequence

import click

from lvagent.commands.session import Session, output_option, pass_session
from lvagent.commands.tables import Json, plain, print_json


@click.command()
@click.argument("words", nargs=-1)
@output_option
@pass_session
def metrics(session: Session, words: tuple[str, ...]) -> None:
    """Show what is measured; with WORDS, the samples alone that have all of them: refused i-0000000001."""
    text = session.client().call("GET", "/metrics").body.decode(errors="replace")
    lines = [line for line in text.splitlines() if not words or _has(line, words)]
    if session.json:
        print_json({"items": _samples(lines)})
        return
    for line in lines:
        click.echo(plain(line))


def _has(line: str, words: Sequence[str]) -> bool:
    return not line.startswith("#") and all(word in line for word in words)


def _samples(lines: Sequence[str]) -> list[Json]:
    from prometheus_client.parser import text_string_to_metric_families

    return [
        {"name": one.name, "labels": dict(one.labels), "value": one.value}
        for family in text_string_to_metric_families("\n".join((*lines, "")))
        for one in family.samples
    ]
