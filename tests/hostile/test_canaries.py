"""Secrets that a user puts into a URL, an options file, the environment or a chart value come out nowhere.

Each place has a canary of its own. This module tries commands that fail, with all that they print; a run that succeeds,
with every file that it leaves, is in `test_canary_run.py`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import helm_python
import pytest

from job.errors import ConfigurationError, UsageError
from job.redaction import has_secret, public_url, redact
from tests.chart.rendering import EXPORT, ON_S3, Values, at, merged, render
from tests.fakes import write_inputs
from tests.hostile.canaries import Call, canaries_in, canary, files_of, with_short_retries, without_redaction
from tests.hostile.guarded_web import guarded
from tests.k8s.api import Api, served
from tests.k8s.charts import LibraryHelm
from tests.k8s.objects import job

PASSWORD = "http://me:{c}@{web}"
SIGNED = "?X-Amz-Algorithm=A&X-Amz-Credential={c}&X-Amz-Security-Token={c}&X-Amz-Signature={c}"
"""What a presigned URL of S3 ends in."""
ANSWERS = ("missing", "forbidden", "junk")


@dataclass(frozen=True)
class Place:
    """A place for a secret in a command that fails.

    Attributes:
        command: The command, without its other locations.
        flags: With {c} for the secret, {web} for the server, {file} for a file with `content`.
        content: Of that file.
        environment: Variables of the process.
        is_shown: Whether a message would show the secret without redaction.
    """

    command: str
    flags: tuple[str, ...]
    content: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    is_shown: bool = True

    @property
    def name(self) -> str:
        where = " ".join((*self.flags, self.content, *self.environment.values()))
        return (
            f"{self.command} {where}".replace("{c}", "C")
            .replace("{web}", "web")
            .replace("127.0.0.1", "host")
            .replace("{{", "{")
            .replace("}}", "}")
        )


def _urls() -> Iterator[Place]:
    for flag, path in (("--model", "/{0}"), ("--classes", "/{0}.yaml"), ("--input_list", "/{0}.txt")):
        for answer in ANSWERS:
            yield Place("annotate", (flag, PASSWORD + path.format(answer)))
            if flag != "--model":
                yield Place("annotate", (flag, "http://{web}" + path.format(answer) + SIGNED))
        yield Place("annotate", (flag, "http://127.0.0.1:9" + path.format("a") + SIGNED))
        yield Place("annotate", (flag, "http://me:{c}@127.0.0.1:9" + path.format("a")))
    for flag in ("--model", "--classes", "--input_list", "--input_top_dir", "--out_top_dir"):
        yield Place("annotate", (flag, "nope://me:{c}@host/a"))
        yield Place("annotate", (flag, "http://me:{c}@[bad/a"), is_shown=flag.endswith("_top_dir"))
        yield Place("annotate", (flag, "s3://AKIA:{c}/+x@bucket/a"))
    yield Place("annotate", ("--input_top_dir", PASSWORD + "/missing", "--fail_if_empty"))
    yield Place("annotate", ("--input_top_dir", PASSWORD + "/forbidden"))
    yield Place("annotate", ("--input_top_dir", "http://{c}@{web}/forbidden"))
    yield Place("annotate", ("--out_top_dir", PASSWORD + "/out"))
    yield Place("annotate", ("--device", PASSWORD))
    yield Place("annotate", (f"--no_such_flag={PASSWORD}",), is_shown=False)


def _commands() -> Iterator[Place]:
    for url in ("nope://me:{c}@host/a", "s3://AKIA:{c}@bucket/a", PASSWORD + "/forbidden"):
        for command, flags in (
            ("plan", ("--input_top_dir", url)),
            ("plan", ("--out_top_dir", url)),
            ("doctor", ("--input_top_dir", url)),
            ("doctor", ("--out_top_dir", url)),
            ("doctor", ("--model", url)),
            ("bench", ("--model", url)),
            ("audit", (url,)),
            ("audit", (url, "-o", "json", "--log_format", "json")),
            ("progress", (url, "-o", "json")),
            ("clean", (url,)),
            ("convert", (url, "dest", "--to", "coco")),
        ):
            yield Place(command, flags)


def _options() -> Iterator[Place]:
    key = '{{"key": "{c}", "secret": "{c}", "token": "{c}", '
    endpoint = '"client_kwargs": {{"endpoint_url": "http://{web}", "region_name": "eu-1"}}}}'
    for side in ("input", "output"):
        url = ("--input_top_dir" if side == "input" else "--out_top_dir", "s3://bucket/a")
        flag = f"--{side}_storage_options"
        yield Place("annotate", (*url, flag, "{file}"), key + endpoint, is_shown=False)
        yield Place("annotate", (*url, flag, "{file}"), key + '"nonsense": "{c}"}}', is_shown=False)
        yield Place("annotate", (*url, flag, "{file}"), key + '"client_kwargs": "{c}"}}', is_shown=False)
        yield Place("annotate", (*url, flag, "{file}"), '{{"endpoint_url": "http://me:{c}@[bad"}}', is_shown=False)
        yield Place(
            "annotate", (*url, flag, "{file}"), '{{"endpoint_url": "http://me:{c}@127.0.0.1:9"}}', is_shown=False
        )
        yield Place("annotate", (flag, "{file}"), '{{"secret": "{c}"', is_shown=False)
        yield Place("annotate", (flag, "{file}"), '["{c}"]', is_shown=False)
        yield Place("annotate", (flag, "http://me:{c}@host/options.json"))


def _environment() -> Iterator[Place]:
    keys = {"AWS_ACCESS_KEY_ID": "{c}", "AWS_SECRET_ACCESS_KEY": "{c}", "AWS_SESSION_TOKEN": "{c}"}
    yield Place(
        "annotate", ("--input_top_dir", "s3://bucket/a"), "", {**keys, "AWS_ENDPOINT_URL": "http://{web}"}, False
    )
    yield Place("annotate", ("--input_top_dir", "s3://bucket/a"), "", {**keys, "AWS_ENDPOINT_URL": PASSWORD}, False)
    yield Place("annotate", ("--model", "http://host/a"), "", {"HTTP_PROXY": "http://me:{c}@127.0.0.1:9"}, False)
    yield Place("annotate", ("--model", "http://host/a"), "", {"HTTP_PROXY": "nope://me:{c}@127.0.0.1:9"}, False)
    yield Place("annotate", ("--model", "https://host/a"), "", {"HTTPS_PROXY": "http://me:{c}@127.0.0.1:9"}, False)


PLACES = (*_urls(), *_commands(), *_options(), *_environment())
_LOCATIONS = {"annotate": ("--input_top_dir", "--out_top_dir"), "plan": ("--input_top_dir", "--out_top_dir")}
_LOCATIONS["doctor"] = _LOCATIONS["plan"]


def arguments_of(place: Place, folder: Path, log_format: str, **given: str) -> list[str]:
    flags = [flag.format(**given) for flag in place.flags]
    locations = {"--input_top_dir": str(folder / "in"), "--out_top_dir": str(folder / "out")}
    for flag in _LOCATIONS.get(place.command, ()):
        if flag not in flags:
            flags += [flag, locations[flag]]
    if place.command == "annotate":
        flags += ["--log_level", "DEBUG", "--log_format", log_format, "--model_cache", str(folder / "cache")]
    return [place.command, *flags]


def try_place(place: Place, folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch, log_format: str) -> set[str]:
    """The canaries in all that the command printed and stored."""
    write_inputs(folder / "in", 1)
    secret = canary("secret of a user")
    with monkeypatch.context() as patched, guarded(folder, frozenset({secret})) as (web, _):
        with_short_retries(patched)
        patched.chdir(folder)
        given = {"c": secret, "web": web, "file": "options.json"}
        for name in ("NO_PROXY", "no_proxy", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patched.delenv(name, raising=False)
        for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", **place.environment}.items():
            patched.setenv(name, value.format(**given))
        (folder / "options.json").write_text(place.content.format(**given))
        code, shown = call(*arguments_of(place, folder, log_format, **given))
    assert code != 0, shown
    assert len(shown) > 20, "a message tells what is wrong"
    return canaries_in(shown, *files_of(folder / "out", folder / "cache", folder / "dest").values())


@pytest.mark.parametrize("place", PLACES, ids=[place.name for place in PLACES])
def test_a_command_that_fails_shows_no_secret(
    place: Place, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = ("text", "json") if place.command == "annotate" and not place.content else ("text",)
    for log_format in formats:
        folder = tmp_path / log_format
        folder.mkdir()
        assert try_place(place, folder, call, monkeypatch, log_format) == set()


@pytest.mark.slow
def test_without_redaction_the_secrets_are_found(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above could not fail."""
    without_redaction(monkeypatch)
    shown = [place for place in PLACES if place.is_shown]
    silent = []
    for number, place in enumerate(shown):
        folder = tmp_path / str(number)
        folder.mkdir()
        if not try_place(place, folder, call, monkeypatch, "text"):
            silent.append(place.name)
    sys.stdout.write(f"{len(PLACES)} places in commands, {len(shown) - len(silent)} of {len(shown)} shown unredacted\n")
    assert not silent, "\n".join(silent)


