"""The group of all commands: entry points, loaded only when a command is called."""

from __future__ import annotations

import ast
import sys
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from job.errors import ConfigurationError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMAND_GROUP = "sam3_annotate.commands"
DEFAULT_COMMAND = "annotate"
_ANNOTATE, _INSPECT, _MODEL, _CLUSTER = SECTIONS = ("Annotate", "Inspect", "Model", "Cluster")
_SECTION_OF_COMMAND = dict.fromkeys(("annotate", "plan", "doctor", "clean"), _ANNOTATE) | {"bench": _MODEL}
_SECTION_OF_PACKAGE = {"export": _MODEL, "k8s": _CLUSTER}


def underscored(flag: str) -> str:
    """`--input-top-dir=a-b` to `--input_top_dir=a-b`; anything but a long flag stays as it is."""
    if not flag.startswith("--"):
        return flag
    name, equals, value = flag[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


class LazyCommands(click.Group):
    """Commands by name; a module is imported when its command is called, not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, including those whose extra is not installed."""
        return sorted(_found_commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        found = _found_commands().get(cmd_name)
        if found is None:
            return None
        command = found.load()
        if not isinstance(command, click.Command):
            raise TypeError(f"entry point {found.value} is not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments begin with; the error for an unknown name suggests similar ones."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as exc:
            raise click.NoSuchCommand(exc.command_name, possibilities=self.list_commands(ctx), ctx=ctx) from exc

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section."""
        commands = sorted(_found_commands().items())
        for section in SECTIONS:
            rows = [(name, _short_help(found)) for name, found in commands if _section_of(found) == section]
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Complete command names, and the flags of the group."""
        from click.shell_completion import CompletionItem

        commands = sorted(_found_commands().items())
        names = [
            CompletionItem(name, help=_short_help(found)) for name, found in commands if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


def _section_of(command: EntryPoint) -> str:
    package = command.module.partition(".")[0]
    return _SECTION_OF_PACKAGE.get(package) or _SECTION_OF_COMMAND.get(command.name, _INSPECT)


def _short_help(command: EntryPoint) -> str:
    """The first clause of a command's docstring, read from the source without importing the module."""
    package, *inner = command.module.split(".")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    path = Path(spec.origin).parent.joinpath(*inner).with_suffix(".py")
    with suppress(OSError, SyntaxError):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.FunctionDef) and node.name == command.attr:
                return (ast.get_docstring(node) or "").partition("\n")[0].partition(": ")[0].rstrip(".:")
    return ""


def _found_commands() -> dict[str, EntryPoint]:
    commands = {found.name: found for found in entry_points(group=COMMAND_GROUP)}
    if not commands:
        raise ConfigurationError(f"sam3-annotate is not installed for {sys.executable}: `pip install .` in a checkout")
    return commands
