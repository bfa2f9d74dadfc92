"""``lvagent service``: the agent under systemd, and network daemons kept off its links."""

from __future__ import annotations

import click


@click.group()
def group() -> None:
    """Install, remove or show the systemd unit and the files that keep network daemons off our links."""


@group.command()
def install() -> None:
    """Write the unit, and for networkd and NetworkManager what they are to leave alone, where they are installed."""
    from lvagent import install as files

    for path, text in files.service_texts().items():
        if not path.parent.is_dir():
            click.echo(f"{path}: left out, there is no {path.parent}")
        elif files.put(path, text, mode=0o644):
            click.echo(f"{path} written")
        else:
            click.echo(f"{path} is as it should be")
    click.echo("next: systemctl daemon-reload && systemctl enable --now lvagent")


@group.command()
def remove() -> None:
    """Take the files away again."""
    from lvagent import install as files

    for path in files.service_texts():
        click.echo(f"{path} {'removed' if files.take(path) else 'was not there, or is not of lvagent'}")


@group.command()
def show() -> None:
    """Print the files as they would be written."""
    from lvagent import install as files

    for path, text in files.service_texts().items():
        click.echo(f"# {path}\n{text}")
