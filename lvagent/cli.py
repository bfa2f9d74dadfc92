"""The command line. A command's module is imported when it is run, so that ``--help`` costs next to nothing."""

from __future__ import annotations

import importlib
from pathlib import Path

import click

from lvagent.commands.session import OUTPUTS, Session
from lvagent.errors import LvagentError

COMMANDS = {
    "vm": ("lvagent.commands.vm:group", "Make, list, show, start, stop, enter and delete VMs."),
    "vpc": ("lvagent.commands.network:vpc", "List and show VPCs, and say what is wanted of them."),
    "floating": ("lvagent.commands.inward:floating", "Lead addresses of the host's network to VMs."),
    "subnet": ("lvagent.commands.network:subnet", "List and show subnets."),
    "peering": ("lvagent.commands.peering:group", "Let VPCs route to each other."),
    "strays": ("lvagent.commands.strays:group", "List what nobody wants on this host, and end such processes."),
    "sweep": ("lvagent.commands.strays:sweep", "Compare all that is there with all that is wanted, now."),
    "plan": ("lvagent.commands.plan:plan", "Show what making a VM would do; touches nothing."),
    "events": ("lvagent.commands.events:events", "Show what happens to VMs, as it happens."),
    "metrics": ("lvagent.commands.metrics:metrics", "Show what is measured, as Prometheus reads it."),
    "image": ("lvagent.commands.image:group", "Build and list the images volumes are made from."),
    "token": ("lvagent.commands.token:group", "Make, list and revoke tokens for the API over TCP."),
    "audit": ("lvagent.commands.audit:audit", "Show who changed what over the API."),
    "why": ("lvagent.commands.why:why", "Say what happened to a VM last, and what to do."),
    "explain": (
        "lvagent.commands.explain:explain",
        "Say whether A reaches B, and what decides.",
    ),
    "doctor": ("lvagent.commands.doctor:doctor", "Check this host, and what is on it; repair what is ours."),
    "hook": ("lvagent.commands.hook:group", "Install, remove or show the libvirt hook."),
    "service": ("lvagent.commands.service:group", "Install, remove or show the systemd unit and what goes with it."),
    "serve": ("lvagent.commands.serve:serve", "Run the agent in the foreground."),
}
"""Each command: where it is, and what it is for."""


class Root(click.Group):
    """The group of all commands; knows them by name only."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        found = getattr(importlib.import_module(module), name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what each is for, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run it; an error of ours is told as every other."""
        try:
            return super().invoke(ctx)
        except LvagentError as error:
            from lvagent.commands.failure import of_error

            raise of_error(error) from error


def _version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from lvagent import __version__

        click.echo(f"lvagent {__version__}")
        ctx.exit()


@click.command(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--socket", metavar="PATH", help="The agent's socket. Default: as the settings say.")
@click.option("--url", metavar="URL", envvar="LVAGENT_URL", help="An agent over TCP: https://host:port.")
@click.option(
    "--token-file",
    metavar="FILE",
    envvar="LVAGENT_TOKEN_FILE",
    help="The token for --url. Default: LVAGENT_TOKEN in the environment.",
)
@click.option("--cacert", metavar="FILE", envvar="LVAGENT_CACERT", help="Who signed that agent's certificate (PEM).")
@click.option(
    "--cert", metavar="FILE", envvar="LVAGENT_CERT", help="Our own certificate with its key, if it wants one."
)
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="The settings file.")
@click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table", help="How to print.", show_default=True)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.pass_context
def root(
    ctx: click.Context,
    socket: str | None,
    url: str | None,
    token_file: str | None,
    cacert: str | None,
    cert: str | None,
    config: Path | None,
    output: str,
) -> None:
    """VMs in VPCs on this libvirt host.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such thing, 4 conflict, 5 the agent does not answer,
    6 not allowed.
    """
    session = ctx.ensure_object(Session)
    session.socket, session.config, session.output = socket, config, output
    session.url = "" if socket else url or ""
    session.token_file, session.cacert, session.cert = token_file or "", cacert or "", cert or ""