C = canary("chart value")
URL_VALUES = (
    "input.url", "output.url", "s3.endpoint", "selection.inputList.url", "annotation.classes", "pools.gpu.model.uri",
    "pools.cpu.model.uri", "proxy.http", "proxy.https",
)  # fmt: skip
URLS = (f"s3://AKIA:{C}/+x@bucket/a", f"http://me:{C}@host:3128", f"https://{C}@host/a", f"https://host/a?{SIGNED[1:]}")
SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "DB_PASSWORD",
)
CHART_VALUES: tuple[Values, ...] = (
    *(at(path, url.format(c=C)) for path in URL_VALUES for url in URLS),
    *(at(path, [{"name": name, "value": C}]) for path in ("extraEnv", "pools.gpu.env") for name in SECRET_VARIABLES),
    at("pools.cpu.env", [{"name": "HTTPS_PROXY", "value": f"http://me:{C}@proxy:3128"}]),
    at("sidecars", [{"name": "tunnel", "image": "a", "env": [{"name": "DB_PASSWORD", "value": C}]}]),
    at("initContainers", [{"name": "first", "image": "a", "env": [{"name": "HF_TOKEN", "value": C}]}]),
)


def test_the_chart_renders_no_secret_of_its_values() -> None:
    """Every user who can read a Job could read it: such values are refused, and the message does not show them."""
    export = merged(EXPORT, at("export.checkpoint.uri", f"https://me:{C}@host/sam3.pt"))
    for values in (*(merged(ON_S3, one) for one in CHART_VALUES), export):
        with pytest.raises(helm_python.HelmError, match=r"Secret|does not match pattern") as refused:
            render(values)
        assert canaries_in(redact(str(refused.value))) == set()  # as `submit` shows it
    sys.stdout.write(f"{len(CHART_VALUES) + 1} places in chart values\n")


