"""How commands and flags are found: sections, suggestions, both spellings, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

from job.cli.commands import COMMAND_GROUP, SECTIONS, underscored
from job.cli.flags import Location
from job.cli.main import cli, run

COMMANDS = sorted(found.name for found in entry_points(group=COMMAND_GROUP))
PATH_FLAGS = {
    "--checkpoint", "--input_list", "--input_storage_options", "--input_top_dir", "--list", "--model", "--model_cache",
    "--out", "--out_top_dir", "--output_storage_options", "--chart", "--values", "--original", "--dest_storage_options",
}  # fmt: skip
PATH_ARGUMENTS = {"out", "dest", "folder", "json_file"}
TAKE_A_FILE_OF_CLASSES = {"annotate", "plan", "doctor"}


def load(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def completions(*words: str) -> list[str]:
    """What bash is given for a command line whose last word is incomplete; words of `type,value`."""
    environment = {
        "COMP_WORDS": " ".join(("sam3-annotate", *words)),
        "COMP_CWORD": str(len(words)),
        "_SAM3_ANNOTATE_COMPLETE": "bash_complete",
    }
    completed = subprocess.run(
        [sys.executable, "-m", "job"], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert not completed.stderr
    return completed.stdout.split()


def test_help_lists_every_command_in_one_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    commands: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            listed = commands.setdefault(line[:-1], [])
        elif line.startswith("  ") and line[2] != " " and line.split()[0] in COMMANDS:
            listed.append(line.split()[0])
    assert [name for name in commands if name != "Options"] == list(SECTIONS)
    assert sorted(name for names in commands.values() for name in names) == COMMANDS
    assert commands["Annotate"] == ["annotate", "clean", "doctor", "plan"]
    assert commands["Model"] == ["bench", "export", "verify"]
    assert {"submit", "janitor"} <= set(commands["Cluster"])


@pytest.mark.parametrize(("typo", "meant"), [("anotate", "annotate"), ("progres", "progress"), ("statsu", "status")])
def test_a_typo_in_a_command_is_answered_with_a_suggestion(
    typo: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([typo]) == 2
    assert f"Error: No such command '{typo}'. Did you mean '{meant}'?" in capsys.readouterr().err


def test_a_name_like_no_command_has_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["xyzzy"]) == 2
    assert capsys.readouterr().err.endswith("Error: No such command 'xyzzy'.\n")


@pytest.mark.parametrize("flag", ["-v", "--version"])
def test_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([flag]) == 0
    assert capsys.readouterr().out.startswith("sam3-annotate, version ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_taken_in_both_spellings(name: str) -> None:
    command, parent = load(name), click.Context(cli, **cli.context_settings)
    for option in command.params:
        if not isinstance(option, click.Option):
            continue
        for flag in (flag for flag in option.opts if "_" in flag):
            for spelling in (flag, flag.replace("_", "-")):
                words = [spelling] if option.is_flag else [spelling, "a-b_c"]
                parser = command.make_parser(click.Context(command, parent=parent))
                values, rest, _ = parser.parse_args(words)
                taken = values[option.name or ""]
                assert rest == []
                assert option.is_flag or taken in ("a-b_c", ["a-b_c"]), "the value stays as it is"


def test_help_shows_underscores(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["annotate", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--input_top_dir" in shown
    assert "--input-top-dir" not in shown


def test_values_and_arguments_after_two_dashes_stay_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--input-top-dir", f"{tmp_path}/a-b", f"--out-top-dir={tmp_path}/c-d"]) == 2
    assert f"no such input folder: {tmp_path}/a-b. " in capsys.readouterr().err
    assert run(["show", "--", "--a-b.json"]) == 2
    assert "'--a-b.json' does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--a-b", "--a_b"),
        ("--a-b=c-d", "--a_b=c-d"),
        ("--", "--"),
        ("-a-b", "-a-b"),
        ("a-b", "a-b"),
    ],
)
def test_underscored(given: str, expected: str) -> None:
    assert underscored(given) == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_every_path_or_url_completes_paths(name: str) -> None:
    for parameter in load(name).params:
        is_path = bool(PATH_FLAGS & set(parameter.opts)) or parameter.name in PATH_ARGUMENTS
        is_path = is_path or (parameter.name == "classes" and name in TAKE_A_FILE_OF_CLASSES)
        assert isinstance(parameter.type, Location | click.Path) or not is_path, parameter.name
        assert is_path or not isinstance(parameter.type, Location), parameter.name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("an",), ["plain,annotate"]),
        (("annotate", "--input_top_dir", "/da"), ["dir,/da"]),
        (("annotate", "--input-top-dir", "/da"), ["dir,/da"]),
        (("--input-top-dir", "/da"), ["dir,/da"]),
        (("--input_top_dir", "s3://bucket/da"), []),
        (("--input-list", "ke"), ["file,ke"]),
        (("--override-pre",), ["plain,--override_previous_annotations"]),
        (("annotate", "--override_pre"), ["plain,--override_previous_annotations"]),
        (("--device", "c"), ["plain,cuda", "plain,cpu"]),
        (("audit", "ou"), ["dir,ou"]),
        (("--vers",), ["plain,--version"]),
    ],
)
def test_completion_in_bash(words: tuple[str, ...], expected: list[str]) -> None:
    assert completions(*words) == expected


def test_completing_a_command_name_loads_no_command() -> None:
    without_extras = "import sys; sys.modules['kubernetes'] = None; sys.modules['torch'] = None; "
    code = without_extras + "from job.cli.main import main; main()"
    environment = {"COMP_WORDS": "sam3-annotate s", "COMP_CWORD": "1", "_SAM3_ANNOTATE_COMPLETE": "bash_complete"}
    completed = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert completed.stdout.split() == ["plain,scale", "plain,show", "plain,status", "plain,submit", "plain,suspend"]
    assert not completed.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "job"],
        env={**os.environ, "_SAM3_ANNOTATE_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"_SAM3_ANNOTATE_COMPLETE={shell}_complete" in completed.stdout
