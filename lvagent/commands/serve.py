"""``lvagent serve``: the agent."""

from __future__ import annotations

import click

from lvagent.commands.session import Session, pass_session


@click.command()
@pass_session
@click.pass_context
def serve(ctx: click.Context, session: Session) -> None:
    """Run the agent in the foreground until it is told to stop; VMs go on running."""
    settings = session.settings()
    from lvagent import main

    ctx.exit(main.serve(settings))
