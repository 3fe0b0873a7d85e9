"""Conversion of flags to a request; invalid combinations of flags are refused here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from job.cli.flags import DEFAULT_MAX_CANDIDATES
from job.errors import ArtifactError, UsageError
from job.model.artifact import Artifact, open_artifact, open_demo_artifact
from job.model.cache import RemoteModel, default_cache, local_path, open_remote_model, remote_url
from job.model.loader import choose_runtime, default_device
from job.model.session import Device, RuntimeFlag
from job.plan.input_list import InputList, open_input_list
from job.rules.requested import check_prompt_lengths, requested_classes
from job.run.options import WorkerOptions
from job.run.spec import RunSpec
from job.storage.open import Address, new_process_id
from job.storage.store import Store
from job.system.resources import visible_gpus
from job.telemetry.observer import Watch
from job.worker.runner import AnnotateRequest

logger = logging.getLogger(__name__)

RUNTIME_OPTIONS = (
    "batch_size", "threads", "memory_budget", "journal_interval_s", "image_timeout_s", "device_retry_s",
    "max_failed_fraction", "self_check", "visualize", "overlay_format", "overlay_side", "order",
)  # fmt: skip


@dataclass(frozen=True)
class Folders:
    """The opened input and output.

    Attributes:
        source: The input.
        target: The output.
        addresses: Of both.
        model_options: Storage options for a model at a URL.
    """

    source: Store
    target: Store
    addresses: tuple[Address, Address]
    model_options: Mapping[str, Any] = field(default_factory=dict, repr=False)


def open_folders(flags: dict[str, Any], process_id: str) -> Folders:
    """Open input and output.

    Raises:
        UsageError: The input does not exist, or one lies inside the other.
    """
    addresses = (
        Address.with_file(flags["input_top_dir"], flags["input_storage_options"]),
        Address.with_file(flags["out_top_dir"], flags["output_storage_options"]),
    )
    return open_addresses(addresses, process_id)


def open_addresses(
    addresses: tuple[Address, Address], process_id: str, model_options: Mapping[str, Any] | None = None
) -> Folders:
    """Open input and output by their addresses.

    Args:
        addresses: Of input and output.
        process_id: Name of this process.
        model_options: Storage options for a model at a URL.

    Raises:
        UsageError: No such input, or one lies inside the other.
    """
    source, target = addresses[0].open(process_id), addresses[1].open(process_id)
    inner, outer = f"{target.url}/", f"{source.url}/"
    is_same_store = _endpoint(addresses[0]) == _endpoint(addresses[1])
    if is_same_store and (inner.startswith(outer) or outer.startswith(inner)):
        raise UsageError(
            f"output {target.url} and input {source.url} are one folder, or one lies inside the other: "
            "give an output folder outside of the input"
        )
    if not source.exists():
        raise UsageError(f"no such input folder: {addresses[0].url}. Give the folder with the JSON and image files")
    return Folders(source, target, addresses, model_options or {})


def annotate_request(flags: dict[str, Any], folders: Folders, process_id: str, watch: Watch) -> AnnotateRequest:
    """Build the request of `annotate` from its flags."""
    index, num_indexes = _share(flags)
    device = _device(flags["device"], flags["runtime"])
    options = WorkerOptions(
        pool=flags["pool"],
        index=index,
        num_indexes=num_indexes,
        workers=flags["workers"] or (max(1, len(visible_gpus())) if device == "cuda" else 1),
        shard_size=flags["shard_size"],
        device=device,
        supersede=flags["supersede"],
        process_id=process_id,
        watchdog=watch.watchdog,
        model_cache=_model_cache(flags),
        **{name: flags[name] for name in RUNTIME_OPTIONS},
    )
    request = _with_runtime(_request(flags, folders, options), flags["runtime"])
    return replace(request, observer=watch.observer, fail_if_empty=flags["fail_if_empty"])


def plan_request(flags: dict[str, Any], folders: Folders) -> AnnotateRequest:
    """Build the request of `plan` from its flags; this process uses no device."""
    options = WorkerOptions(
        device="cpu",
        pool="plan",
        num_indexes=flags["num_indexes"] or 1,
        shard_size=flags["shard_size"],
        supersede=flags["supersede"],
        process_id=new_process_id(),
    )
    return replace(_request(flags, folders, options), fail_if_empty=flags["fail_if_empty"])


def doctor_request(flags: dict[str, Any], folders: Folders) -> AnnotateRequest:
    """Build the request of `doctor` from its flags, with the defaults of `annotate`."""
    defaults = {
        "annotation_date": None,
        "image_mode": "copy",
        "instances": "none",
        "override_previous_annotations": True,
        "override_reviewed": True,
        "max_image_pixels": 100_000_000,
        "limit": None,
        "candidates_threshold": None,
        "max_candidates": DEFAULT_MAX_CANDIDATES,
        "include": (),
        "exclude": (),
        "input_list": None,
        "input_list_column": None,
        "run_name": None,
    }
    device = _device(flags["device"], flags["runtime"])
    options = WorkerOptions(device=device, model_cache=_model_cache(flags))
    return _with_runtime(_request({**flags, **defaults}, folders, options), flags["runtime"])


def _request(flags: dict[str, Any], folders: Folders, options: WorkerOptions) -> AnnotateRequest:
    requested = requested_classes(
        flags["prompts"], flags["classes"], folders.addresses[0], flags["confidence_threshold"]
    )
    date_text = _annotation_date(flags["annotation_date"])
    artifact, remote = open_model(flags, folders.model_options)
    check_prompt_lengths(requested, artifact)
    input_list = _input_list(flags, folders)
    spec = RunSpec(
        input_url=folders.source.url,
        prompts=requested.prompts,
        confidence_threshold=flags["confidence_threshold"],
        annotation_date=date_text,
        image_mode=flags["image_mode"],
        instances=flags["instances"],
        override=flags["override_previous_annotations"],
        override_reviewed=flags["override_reviewed"],
        max_image_pixels=flags["max_image_pixels"],
        limit=flags["limit"],
        model_id=artifact.manifest.model_id,
        checkpoint_sha256=artifact.manifest.checkpoint_sha256,
        include=flags["include"],
        exclude=flags["exclude"],
        input_list_sha256=input_list.sha256 if input_list else "",
        classes_sha256=requested.file.sha256 if requested.file else "",
        classes=requested.file.rules if requested.file else None,
        candidates_threshold=flags["candidates_threshold"],
        max_candidates=flags["max_candidates"],
        missing_json=flags["missing_json"],
    )
    _check_candidates(spec)
    return AnnotateRequest(
        source=folders.source,
        target=folders.target,
        artifact=artifact,
        remote_model=remote,
        spec=spec,
        is_date_given=flags["annotation_date"] is not None,
        run_name=flags["run_name"],
        options=options,
        input_list=input_list,
        addresses=folders.addresses,
    )


def _check_candidates(spec: RunSpec) -> None:
    threshold, highest = spec.candidates_threshold, max(one.min_score for one in spec.rules.classes)
    if threshold is None and spec.max_candidates != DEFAULT_MAX_CANDIDATES:
        raise UsageError(
            f"--max_candidates {spec.max_candidates} without --candidates_threshold: no candidates are stored. Give a "
            "threshold, or leave --max_candidates out"
        )
    if threshold is not None and spec.instances == "none":
        raise UsageError(
            "--candidates_threshold with --instances none: candidates are rows of the table. Give --instances table"
        )
    if threshold is not None and threshold > highest:
        raise UsageError(
            f"--candidates_threshold {threshold} is above the threshold {highest} of the output: candidates have lower "
            "scores. Give a lower one"
        )


def open_model(
    flags: dict[str, Any], storage_options: Mapping[str, Any] | None = None
) -> tuple[Artifact, RemoteModel | None]:
    """Open the artifact of a folder or URL, or the embedded demo model; also return where to download its files from.

    Args:
        flags: Of the command.
        storage_options: For a model at a URL.

    Raises:
        ArtifactError: It is missing, damaged, or has another digest.
    """
    model, digest, remote = flags["model"], flags["model_digest"], None
    if model is None:
        logger.warning(
            "No --model given: using the embedded small demo model; its accuracy is not representative of SAM 3 "
            "(see the README on exporting the official weights)"
        )
        artifact = open_demo_artifact(digest)
    elif (url := remote_url(model)) is not None:
        remote = open_remote_model(url, digest, _model_cache(flags) or default_cache(), storage_options)
        artifact = remote.artifact
    else:
        artifact = open_artifact(local_path(model), digest)
    expected, found = flags["checkpoint_digest"], artifact.manifest.checkpoint_sha256
    if expected not in {None, found}:
        raise ArtifactError(f"model {model} was exported from checkpoint {found}, --checkpoint_digest is {expected}")
    return artifact, remote


def _model_cache(flags: dict[str, Any]) -> Path | None:
    return Path(flags["model_cache"]) if flags["model_cache"] else None


def _share(flags: dict[str, Any]) -> tuple[int, int]:
    index, num_indexes = flags["index"], flags["num_indexes"]
    if index is None:
        if num_indexes not in {None, 1}:
            raise UsageError(f"--num_indexes {num_indexes} without --index: give each process its own, from 0")
        return 0, 1
    if num_indexes is None:
        raise UsageError(f"--index {index} without --num_indexes (or SAM3_NUM_INDEXES): give the number of processes")
    if index >= num_indexes:
        raise UsageError(f"--index {index} of {num_indexes}: indexes go from 0 to {num_indexes - 1}")
    if flags["run_name"] is None:
        raise UsageError(f"--index {index} without --run: all processes of a run need its name")
    return index, num_indexes


def _input_list(flags: dict[str, Any], folders: Folders) -> InputList | None:
    if flags["input_list"] is None:
        if flags["input_list_column"] is not None:
            raise UsageError("--input_list_column without --input_list: give the list too")
        return None
    source, url = folders.addresses[0], folders.source.url
    return open_input_list(flags["input_list"], flags["input_list_column"], source, url)


def _endpoint(address: Address) -> object:
    options = address.options
    return options.get("endpoint_url") or options.get("client_kwargs", {}).get("endpoint_url")


def _device(wanted: Device | None, runtime: RuntimeFlag) -> Device:
    if wanted is not None:
        logger.info("Device: %s", wanted)
        return wanted
    choice = default_device(runtime)
    logger.info("Device: %s", choice.device)
    logger.info("No --device given: %s, because %s", choice.device, choice.reason)
    return choice.device


def _with_runtime(request: AnnotateRequest, wanted: RuntimeFlag) -> AnnotateRequest:
    """The request with the library that runs its model."""
    choice = choose_runtime(wanted, request.options.device, request.artifact.manifest)
    logger.info("Runtime: %s, because %s", choice.runtime, choice.reason)
    return replace(request, options=replace(request.options, runtime=choice.runtime))


def _annotation_date(text: str | None) -> str:
    if text is None:
        return datetime.now(UTC).date().isoformat()
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as exc:
        raise UsageError(f"--annotation_date {text!r} is not a date: give it as YYYY-MM-DD") from exc
