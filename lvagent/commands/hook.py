"""``lvagent hook``: the libvirt hook that plugs taps into VPCs."""

from __future__ import annotations

import click

from lvagent.commands.session import Session, pass_session


@click.group()
def group() -> None:
    """Install, remove or show the libvirt hook."""


@group.command()
@pass_session
def install(session: Session) -> None:
    """Write the hook where libvirt looks for it."""
    from lvagent import install as files

    settings = session.settings()
    path = files.hook_path(settings)
    if files.put(path, files.hook_text(settings), mode=0o755):
        click.echo(f"{path} written; libvirt finds a new hook when its daemon starts or reloads")
    else:
        click.echo(f"{path} is as it should be")


@group.command()
@pass_session
def remove(session: Session) -> None:
    """Take the hook away. VMs that are started without it get no network."""
    from lvagent import install as files

    path = files.hook_path(session.settings())
    click.echo(f"{path} {'removed' if files.take(path) else 'was not there, or is not of lvagent'}")


@group.command()
@pass_session
def show(session: Session) -> None:
    """Print the hook as it would be installed."""
    from lvagent import install as files

    settings = session.settings()
    click.echo(f"# for {files.hook_path(settings)}", err=True)
    click.echo(files.hook_text(settings), nl=False)
