"""The command line: runs a command and turns its error into an exit code.

A first argument that is a flag means `annotate`, so that the original's command line works unchanged.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

import click

from job.cli.commands import DEFAULT_COMMAND, LazyCommands, underscored
from job.cli.terminal import open_closed_streams
from job.cli.termination_message import write_termination_message
from job.errors import AnnotateError, ConfigurationError, InterruptedRunError
from job.redaction import redact
from job.system.signals import ended_by_sigterm, was_interrupted

COMPLETION_VARIABLE = "_SAM3_ANNOTATE_COMPLETE"
UNEXPECTED_EXIT_CODE = AnnotateError.exit_code
_GROUP_FLAGS = {"-h", "--help", "-v", "--version"}
_EXTRA_OF_MODULE = {
    "huggingface_hub": "export",
    "kubernetes": "k8s",
    "onnx": "export",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "openvino": "openvino",
    "open_clip": "export",
    "prometheus_client": "metrics",
    "pyarrow": "tables",
    "s3fs": "s3",
    "sam3": "export",
    "torch": "export",
    "torchvision": "export",
    "yaml": "k8s",
}

logger = logging.getLogger(__name__)


@click.group(
    cls=LazyCommands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("-", "_"),  # every flag in both spellings
    },
)
@click.version_option(None, "-v", "--version", package_name="sam3-annotate")
def cli() -> None:
    """Annotate images in bulk with SAM 3.

    Without a command, the flags are those of `annotate`. Flags may be written with hyphens or with underscores.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code that job.errors documents."""
    open_closed_streams()
    code = run(list(sys.argv[1:] if arguments is None else arguments))
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    # Not sys.exit: ONNX Runtime aborts the process when the interpreter exits while its threads run.
    # Nothing is left to do at exit: files are complete and journaled.
    os._exit(code)


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    if arguments and arguments[0].startswith("-") and arguments[0] not in _GROUP_FLAGS:
        arguments = [DEFAULT_COMMAND, *arguments]
    is_json = wants_json_log(arguments)
    if is_json:
        _set_up_json_log()
    if COMPLETION_VARIABLE in os.environ:
        from job.cli.completion import install_completion

        install_completion()
    try:
        with ended_by_sigterm():
            cli.main(args=arguments, prog_name="sam3-annotate", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as exc:  # noqa: BLE001 - every error is reported and becomes an exit code
        return _report(_as_ours(exc), is_json=is_json)
    return 0


def wants_json_log(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for `--log_format json`, found before they are parsed: parsing may fail."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [underscored(argument) for argument in arguments[:end]]
    values = [value for flag, value in pairwise(flags) if flag == "--log_format"]
    values += [flag.removeprefix("--log_format=") for flag in flags if flag.startswith("--log_format=")]
    return "json" in values


def _set_up_json_log() -> None:
    from job.telemetry.logs import set_up_logging

    set_up_logging("INFO", "json")


def _set_up_log_if_there_is_none() -> None:
    """Python's own handler of last resort would show secrets."""
    if not logging.getLogger().handlers:
        from job.telemetry.logs import set_up_logging

        set_up_logging("INFO", "text")


def _as_ours(error: BaseException) -> BaseException:
    """A foreign error that means one of ours."""
    if isinstance(error, KeyboardInterrupt | click.Abort | BrokenPipeError):
        return InterruptedRunError()
    if was_interrupted() and not isinstance(error, InterruptedRunError):
        return InterruptedRunError(f"interrupted, rerun the same command to resume; the interruption led to: {error}")
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        extra = _EXTRA_OF_MODULE.get(module)  # None: the missing module is our own, which is a defect
        if extra is not None:
            needed = f"this needs {module}, which is not installed: pip install 'sam3-annotate[{extra}]'"
            return ConfigurationError(needed)
    return error


def _report(error: BaseException, *, is_json: bool) -> int:
    """Report an error on standard error and in the termination message; returns the exit code."""
    code, message = UNEXPECTED_EXIT_CODE, str(error)
    if isinstance(error, click.ClickException):
        code, message = error.exit_code, error.format_message()
    elif isinstance(error, AnnotateError):
        code = error.exit_code
    if not isinstance(error, click.ClickException | AnnotateError):
        _set_up_log_if_there_is_none()
        logger.error("An unexpected error; please report it with the lines below", exc_info=error)
    elif is_json and message:
        logger.error("%s", message, extra={"fields": {"error": type(error).__name__, "exit_code": code}})
    elif isinstance(error, click.ClickException):
        with io.StringIO() as shown:
            error.show(shown)
            click.echo(redact(shown.getvalue()), err=True, nl=False)
    elif message:
        click.echo(f"Error: {redact(message)}", err=True)
    if code:
        write_termination_message(type(error).__name__, code, message or "interrupted")
    return code
