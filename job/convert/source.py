"""What is converted: the annotated images of an output with the rows of their instances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from job.errors import UsageError
from job.formats.instance_reader import AnnotatedImage, read_instances
from job.run.history import runs_of
from job.storage.store import PRIVATE_FOLDER, Store


def every_key(key: str) -> bool:
    """Every image is wanted."""
    return True


class ImageSource(Protocol):
    """An output; its images can be read more than once."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that its runs considered, in order."""
        ...

    @property
    def colours(self) -> Mapping[str, str]:
        """Colours of classes that a file of own classes gives, `#rrggbb`."""
        ...

    def images(self, is_wanted: Callable[[str], bool] = every_key) -> Iterator[AnnotatedImage]:
        """Annotated images, ascending by key; `is_wanted` takes the key of a JSON."""
        ...


class OutputSource:
    """The output of runs, or what is left of one: without its run folder, the masks are the visible parts.

    Attributes:
        classes: Classes that its runs considered, those of the newest first.
        colours: Colours of classes that a file of own classes gives, `#rrggbb`.
        model_id: Model of its newest run; empty without a run.
        input_url: Input of its newest run; None without a run.
        newest: Options of its newest run; None without a run.
        has_image_copies: Whether its newest run copied the images.
    """

    def __init__(self, store: Store) -> None:
        """Read the options of its runs.

        Raises:
            UsageError: It does not exist.
        """
        self._store = store
        runs = runs_of(store)
        if not runs and next(iter(store.list(skip=PRIVATE_FOLDER)), None) is None:
            raise UsageError(f"{store.url} has no annotations: give the folder that annotate wrote to")
        self.classes = tuple(dict.fromkeys(name for run in runs for name in run.spec.rules.class_names))
        rules = [one for run in reversed(runs) for one in run.spec.rules.classes]
        self.colours = {one.name: one.colour for one in rules if one.colour is not None}
        self.model_id = runs[0].spec.model_id if runs else ""
        self.newest = runs[0].spec if runs else None
        self.input_url = runs[0].spec.input_url if runs else None
        self.has_image_copies = not runs or runs[0].spec.image_mode == "copy"

    def images(self, is_wanted: Callable[[str], bool] = every_key) -> Iterator[AnnotatedImage]:
        """See `ImageSource`."""
        return read_instances(self._store, is_wanted)
