"""What others build on: flags, exit codes, fields of files. A change here belongs into CHANGELOG.md."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import click
import msgspec
import pytest

import sam3_annotate
from export.cli import export, verify
from job import errors
from job.cli.annotate import annotate
from job.cli.audit import audit
from job.cli.clean import clean
from job.cli.doctor import doctor
from job.cli.model.bench import bench
from job.cli.plan import plan
from job.cli.progress import progress
from job.cli.results.convert import convert
from job.cli.show import show
from job.formats.instance_table import InstanceRow, Rle
from job.model.artifact import FileEntry, GraphSpec, Manifest, ParityFigures, Quantization, TensorSpec, Tolerance
from job.plan.plan import Plan, PlannedInput, PlannedShard, PlanPart
from job.run.heartbeat import Beat
from job.run.journal import ResultRow
from job.run.spec import RunEnd, RunSpec
from job.tools.audit import Finding
from job.tools.bench.figures import BatchFigures, BenchReport, Machine, OriginalFigures, Roofline, Setting
from job.tools.progress import PoolProgress, RunProgress
from job.worker.shards import FailedInput, Marker
from k8s import cluster, helm
from k8s.cli.janitor import janitor
from k8s.cli.lifecycle import cancel, resume, scale, suspend
from k8s.cli.logs import logs
from k8s.cli.status import status
from k8s.cli.submit import Submission, submit
from k8s.sizing import PoolSize, Sizes
from k8s.status import PodFailure, PoolStatus, ReleaseStatus
from tests.fakes import DEMO_ARTIFACT

ROOT = Path(__file__).parents[1]
FLAGS = {
    "annotate": (
        annotate,
        "--annotation_date --batch_size --candidates_threshold --checkpoint_digest --classes --confidence_threshold "
        "--device --device_retry_s --dry_run --exclude --fail_if_empty --image_mode --image_timeout_s --include "
        "--index --input_list --input_list_column --input_storage_options --input_top_dir --instances "
        "--journal_interval_s --limit --log_format --log_level --max_candidates --max_failed_fraction "
        "--max_image_pixels --memory_budget --metrics_port --missing_json --model --model_cache --model_digest "
        "--num_indexes --order --out_top_dir --output_storage_options --overlay_format --overlay_side "
        "--override_previous_annotations --override_reviewed --pool --prompts --run --runtime --self_check "
        "--shard_size --supersede --threads --visualize --workers",
    ),
    "plan": (
        plan,
        "--annotation_date --candidates_threshold --checkpoint_digest --classes --confidence_threshold --exclude "
        "--fail_if_empty --image_mode --include --input_list --input_list_column --input_storage_options "
        "--input_top_dir --instances --limit --log_format --log_level --max_candidates --max_image_pixels "
        "--missing_json --model --model_cache --model_digest --num_indexes --out_top_dir --output_storage_options "
        "--override_previous_annotations --override_reviewed --pool --prompts --run --shard_size --supersede",
    ),
    "audit": (
        audit,
        "--deep --input_storage_options --input_top_dir --list --log_format --log_level --output_storage_options -o",
    ),
    "bench": (
        bench,
        "--batch_size --device --images --json --model --model_digest --original --picture_size --prompts --runtime "
        "--threads",
    ),
    "progress": (progress, "--once --output_storage_options --run -o"),
    "convert": (
        convert,
        "--classes --dest_storage_options --exclude --image_url_prefix --images --include --input_storage_options "
        "--input_top_dir --log_format --log_level --masks --min_area --min_score --output_storage_options --polygons "
        "--rename --results --reviewed --split --split_by --task --to -o",
    ),
    "clean": (clean, "--output_storage_options --yes"),
    "doctor": (
        doctor,
        "--checkpoint_digest --classes --confidence_threshold --device --input_storage_options --input_top_dir "
        "--missing_json --model --model_cache --model_digest --out_top_dir --output_storage_options --prompts "
        "--runtime",
    ),
    "submit": (
        submit,
        "--chart --dry_run --hours --images --images_per_s --input_storage_options --kube_context --max_cost "
        "--namespace --output_storage_options --price_per_hour --set --set_string --values -f -n -o",
    ),
    "status": (status, "--kube_context --namespace --output_storage_options --wait --watch -n -o"),
    "logs": (logs, "--all --follow --index --kube_context --namespace --pool --tail -f -n"),
    "suspend": (suspend, "--chart --kube_context --namespace --pool -n"),
    "resume": (resume, "--chart --kube_context --namespace --pool -n"),
    "scale": (scale, "--chart --kube_context --namespace --parallelism --pool -n"),
    "cancel": (cancel, "--kube_context --namespace --yes -n"),
    "janitor": (
        janitor,
        "--job --log_format --log_level --namespace --out_top_dir --output_storage_options --run",
    ),
    "show": (show, "--model_id --out"),
    "export": (
        export,
        "--calibration --checkpoint --device --format --image_count --images --out --precision --runtime --threads",
    ),
    "verify": (verify, "--checkpoint --device --image_count --images --model_digest --threads"),
}

EXIT_CODES = {
    "AnnotateError": 70,
    "FindingsError": 1,
    "UsageError": 2,
    "TooManyFailedError": 65,
    "NoInputsError": 65,
    "WorkerError": 70,
    "DeviceError": 70,
    "UnusableDeviceError": 70,
    "DeviceMemoryError": 70,
    "SelfCheckError": 70,
    "HungImageError": 70,
    "ModelError": 70,
    "InterruptedRunError": 75,
    "StorageError": 75,
    "CredentialsRefusedError": 75,
    "RunOverError": 0,
    "ConfigurationError": 78,
    "ArtifactError": 78,
    "RunConflictError": 78,
}

FIELDS: dict[type[msgspec.Struct], str] = {
    RunSpec: "input_url prompts confidence_threshold annotation_date image_mode override override_reviewed "
    "max_image_pixels limit model_id checkpoint_sha256 include exclude input_list_sha256 classes_sha256 classes "
    "candidates_threshold max_candidates missing_json instances format_version",
    Plan: "nonce inputs_listed inputs_done images_without_json parts shards other_options",
    PlanPart: "name shards inputs forced",
    PlannedShard: "name inputs forced",
    PlannedInput: "json image prior problem forced no_json",
    ResultRow: "json result reason scores dropped hidden seconds mask_sha256 worker artifact precision provider "
    "runtime self_check instances",
    InstanceRow: "json image width height orientation class prompt query score value box area visible_area rle parent "
    "camera garage timestamp_ms candidate cut",
    Rle: "size counts",
    Marker: "attempt totals instances dropped failures",
    FailedInput: "json reason",
    Finding: "kind key detail",
    RunProgress: "run state inputs_listed inputs_done_before planned done failed left images_per_s eta_s pools "
    "last_errors other_options",
    PoolProgress: "alive left silent images_per_s",
    Beat: "attempt activity number annotated failed images_per_s last_error",
    ReleaseStatus: "release namespace run output state progress pools failures warnings",
    PoolStatus: "job state parallelism pods completions indexes_done indexes_failed pods_failed reason",
    PodFailure: "pool index pod exit_code is_final last_words",
    Submission: "release namespace run images sizes warnings",
    Sizes: "pools hours cost",
    PoolSize: "completions parallelism images pod_hours cost",
    RunEnd: "outcome by superseded_by inputs_listed annotated failed reviewed",
    Manifest: "format_version model_id sam3_version checkpoint_sha256 format precision image_side mean std prompts "
    "context_length image_encoder grounding mask_head text_encoder files parity weights_licence quantization",
    Quantization: "calibration_images rounded kept",
    FileEntry: "sha256 size",
    TensorSpec: "name dtype shape",
    GraphSpec: "file inputs outputs",
    ParityFigures: "comparison images instances unmatched score_max mask_iou_min mask_iou_mean mask_pixels_max "
    "tolerance passed provider machine queries query_error prompt_error",
    BenchReport: "date version machine setting batches largest_batch_error host_ms resident_bytes original roofline",
    Machine: "processor instructions cpus memory_bytes gpu driver",
    Setting: "model_id precision artifact runtime provider threads image_side prompts instances picture_wh",
    BatchFigures: "batch_size in_flight load_s encoder_ms grounding_ms prompt_ms mask_output_ms images_per_s images "
    "device_bytes",
    OriginalFigures: "library device threads encoder_ms grounding_ms",
    Roofline: "card predicted_ms share",
    Tolerance: "score threshold_band mask_iou mask_pixels mask_iou_mean mask_outliers query_error prompt_error",
}


@pytest.mark.parametrize(("command", "flags"), FLAGS.values(), ids=FLAGS)
def test_flags(command: click.Command, flags: str) -> None:
    options = [name for option in command.params if isinstance(option, click.Option) for name in option.opts]
    assert sorted(options) == flags.split()


def test_exit_codes() -> None:
    found = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.AnnotateError) and name in EXIT_CODES
    }
    assert found == EXIT_CODES


def test_exit_codes_of_a_cluster() -> None:
    assert (cluster.ClusterError.exit_code, helm.HelmError.exit_code, helm.ReleaseMissingError.exit_code) == (75, 75, 2)


@pytest.mark.parametrize(("kind", "fields"), FIELDS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_fields(kind: type[msgspec.Struct], fields: str) -> None:
    assert kind.__struct_encode_fields__ == tuple(fields.split())


API: dict[type, str] = {
    sam3_annotate.Annotator: "annotate",
    sam3_annotate.Annotation: "class_names draw image_key instances is_whole key load_image orientation painted "
    "size_hw to_coco to_supervision upright",
    sam3_annotate.Instance: "area box_xyxy class_name cropped mask prompt query rle score source value",
    sam3_annotate.Results: "class_names instances to_pandas",
}
"""Public names of the Python API."""


@pytest.mark.parametrize(("kind", "names"), API.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_names_of_the_python_api(kind: type, names: str) -> None:
    given = {*vars(kind), *getattr(kind, "__dataclass_fields__", ())}
    assert {name for name in given if not name.startswith("_")} == set(names.split())


def test_the_python_api_hands_on_these_names() -> None:
    assert sorted(sam3_annotate.__all__) == [
        "AnnotateError", "Annotation", "Annotator", "Instance", "Results", "open_results",
    ]  # fmt: skip


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_the_worker_loads_neither_torch_nor_the_exporter() -> None:
    code = (
        "import sys, job.cli.annotate, job.model.onnx_session; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    loaded = set(python(code).stdout.split())
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "torchvision", "sam3", "export", "kubernetes", "onnx", "scipy"}


def test_help_loads_no_command() -> None:
    code = (
        "import sys; from job.cli.main import run; run(['--help']); "
        "print(sorted(m for m in sys.modules if m.startswith(('job.cli', 'export', 'onnxruntime', 'numpy'))))"
    )
    completed = python(code)
    own = ("commands", "main", "terminal", "termination_message")
    assert completed.stdout.splitlines()[-1] == str(["job.cli", *(f"job.cli.{name}" for name in own)])
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["sam3_annotate.commands"]
    assert set(declared) == set(FLAGS)
    installed = {command.name for command in entry_points(group="sam3_annotate.commands")}
    assert all(name in completed.stdout for name in installed)  # those of the last `pip install`


def test_a_command_whose_extra_is_not_installed_is_one_sentence() -> None:
    without_torch = "import sys; sys.modules['torch'] = None; from job.cli.main import run; "
    completed = python(without_torch + "sys.exit(run(['export', '--checkpoint', 'demo', '--out', '/nowhere/model']))")
    assert completed.returncode == 78
    assert completed.stderr == (
        "Error: this needs torch, which is not installed: pip install 'sam3-annotate[export]'\n"
    )


def test_a_model_is_verified_on_a_machine_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from job.cli.main import run; sys.exit(run(['verify', {!r}]))"
    completed = python(code.format(str(DEMO_ARTIFACT)))
    assert completed.returncode == 0, completed.stderr
    assert "CPUExecutionProvider" in completed.stdout
