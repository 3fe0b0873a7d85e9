"""No command asks for a name on the network or writes to the home folder, telemetry of dependencies included."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes import DEMO_ARTIFACT

OFFLINE = str(Path(__file__).parent / "offline.py")
UNSHARE = ("unshare", "--net", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)))
TELEMETRY = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "CI")
"""ONNX Runtime sends nothing where CI is set."""
ASK = "import socket\ntry: socket.gethostbyname('control.example')\nexcept OSError: pass"


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code, its output, the names it asked for and the files in its home folder."""

    code: int
    output: str
    names: list[str]
    home: list[str]


def run_offline(folder: Path, *arguments: str, **environment: str) -> Outcome:
    """Run a Python command in a network namespace that has only a loopback interface and a resolver."""
    home, questions = folder / "home", folder / "questions"
    home.mkdir()
    questions.touch()
    kept = {name: value for name, value in os.environ.items() if name not in TELEMETRY and "XDG" not in name}
    completed = subprocess.run(
        [*UNSHARE, sys.executable, OFFLINE, str(questions), str(folder / "resolv.conf"), sys.executable, *arguments],
        env={**kept, "HOME": str(home), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    written = [str(path.relative_to(home)) for path in sorted(home.rglob("*"))]
    return Outcome(completed.returncode, completed.stdout, questions.read_text().splitlines(), written)


@pytest.fixture(scope="module", autouse=True)
def namespaces(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where namespaces are not allowed; prove else that a question is seen."""
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        pytest.skip("needs unshare and mount (util-linux)")
    if subprocess.run([*UNSHARE, "mount", "--bind", "/etc", "/etc"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make network and mount namespaces")
    outcome = run_offline(tmp_path_factory.mktemp("control"), "-c", ASK)
    assert "control.example" in outcome.names, outcome


@pytest.fixture
def folders(scenes: Path, tmp_path: Path) -> tuple[str, ...]:
    """Flags of an input of sixty images, which takes some seconds, an output and a model cache."""
    source = tmp_path / "in"
    source.mkdir()
    pairs = sorted(scenes.rglob("*.json"))
    for number in range(60):
        for suffix in (".json", ".jpg"):
            os.link(pairs[number % len(pairs)].with_suffix(suffix), source / f"{number:03d}{suffix}")
    of_run = ("--input_top_dir", str(source), "--out_top_dir", str(tmp_path / "out"))
    return (*of_run, "--model_cache", str(tmp_path / "cache"))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_annotate(folders: tuple[str, ...], tmp_path: Path, workers: str) -> None:
    outcome = run_offline(tmp_path, "-m", "job", *folders, "--workers", workers, "--threads", "2")
    assert outcome.code == 0, outcome.output
    assert (outcome.names, outcome.home) == ([], [])


def test_openvino(folders: tuple[str, ...], tmp_path: Path) -> None:
    """The first command shows that OpenVINO without this package reports to a server or keeps an id."""
    pytest.importorskip("openvino")
    for name in ("alone", "ours"):
        (tmp_path / name).mkdir()
    alone = run_offline(tmp_path / "alone", "-c", "import openvino, time; time.sleep(3)")
    assert alone.names or alone.home, alone
    flags = ("--runtime", "openvino", "--threads", "2", "--limit", "4")
    outcome = run_offline(tmp_path / "ours", "-m", "job", *folders, *flags)
    assert outcome.code == 0, outcome.output
    assert (outcome.names, outcome.home) == ([], [])


def test_doctor(folders: tuple[str, ...], tmp_path: Path) -> None:
    outcome = run_offline(tmp_path, "-m", "job", "doctor", *folders)
    assert outcome.code == 0, outcome.output
    assert (outcome.names, outcome.home) == ([], [])


def test_verify(tmp_path: Path) -> None:
    outcome = run_offline(tmp_path, "-m", "job", "verify", str(DEMO_ARTIFACT))
    assert outcome.code == 0, outcome.output
    assert (outcome.names, outcome.home) == ([], [])


def test_export(tmp_path: Path) -> None:
    flags = ("--checkpoint", "demo", "--out", str(tmp_path / "model"), "--image_count", "1", "--threads", "1")
    outcome = run_offline(tmp_path, "-m", "job", "export", *flags)
    assert outcome.code == 0, outcome.output
    assert (outcome.names, outcome.home) == ([], [])


def test_a_setting_of_the_user_stays(tmp_path: Path) -> None:
    """Shows too that these tests see telemetry: ONNX Runtime keeps a device id in the home folder."""
    outcome = run_offline(tmp_path, "-m", "job", "verify", str(DEMO_ARTIFACT), ORT_DISABLE_TELEMETRY="0")
    assert outcome.code == 0, outcome.output
    assert any("onnxruntime" in name for name in outcome.home)


@pytest.mark.parametrize("package", ["job", "export"])
def test_each_package_turns_telemetry_off(package: str) -> None:
    code = f"import os, {package}; print(*(os.environ.get(name) for name in {TELEMETRY[:2]}))"
    environment = {name: value for name, value in os.environ.items() if name not in TELEMETRY}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert found == "1 1\n"
