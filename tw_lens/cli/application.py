"""The application `tw-lens`, on which the commands register: a quick start, and the version."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tw_lens._version import __version__


class CommandGroup(TyperGroup):
    """The group of all commands, with a quick start."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the group's options; flags are False where they are not given.

        With typer's own default, None, typer imports pydantic before any command starts.
        """
        parameters = super().get_params(ctx)
        for parameter in parameters:
            if getattr(parameter, "is_flag", False) and parameter.default is None:
                parameter.default = False
        return parameters


app = typer.Typer(
    name="tw-lens", cls=CommandGroup, no_args_is_help=True,
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
