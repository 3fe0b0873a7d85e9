"""The classes that a user asks for, by `--prompts` or `--classes`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from job.errors import UsageError
from job.model.artifact import Artifact
from job.model.prompts import prompts_beyond_context
from job.rules.classes_file import ClassesFile, read_classes_file
from job.rules.rules import PASSENGER, class_name_of, near_misses
from job.storage.open import Address

logger = logging.getLogger(__name__)

DEFAULT_PROMPTS = ("car", "license plate", "person")


@dataclass(frozen=True)
class RequestedClasses:
    """What a run finds.

    Attributes:
        prompts: In order.
        file: The file of own classes, or None: each prompt is a class.
    """

    prompts: tuple[str, ...]
    file: ClassesFile | None = None


def requested_classes(prompts: Sequence[str], path: str | None, source: Address, min_score: float) -> RequestedClasses:
    """Read the prompts or the file; warn if names look like those of the passenger rule.

    Args:
        prompts: Values of `--prompts`; empty if it is not given.
        path: Value of `--classes`, or None.
        source: Address of the input; a file on the same kind of storage is opened with its options.
        min_score: Threshold of classes that give none.

    Raises:
        UsageError: Both are given, or there is a mistake in them.
    """
    if path is None:
        parsed = parse_prompts(prompts or DEFAULT_PROMPTS)
        _warn_of_case([class_name_of(prompt) for prompt in parsed])
        return RequestedClasses(parsed)
    if prompts:
        raise UsageError("--classes and --prompts: the file names all prompts. Give one of the two")
    file = read_classes_file(path, source, min_score)
    if file.has_default_passengers:
        _warn_of_case([one.name for one in file.rules.classes])
    return RequestedClasses(file.rules.prompts, file)


def parse_prompts(texts: Sequence[str]) -> tuple[str, ...]:
    """Split `car,license plate` into prompts; several texts are one list.

    Raises:
        UsageError: See `checked_prompts`.
    """
    text = ",".join(texts)
    return checked_prompts(text.split(","), f"--prompts {text!r}")


def checked_prompts(given: Sequence[str], source: str) -> tuple[str, ...]:
    """Collapse white space in prompts that are classes.

    Args:
        given: The prompts.
        source: Where they are from, for messages.

    Raises:
        UsageError: There is none, or one is empty, repeated, has a semicolon or a control character, or is `passenger`.
    """
    prompts = tuple(" ".join(prompt.split()) for prompt in given)
    names = [class_name_of(prompt).lower() for prompt in prompts]
    if not names or "" in names:
        raise UsageError(f"{source} has an empty prompt: give names with commas between them")
    if any(";" in name for name in names):
        raise UsageError(f"{source} has a semicolon: give names with commas between them")
    if not all(prompt.isprintable() for prompt in prompts):
        raise UsageError(f"{source} has a control character: use printable ones")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"{source} names {', '.join(twice)} twice (case does not count): give each class once. A file of classes "
            "takes several prompts of one class"
        )
    if PASSENGER in names:
        raise UsageError(
            f"{source}: passenger is not a prompt, it is what a person in a car becomes. Give car and person"
        )
    return prompts


def check_prompt_lengths(requested: RequestedClasses, artifact: Artifact) -> None:
    """Refuse prompts that are longer than the context of the model, unless its tokenizer is not stored here.

    Raises:
        UsageError: A prompt is too long.
    """
    for prompt, tokens in prompts_beyond_context(artifact, requested.prompts).items():
        file = requested.file
        source = "--prompts" if file is None else f"--classes {file.name}, line {file.lines[prompt]}"
        raise UsageError(
            f"{source}: the prompt {prompt!r} has {tokens} tokens with start and end, the model's text encoder takes "
            f"{artifact.manifest.context_length}: shorten it"
        )


def _warn_of_case(class_names: Sequence[str]) -> None:
    for name, needed in near_misses(class_names):
        logger.warning(
            "The class %s differs from %s only by case: the passenger rule is off. It needs the classes car and person",
            name,
            needed,
        )
