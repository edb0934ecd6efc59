"""The application `tw-lens`, on which the commands register: a quick start, and the version."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tw_lens._version import __version__


class CommandGroup(TyperGroup):
    """The group of all commands, with a quick start."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option `--help`, False where it is not given.

        With typer's own default, None, typer imports pydantic before any command starts.
        """
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option


app = typer.Typer(
    name="tw-lens", cls=CommandGroup, no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
    help="Read a transformer's heads and trajectories. No MODEL: the bundled SmolLM2.",
)  # fmt: skip


def print_version(asked: bool) -> bool:
    """Print the version and end, where it is asked for; else return False, the option's value."""
    if asked:
        typer.echo(__version__)
        raise typer.Exit
    return asked


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=print_version, help="Print the version."),
    ] = False,
) -> None:
    """Options before the command."""
