"""`sam3-annotate audit`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import click
import msgspec

from job.cli.flags import FILE, FOLDER, log_flags
from job.cli.key_file import KeyList
from job.cli.terminal import one_line
from job.errors import FindingsError, UsageError
from job.run.run import newest_run
from job.storage.open import Address, new_process_id
from job.storage.store import refusals_are_configuration
from job.telemetry.logs import set_up_logging
from job.tools.audit import NOT_REDONE, AuditCounts, Finding
from job.tools.audit_deep import audit as audit_output

SHOWN_OF_A_KIND = 50


@click.command()
@click.argument("out", type=FOLDER)
@click.option("--input_top_dir", type=FOLDER, help="Folder or URL of the input. Default: that of the newest run.")
@click.option("--input_storage_options", type=FILE, help="JSON file of fsspec options for the input.")
@click.option("--output_storage_options", type=FILE, help="JSON file of fsspec options for the output.")
@click.option(
    "--deep", is_flag=True, help="Read every output and compare sizes, values, digests and scores with the journal."
)
@click.option("--list", "list_path", type=FILE, help="Write the keys to annotate again to this file, for --input_list.")
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Format.")
@log_flags
def audit(**flags: Any) -> None:
    """Check that OUT is complete: exit code 1 for findings other than failed inputs. Changes nothing."""
    set_up_logging(flags["log_level"], flags["log_format"])
    counts = AuditCounts()
    with refusals_are_configuration(is_planner=True):
        target = Address.with_file(flags["out"], flags["output_storage_options"]).open(new_process_id())
        run = newest_run(target)
        input_url = flags["input_top_dir"] or run.spec.input_url
        source = Address.with_file(input_url, flags["input_storage_options"]).open(new_process_id())
        if not source.exists():
            raise UsageError(f"no such input folder: {input_url}. Give it with --input_top_dir")
        with nullcontext() if flags["list_path"] is None else KeyList(flags["list_path"]) as key_list:
            show = _show_json if flags["output"] == "json" else _TextFindings().show
            for finding in audit_output(source, target, run.spec, counts, deep=flags["deep"]):
                show(finding)
                if key_list is not None and finding.kind not in NOT_REDONE:
                    key_list.add(finding.key)
    if flags["output"] == "json":
        click.echo(msgspec.json.encode({"inputs": counts.inputs, "annotated": counts.annotated, **counts.findings}))
    else:
        click.echo(_totals(counts, source.url))
    if counts.bad:
        raise FindingsError(_advice(counts, flags["list_path"]))


def _show_json(finding: Finding) -> None:
    click.echo(msgspec.json.encode(finding))


class _TextFindings:
    """Prints the first findings of each kind."""

    def __init__(self) -> None:
        self._shown: dict[str, int] = {}

    def show(self, finding: Finding) -> None:
        shown = self._shown[finding.kind] = self._shown.get(finding.kind, 0) + 1
        if shown <= SHOWN_OF_A_KIND:
            click.echo(one_line(f"{finding.kind}: {finding.key}: {finding.detail}"))
        elif shown == SHOWN_OF_A_KIND + 1:
            click.echo(f"{finding.kind}: … (-o json shows all)")


def _totals(counts: AuditCounts, input_url: str) -> str:
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts.findings.items() if count or kind in _ALWAYS_SHOWN)
    return f"{counts.inputs} inputs in {input_url}: annotated {counts.annotated}, {kinds}"


_ALWAYS_SHOWN = {"failed", "missing", "torn", "orphaned"}


def _advice(counts: AuditCounts, list_path: str | None) -> str:
    redo = counts.bad - counts.findings["orphaned"]
    if not redo:
        return f"{counts.bad} orphaned outputs: remove them, or restore their inputs"
    where = list_path or "FILE"
    return (
        f"{counts.bad} findings: {'' if list_path else 'with --list FILE, '}annotate --input_list {where} "
        f"--override_previous_annotations annotates {redo} of them again"
    )
