"""``python -m lvagent`` and the ``lvagent`` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from lvagent.cli import root

    root(prog_name="lvagent")


if __name__ == "__main__":
    main()
