"""`sam3-annotate audit`."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click
import msgspec

from job.audit import NOT_TO_BE_DONE_AGAIN, AuditCounts, Finding
from job.audit_deep import audit as audit_output
from job.commands.flags import log_flags
from job.errors import FindingsError, UsageError
from job.logs import set_up_logging
from job.options import new_attempt
from job.planning import refusals_are_configuration
from job.run import newest_run
from job.storage import Address, read_storage_options

SHOWN_OF_A_KIND = 50


@click.command()
@click.argument("out")
@click.option("--input_top_dir", help="The input. Default: that of the newest run.")
@click.option("--input_storage_options", help="JSON file of fsspec options for the input.")
@click.option("--output_storage_options", help="JSON file of fsspec options for the output.")
@click.option("--deep", is_flag=True, help="Read every output: sizes, values, digests and scores against the journal.")
@click.option("--list", "list_path", help="Write the keys to be done again here, for --input_list.")
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Format.")
@log_flags
def audit(**flags: Any) -> None:
    """Check that OUT is complete, without changing it. Exit code 1 when something else than failed inputs is found."""
    set_up_logging(flags["log_level"], flags["log_format"])
    counts = AuditCounts()
    with refusals_are_configuration(is_planner=True):
        target = Address(flags["out"], read_storage_options(flags["output_storage_options"])).open(new_attempt())
        run = newest_run(target)
        input_url = flags["input_top_dir"] or run.spec.input_url
        source = Address(input_url, read_storage_options(flags["input_storage_options"])).open(new_attempt())
        if not source.exists():
            raise UsageError(f"no such input folder: {input_url}. Give it with --input_top_dir")
        with _key_list(flags["list_path"]) as add_key:
            show = _show_json if flags["output"] == "json" else _TextFindings().show
            for finding in audit_output(source, target, run.spec, counts, deep=flags["deep"]):
                show(finding)
                add_key(finding)
    if flags["output"] == "json":
        click.echo(msgspec.json.encode({"inputs": counts.inputs, "annotated": counts.annotated, **counts.findings}))
    else:
        click.echo(_summary(counts, input_url))
    if counts.bad:
        raise FindingsError(_what_to_do(counts, flags["list_path"]))


def _show_json(finding: Finding) -> None:
    click.echo(msgspec.json.encode(finding))


class _TextFindings:
    """Shows the first findings of each kind."""

    def __init__(self) -> None:
        self._shown: dict[str, int] = {}

    def show(self, finding: Finding) -> None:
        shown = self._shown[finding.kind] = self._shown.get(finding.kind, 0) + 1
        if shown <= SHOWN_OF_A_KIND:
            click.echo(f"{finding.kind}: {finding.key}: {finding.detail}")
        elif shown == SHOWN_OF_A_KIND + 1:
            click.echo(f"{finding.kind}: … (-o json shows all)")


def _summary(counts: AuditCounts, input_url: str) -> str:
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts.findings.items() if count or kind in _ALWAYS_SHOWN)
    return f"{counts.inputs} inputs in {input_url}: annotated {counts.annotated}, {kinds}"


_ALWAYS_SHOWN = {"failed", "missing", "torn", "orphaned"}


def _what_to_do(counts: AuditCounts, list_path: str | None) -> str:
    redo = counts.bad - counts.findings["orphaned"]
    if not redo:
        return f"{counts.bad} orphaned outputs: remove them, or restore their inputs"
    where = list_path or "FILE"
    return (
        f"{counts.bad} findings: {'' if list_path else 'with --list FILE, '}annotate --input_list {where} "
        f"--override_previous_annotations does {redo} of them again"
    )


@contextmanager
def _key_list(path: str | None) -> Iterator[Callable[[Finding], object]]:
    """Keys to be done again, each once; the file appears when it is whole."""
    if path is None:
        yield lambda finding: None
        return
    partial = Path(f"{path}.{os.getpid()}.part")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            yield _once(stream)
        partial.replace(path)
    except OSError as exc:
        raise UsageError(f"--list {path} cannot be written: {exc}") from exc
    finally:
        partial.unlink(missing_ok=True)


def _once(stream: TextIO) -> Callable[[Finding], object]:
    last: deque[str] = deque(maxlen=1)

    def add(finding: Finding) -> None:
        if finding.kind not in NOT_TO_BE_DONE_AGAIN and finding.key not in last:
            last.append(finding.key)
            stream.write(f"{finding.key}\n")

    return add
