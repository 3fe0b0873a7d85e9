"""A run whose every location and key is a secret: no file, report or line that it leaves shows one."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import pytest

from job.errors import RunConflictError
from job.run.run import open_run
from job.storage.local.store import LocalStore
from tests.fakes import DEMO_ARTIFACT, spec_of
from tests.hostile.canaries import Call, canaries_in, canary, files_of, with_short_retries, without_redaction
from tests.hostile.guarded_web import FORBIDDEN, guarded
from tests.s3.servers import S3Server

BUCKET = "canaries"
IN_URLS = {place: canary(place) for place in ("input url", "model url", "classes url", "list url")}
IN_OPTIONS = {place: canary(place) for place in ("access key", "secret key", "session token")}
IN_ENVIRONMENT = {
    name: canary(name)
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "HF_TOKEN",
        "HTTP_PROXY",
        "HTTPS_PROXY",
    )
}
CLASSES = """
classes:
  - {name: car}
  - {name: person}
"""
BAD = {"broken.json": b"{", "broken.jpg": b"no picture", "lonely.json": b"{}", f"{FORBIDDEN}.json": b"{}"}
"""Inputs that fail, each with a reason; the server refuses the last one."""


@dataclass(frozen=True)
class Site:
    """The locations of a run.

    Attributes:
        folder: Of this machine.
        flags: Of `annotate`: input, output, model and list or classes, each with its secret.
        moto: The server with the output.
        used: Secrets with which the web server was asked.
    """

    folder: Path
    flags: dict[str, str]
    moto: S3Server
    used: set[str]

    def outputs(self) -> dict[str, bytes]:
        """Every version of every object that was ever put, deleted ones included."""
        s3 = boto3.client("s3", **client_options(self.moto))
        found = {}
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=BUCKET):
            for number, version in enumerate(page.get("Versions", ())):
                answer = s3.get_object(Bucket=BUCKET, Key=version["Key"], VersionId=version["VersionId"])
                found[f"{version['Key']} {number}"] = version["Key"].encode() + b"\n" + answer["Body"].read()
        return found


def client_options(server: S3Server) -> dict[str, str]:
    return {
        "endpoint_url": server.endpoint_url, "region_name": server.region,
        "aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret_key,
    }  # fmt: skip


@pytest.fixture
def site(scenes: Path, tmp_path: Path, moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    web_root = tmp_path / "web"
    shutil.copytree(DEMO_ARTIFACT, web_root / "model")
    (web_root / "in").mkdir()
    for name, data in BAD.items():
        (web_root / "in" / name).write_bytes(data)
    for number, original in enumerate(sorted(scenes.rglob("*.jpg"))[:3]):
        for suffix in (".jpg", ".json"):
            shutil.copy(original.with_suffix(suffix), web_root / "in" / f"{number}{suffix}")
    (web_root / "classes.yaml").write_text(CLASSES)
    (web_root / "keys.txt").write_text("".join(f"{path.name}\n" for path in sorted((web_root / "in").glob("*.json"))))
    s3 = boto3.client("s3", **client_options(moto))
    s3.create_bucket(Bucket=BUCKET)
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    options = moto.options() | dict(zip(("key", "secret", "token"), IN_OPTIONS.values(), strict=True))
    (tmp_path / "options.json").write_text(json.dumps(options))
    for name, secret in IN_ENVIRONMENT.items():
        monkeypatch.setenv(name, f"http://me:{secret}@127.0.0.1:9" if name.endswith("PROXY") else secret)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with_short_retries(monkeypatch)
    with guarded(web_root, frozenset(IN_URLS.values())) as (web, used):
        flags = {
            "--input_top_dir": f"http://me:{IN_URLS['input url']}@{web}/in",
            "--out_top_dir": f"s3://{BUCKET}/out",
            "--output_storage_options": str(tmp_path / "options.json"),
            "--model": f"http://me:{IN_URLS['model url']}@{web}/model",
            "--classes": f"http://{web}/classes.yaml?X-Amz-Security-Token={IN_URLS['classes url']}",
            "--input_list": f"http://{web}/keys.txt?sv=1&sig={IN_URLS['list url']}&se=2",
            "--model_cache": str(tmp_path / "cache"),
        }
        yield Site(tmp_path, flags, moto, used)
    for version in s3.list_object_versions(Bucket=BUCKET).get("Versions", ()):
        s3.delete_object(Bucket=BUCKET, Key=version["Key"], VersionId=version["VersionId"])
    for marker in s3.list_object_versions(Bucket=BUCKET).get("DeleteMarkers", ()):
        s3.delete_object(Bucket=BUCKET, Key=marker["Key"], VersionId=marker["VersionId"])
    s3.delete_bucket(Bucket=BUCKET)


def flat(flags: dict[str, str], *names: str) -> list[str]:
    return [part for name, value in flags.items() if not names or name in names for part in (name, value)]


def run_and_report(site: Site, call: Call, *, only: int | None = None) -> dict[str, str]:
    """What each command prints."""
    output = [f"s3://{BUCKET}/out", *flat(site.flags, "--output_storage_options")]
    places = flat(site.flags, "--input_top_dir", "--out_top_dir", "--output_storage_options")
    again = [*output, *flat(site.flags, "--input_top_dir")]
    dest, picture = str(site.folder / "dest"), ["--images", "1", "--picture_size", "64x64"]
    commands: tuple[tuple[int, list[str]], ...] = (
        (0, ["plan", *flat(site.flags), "--run", "r"]),
        (0, ["annotate", *flat(site.flags), "--run", "r", "--visualize", "--journal_interval_s", "0.1", "--log_level",
             "DEBUG", "--log_format", "json", "--max_failed_fraction", "1"]),
        (78, ["annotate", *places, "--run", "r", "--prompts", "dog"]),
        (0, ["progress", *output, "--once"]),
        (0, ["progress", *output, "-o", "json"]),
        (0, ["audit", *again, "--deep", "--list", str(site.folder / "list")]),
        (0, ["audit", *again, "-o", "json", "--deep"]),
        (78, ["audit", *output, "-o", "json"]),
        (0, ["convert", *output, f"{dest}/coco", "--to", "coco"]),
        (0, ["convert", *output, f"{dest}/studio", "--to", "label-studio"]),
        (0, ["convert", *again, f"{dest}/labelme", "--to", "labelme"]),
        (0, ["doctor", *places, *flat(site.flags, "--model", "--model_cache")]),
        (0, ["bench", *flat(site.flags, "--model"), "--json", str(site.folder / "bench.json"), *picture]),
        (0, ["clean", *output, "--yes"]),
    )  # fmt: skip
    shown = {}
    for expected, command in commands[:only]:
        code, text = call(*command)
        assert code == expected, f"{command[0]}: {text}"
        shown[" ".join((command[0], *command[2:]))] = text
    return shown


def test_a_run_leaves_no_secret_anywhere(site: Site, call: Call) -> None:
    shown = run_and_report(site, call)
    assert site.used == set(IN_URLS.values()), "the secrets were needed"
    stored = site.outputs()
    files = files_of(site.folder / "cache", site.folder / "dest")
    files |= {
        name: (site.folder / name).read_bytes() for name in ("list", "bench.json") if (site.folder / name).exists()
    }
    kinds = {re.sub(r"[0-9a-f]{8,}|[0-9]+", "N", name.rpartition("/")[2]) for name in stored}
    sinks: dict[str, bytes | str] = {**shown, **stored, **files}
    leaks = {name: found for name, data in sinks.items() if (found := canaries_in(data))}
    secrets = len(IN_URLS) + len(IN_OPTIONS) + len(IN_ENVIRONMENT)
    sys.stdout.write(
        f"{secrets} secrets; {len(shown)} commands, {len(stored)} objects of {len(kinds)} kinds, {len(files)} files\n"
    )
    assert leaks == {}
    for kind in ("run.json", "plan.json", "failures.jsonl", "end.json"):
        assert any(f"/{kind} " in name for name in stored), kind
    for folder in ("/journal/", "/done/", "/workers/", "/instances/", "/overlays/"):
        assert any(folder in name for name in stored), folder


@pytest.mark.slow
def test_without_redaction_the_run_would_leave_secrets(site: Site, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    without_redaction(monkeypatch)
    shown = run_and_report(site, call, only=2)
    stored = site.outputs()
    assert IN_URLS["input url"] in canaries_in(*(data for name, data in stored.items() if "run.json" in name))
    assert IN_URLS["input url"] in canaries_in(*(data for name, data in stored.items() if "/journal/" in name))
    assert IN_URLS["input url"] in canaries_in(*(data for name, data in stored.items() if "failures" in name))
    assert {IN_URLS["input url"], IN_URLS["model url"]} <= canaries_in(*shown.values())


def test_a_run_whose_file_holds_a_password_is_resumed(tmp_path: Path) -> None:
    """As earlier versions stored it."""
    store, spec = LocalStore(tmp_path, "x"), spec_of(tmp_path, input_url="https://me:password@host/in")
    old = open_run(store, spec, name=None, is_date_given=True, process_id="old")
    spec = spec_of(tmp_path, input_url="https://host/in")
    assert open_run(store, spec, name=None, is_date_given=True, process_id="new").name == old.name
    other = spec_of(tmp_path, input_url="https://host/other")
    with pytest.raises(RunConflictError) as refused:
        open_run(store, other, name=old.name, is_date_given=True, process_id="new")
    assert "password" not in str(refused.value)