@pytest.mark.parametrize(
    "values",
    [
        at("proxy.http", "http://proxy:3128"),
        at("s3.endpoint", "http://user.example:9000/"),
        at("input.url", "abfs://container@account.dfs.core.windows.net/in"),
        at("input.url", "s3://bucket/key:1@2"),
        at("extraEnv", [{"name": "TOKENIZERS_PARALLELISM", "value": "false"}]),
        at("extraEnv", [{"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": "/var/run/token"}]),
        at("extraEnv", [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]),
    ],
)
def test_the_chart_takes_values_without_secrets(values: Values) -> None:
    assert render(merged(ON_S3, values)).jobs


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with served(tmp_path) as found:
        monkeypatch.setenv("KUBECONFIG", str(found.kubeconfig))
        monkeypatch.setattr("k8s.cli.submit.Helm", lambda namespace, context: LibraryHelm(namespace, context))
        monkeypatch.setattr("k8s.cli.lifecycle.Helm", lambda namespace, context: LibraryHelm(namespace, context))
        yield found


@pytest.mark.parametrize("url", URLS)
def test_submit_shows_no_secret(api: Api, call: Call, url: str) -> None:
    given = [f"--set=input.url={url.format(c=C)}", "--set=output.url=s3://bucket/out"]
    for form in ("text", "json"):
        code, shown = call("submit", "night", "--dry_run", "-o", form, *given)
        assert (code, canaries_in(shown)) == (2, set())


