"""The command line: commands found by entry points and loaded when called; errors become exit codes here.

A first argument that is a flag means `annotate`, so that the original's command line works unchanged.
"""

from __future__ import annotations

import ast
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

import click

from job.cli.termination_message import write_termination_message
from job.errors import AnnotateError, ConfigurationError, InterruptedRunError
from job.system.signals import ended_by_sigterm

COMMAND_GROUP = "sam3_annotate.commands"
DEFAULT_COMMAND = "annotate"
UNFORESEEN_EXIT_CODE = 70
_EXTRA_OF_MODULE = {
    "huggingface_hub": "export",
    "kubernetes": "k8s",
    "onnx": "export",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "open_clip": "export",
    "prometheus_client": "metrics",
    "s3fs": "s3",
    "sam3": "export",
    "torch": "export",
    "torchvision": "export",
    "yaml": "k8s",
}

logger = logging.getLogger(__name__)


class LazyCommands(click.Group):
    """Commands by name; a module is imported when its command is called, not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, those whose extra is not installed included."""
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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands by what their docstrings begin with, read without importing a module."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(found)) for name, found in sorted(_found_commands().items())])


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sam3-annotate")
def cli() -> None:
    """Annotate pictures in bulk with SAM 3.

    Without a command, the flags are those of `annotate`.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code that job.errors documents."""
    code = run(list(sys.argv[1:] if arguments is None else arguments))
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    # Not sys.exit: threads may be inside ONNX Runtime, which aborts the process when the interpreter goes away
    # under them. Nothing is left to do at exit: files are whole and journalled.
    os._exit(code)


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    if arguments and arguments[0].startswith("-") and arguments[0] not in {"-h", "--help", "--version"}:
        arguments = [DEFAULT_COMMAND, *arguments]
    try:
        with ended_by_sigterm():
            cli.main(args=arguments, prog_name="sam3-annotate", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as exc:  # noqa: BLE001 - each is told, and becomes an exit code
        return _end(_as_ours(exc))
    return 0


def _as_ours(error: BaseException) -> BaseException:
    """A foreign error that means one of ours."""
    if isinstance(error, KeyboardInterrupt | click.Abort | BrokenPipeError):
        return InterruptedRunError()
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        extra = _EXTRA_OF_MODULE.get(module)  # of no extra: a module of our own is missing, which is a defect
        if extra is not None:
            needed = f"this needs {module}, which is not installed: pip install 'sam3-annotate[{extra}]'"
            return ConfigurationError(needed)
    return error


def _end(error: BaseException) -> int:
    """Tell of an error on standard error and in the termination message; returns the exit code."""
    code, message = UNFORESEEN_EXIT_CODE, str(error)
    if isinstance(error, click.ClickException):
        error.show()
        code, message = error.exit_code, error.format_message()
    elif not isinstance(error, AnnotateError):
        logger.error("An error nobody foresaw; please report it with the lines below", exc_info=error)
    else:
        code = error.exit_code
        if message:
            click.echo(f"Error: {message}", err=True)
    if code:
        write_termination_message(type(error).__name__, code, message or "interrupted")
    return code


def _summary(command: EntryPoint) -> str:
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
