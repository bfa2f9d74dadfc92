"""``lvagent image``: the images volumes are made from."""

from __future__ import annotations

import click

from lvagent.commands.session import Session, output_option, pass_session
from lvagent.commands.tables import print_json, print_table, size


@click.group()
def group() -> None:
    """Build and list the images volumes are made from."""


@group.command()
@click.argument("name", type=click.Choice(["tiny", "debian"]))
@pass_session
def build(session: Session, name: str) -> None:
    """Build an image on this host, unless it is there already: tiny (busybox) or debian (with cloud-init)."""
    from lvagent.host.images import build_debian, build_tiny

    builders = {"tiny": build_tiny, "debian": build_debian}
    made = builders[name](session.settings(), watch=lambda text: click.echo(text, err=True))
    click.echo(str(made))


@group.command("ls")
@output_option
@pass_session
def list_(session: Session) -> None:
    """List the images."""
    found = session.client().items("/v1/images")
    if session.json:
        print_json(found)
        return
    rows = [(one["name"], size(one["virtual_size"]), size(one["file_size"])) for one in found]
    print_table(("IMAGE", "SIZE", "FILE"), rows, empty="there are no images: lvagent image build tiny")


group.add_command(list_, "list")