def test_commands_on_a_release_that_holds_a_secret_show_none(
    api: Api, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Job of an earlier version of the chart."""
    with_short_retries(monkeypatch)
    location = f"nope://me:{C}@host"
    api.jobs = [
        job("gpu", args=["annotate", f"--input_top_dir={location}/in", f"--out_top_dir={location}/out", "--run=r"])
    ]
    for command in (["status", "night"], ["status", "night", "-o", "json"], ["cancel", "night"]):
        _, shown = call(*command)
        assert len(shown) > 20
        assert canaries_in(shown) == set()


def test_an_export_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub.constants

    from export import hub
    from export.locations import local_checkpoint, local_output

    with_short_retries(monkeypatch)
    secret = canary("checkpoint url")
    monkeypatch.setenv("HF_TOKEN", secret)
    with guarded(tmp_path, frozenset({secret})) as (web, _):
        hub_url = f"http://me:{secret}@{web}/forbidden"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub_url)
        monkeypatch.setattr(
            huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub_url + "/{repo_id}/{revision}/{filename}"
        )
        messages = []
        for answer in ANSWERS[:2]:
            url = f"http://me:{secret}@{web}/{answer}/sam3.pt"
            with pytest.raises((UsageError, ConfigurationError)) as failed, local_checkpoint(url):
                pass
            messages.append(str(failed.value))
            with pytest.raises((UsageError, ConfigurationError)) as failed, local_output(url):
                pass
            messages.append(str(failed.value))
        with pytest.raises(ConfigurationError) as failed:
            hub.download("hub")
        messages.append(str(failed.value))
        assert "could not be downloaded" in str(failed.value)
    printed = capfd.readouterr()
    assert "Fetching http://***@" in printed.out
    assert canaries_in(printed.out, printed.err, *messages) == set()


@pytest.mark.parametrize("command", ["convert", "clean", "audit", "show"])
def test_an_unexpected_error_shows_no_secret(tmp_path: Path, command: str) -> None:
    """A defect whose error names a URL; some of these commands have not set up a log."""
    defect = (
        "import sys; from job.storage.open import Address; from job.cli.main import main\n"
        f"def fail(*given, **named): raise RuntimeError('http://me:{C}@host')\n"
        "Address.open = fail\n"
        "if sys.argv[1] == 'show': import job.cli.main; job.cli.main.cli.main = fail\n"
        "main(sys.argv[1:])"
    )
    flags = {"convert": ["a", "b", "--to", "coco"]}
    ended = subprocess.run(
        [sys.executable, "-c", defect, command, *flags.get(command, ["a"])],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert ended.returncode == 70
    assert "RuntimeError" in ended.stderr
    assert canaries_in(ended.stdout, ended.stderr) == set()


@pytest.mark.parametrize(
    ("given", "shown", "stored"),
    [
        ("s3://AKIA:ab/c+d@bucket/x", "s3://***@bucket/x", "s3://bucket/x"),
        ("http:/me:pw@host/a", "http:/***@host/a", "http:/***@host/a"),
        ("https://hf_token@host/a", "https://***@host/a", "https://host/a"),
        ("http://me:p@ss@host:8/x?a=1&token=q&b=2", "http://***@host:8/x?a=1&token=***&b=2", None),
        ("https://host/a?sv=1&sig=ab%3D&se=2", "https://host/a?sv=1&sig=***&se=2", None),
        (
            "https://host/a?X-Goog-Credential=a&X-Goog-Date=1",
            "https://host/a?X-Goog-Credential=***&X-Goog-Date=1",
            None,
        ),
    ],
)
def test_secrets_in_urls(given: str, shown: str, stored: str | None) -> None:
    assert redact(given) == shown
    assert redact(shown) == shown
    assert public_url(given) == (stored or shown.replace("://***@", "://"))
    assert has_secret(given)


@pytest.mark.parametrize(
    "text",
    [
        "a:b@c", "https://host/a?n=1", "s3://bucket/key:1@2.json", "http://host:80/a@b", "http://[::1]:9000/a@b",
        "abfs://container@account.dfs.core.windows.net/a", "C:/a b@c", "/a:/b", "score>=0.4&tokenizer.json",
    ],
)  # fmt: skip
def test_other_texts_are_kept(text: str) -> None:
    assert redact(text) == public_url(text) == text
    assert not has_secret(text)
