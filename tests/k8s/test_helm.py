"""The client of Helm: location of the chart, arguments and error mapping."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from job.errors import AnnotateError, ConfigurationError, UsageError
from k8s import helm
from k8s.helm import CHECKOUT_CHART, Helm, HelmError, ReleaseMissingError, find_chart

Program = Callable[[str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """A shell script that is the only helm on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(script: str) -> Path:
        path = folder / "helm"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


def test_the_default_chart_is_the_one_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_chart(None) == str(CHECKOUT_CHART)
    assert find_chart("oci://registry.example/chart") == "oci://registry.example/chart"
    monkeypatch.setattr(helm, "CHECKOUT_CHART", tmp_path)
    with pytest.raises(UsageError, match="give --chart with a folder, an archive or oci://"):
        find_chart(None)


def test_without_helm(program: Program) -> None:
    with pytest.raises(ConfigurationError, match="the program helm is not on the PATH") as caught:
        Helm("garage").uninstall("night")
    assert caught.value.exit_code == 78


def test_helm_without_execute_permission(program: Program) -> None:
    program("exit 0").chmod(0o644)
    with pytest.raises(ConfigurationError, match="the program helm is not on the PATH"):
        Helm("garage").uninstall("night")


def test_arguments_of_helm(program: Program) -> None:
    called = program('printf "%s\\n" "$@" > "$0.called"').with_name("helm.called")
    Helm("garage", "here").set("night", "./chart", {"pools.gpu.suspend": True, "run.name": "a,b"})
    assert called.read_text().splitlines() == [
        "upgrade", "night", "./chart", "--reuse-values", "--set-json", "pools.gpu.suspend=true", "--set-json",
        'run.name="a,b"', "--namespace", "garage", "--kube-context", "here",
    ]  # fmt: skip


ERRORS: dict[str, tuple[str, type[AnnotateError], int]] = {
    "no release": ("Error: uninstall: Release not loaded: night: release: not found", ReleaseMissingError, 2),
    "schema": ("Error: values don't meet the specifications of the schema(s)", UsageError, 2),
    "the chart's own words": ("Error: execution error at (jobs.yaml:1:3): pools: both are off", UsageError, 2),
    "--set": ('Error: failed to parse --set data: key "x" has no value', UsageError, 2),
    "no chart": ('Error: path "./chart" not found', UsageError, 2),
    "no rights": ('Error: secrets is forbidden: User "me" cannot list resource', UsageError, 2),
    "unreachable": ("Error: kubernetes cluster unreachable: connection refused", HelmError, 75),
    "another at it": ("Error: UPGRADE FAILED: another operation is in progress", HelmError, 75),
}


@pytest.mark.parametrize(("told", "error", "code"), ERRORS.values(), ids=ERRORS)
def test_errors_of_helm_are_mapped_and_on_one_line(
    program: Program, told: str, error: type[AnnotateError], code: int
) -> None:
    program(f"echo working; echo {shlex.quote(told)} >&2; echo '  and more' >&2; exit 1")
    with pytest.raises(AnnotateError) as caught:
        Helm("garage").uninstall("night")
    assert (type(caught.value), caught.value.exit_code) == (error, code)
    assert str(caught.value) == f"helm uninstall: {told.removeprefix('Error: ')} and more"


def test_a_release_that_is_not_installed_has_no_values(program: Program) -> None:
    program("echo 'Error: release: not found' >&2; exit 1")
    assert Helm("garage").given_values("night") is None
    with pytest.raises(ReleaseMissingError):
        Helm("garage").values("night")


@pytest.mark.parametrize(("told", "values"), [("null", {}), ('{"run": {"name": "x"}}', {"run": {"name": "x"}})])
def test_values_given_by_the_user(program: Program, told: str, values: object) -> None:
    program(f"echo '{told}'")
    assert Helm("garage").given_values("night") == values


def test_versions_of_charts(program: Program) -> None:
    program("""case "$1 $2" in
        "get metadata") echo '{"name": "night", "chart": "sam3-annotate", "version": "0.2.0"}' ;;
        "show chart") printf 'apiVersion: v2\\nname: x\\nversion: 0.3.0-rc.1\\nappVersion: 1\\n' ;;
    esac""")
    assert Helm("garage").installed_version("night") == "0.2.0"
    assert Helm("garage").version_of("oci://registry.example/chart") == "0.3.0-rc.1"


def test_the_error_for_a_number_names_set_string(program: Program) -> None:
    program("""echo "Error: values don't meet the schema(s): at '/run/name': got number, want string" >&2; exit 1""")
    with pytest.raises(UsageError, match=r"want string\. Give a string that looks like a number by --set_string KEY"):
        Helm("garage").render("night", "./chart", ())


def test_helm_times_out(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helm, "_TIMEOUT_S", 0.2)
    program("exec /bin/sleep 60")
    with pytest.raises(HelmError, match="helm uninstall timed out after"):
        Helm("garage").uninstall("night")
