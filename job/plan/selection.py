"""The selection of a run: which listed inputs are processed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, nullcontext
from fnmatch import fnmatchcase
from heapq import merge

import msgspec

from job.plan.input_list import InputList
from job.plan.output_names import OutputNames, open_output_names
from job.plan.pairing import ListedInput, PairingCounts, pair_listings
from job.plan.plan import PlannedInput, logger
from job.run.run import RunTarget
from job.storage.keys import (
    JSON_SUFFIX,
    READ_FORMATS,
    fits_globs,
    is_machine_file,
    is_unread_picture,
    key_problem,
    ordered,
    printable,
)
from job.storage.store import PRIVATE_FOLDER, Store
from job.system.watchdog import OnProgress


class Selection:
    """What a run selects from the listings; its counts are valid after `inputs` is exhausted.

    Attributes:
        probes_output: Whether to fail inputs whose outputs would overwrite each other; writes to the output.
        inputs_listed: Inputs that fit the selection.
        inputs_done: Of these, how many the output holds.
        machine_files: Files of macOS and Jupyter in the input.
        counts: Images without a JSON; where they are inputs, those that fit the selection.
        unread_pictures: Pictures in the input of formats that are not read.
    """

    def __init__(
        self,
        run: RunTarget,
        source: Store,
        must_redo: frozenset[str] = frozenset(),
        input_list: InputList | None = None,
        on_progress: OnProgress = lambda: None,
    ) -> None:
        """List nothing yet.

        Args:
            run: Output and options.
            source: The input.
            must_redo: Keys to process whatever the output holds (an older run was interrupted on them).
            input_list: Replaces both listings.
            on_progress: Called for every key that is listed.
        """
        self._run = run
        self._source = source
        self._must_redo = must_redo
        self._input_list = input_list
        self._on_progress = on_progress
        self._broken_links: set[str] = set()
        self.probes_output = False
        self.inputs_listed = 0
        self.inputs_done = 0
        self.machine_files = 0
        self.unread_pictures = 0
        self.counts = PairingCounts()
        self._takes_images = run.spec.missing_json == "create"

    def inputs(self) -> Iterator[PlannedInput]:
        """The inputs to process, ascending; the listing continues to its end when the limit is reached."""
        left = self._run.spec.limit
        unseen = set(self._must_redo)
        names = open_output_names(self._run.store) if self.probes_output else None
        with nullcontext() if names is None else closing(names):
            for planned in self._selected(names):
                unseen.discard(planned.json)
                if left is None or left > 0 or planned.forced:
                    left = None if left is None else left - 1
                    yield planned
        self._log_counts(unseen)

    def lines(self) -> Iterator[bytes]:
        """`inputs`, each encoded as a line of its shard."""
        encode = msgspec.json.Encoder().encode
        return (encode(planned) for planned in self.inputs())

    def _log_counts(self, unseen: set[str]) -> None:
        if self.machine_files:
            logger.info(
                "%d files of macOS or Jupyter (._*, .DS_Store, __MACOSX/, .ipynb_checkpoints/) are no inputs",
                self.machine_files,
            )
        if self.unread_pictures and (self._takes_images or not self.inputs_listed):
            log = logger.info if self.inputs_listed else logger.warning
            log(
                "%d pictures of other formats are no inputs: only %s are read. Convert them to JPEG",
                self.unread_pictures,
                READ_FORMATS,
            )
        if self.counts.unused_images:
            logger.warning(
                "%d images are no inputs: another image has the same name with another suffix (%s). A name has one "
                "annotation: rename them",
                self.counts.unused_images,
                READ_FORMATS,
            )
        if unseen:
            logger.warning(
                "%d outputs that an unfinished run was processing are not in this input, such as %s: "
                "`audit --deep` reports whether they are whole",
                len(unseen),
                min(unseen),
            )

    def _selected(self, names: OutputNames | None) -> Iterator[PlannedInput]:
        """Inputs that fit the selection, and inputs that must be redone whether they fit or not."""
        for planned, is_done in self._listed() if self._input_list is None else self._from_list(self._input_list):
            is_selected = planned.forced or self._fits(planned.json)
            collision = ""
            if names is not None and not planned.problem and (is_selected or planned.prior is True):
                collision = names.problem(planned.json)
            if not is_selected:
                continue
            self.inputs_listed += 1
            self.counts.images_without_json += planned.no_json
            if collision:
                yield PlannedInput(json=planned.json, image=None, prior=False, problem=collision)
            elif is_done and not self._run.spec.override and not planned.forced:
                self.inputs_done += 1
            else:
                yield planned

    def _listed(self) -> Iterator[tuple[PlannedInput, bool]]:
        pairs = pair_listings(
            self._input_keys(),
            self._output_keys(),
            needs_image=self._run.spec.image_mode == "copy",
            counts=self.counts,
            takes_images=self._takes_images,
        )
        for listed in pairs:
            yield self._planned(listed), listed.is_done

    def _input_keys(self) -> Iterator[str]:
        for found in self._source.list(skip=PRIVATE_FOLDER, is_optional=self._is_left_out):
            self._on_progress()
            if is_machine_file(found.key):
                self.machine_files += 1
                continue
            self.unread_pictures += is_unread_picture(found.key)
            if found.fault == "broken_link":
                self._broken_links.add(found.key)
            yield found.key

    def _output_keys(self) -> Iterator[str]:
        for found in self._run.store.list(skip=PRIVATE_FOLDER, is_optional=self._is_left_out):
            self._on_progress()
            if not found.fault:
                yield found.key

    def _from_list(self, input_list: InputList) -> Iterator[tuple[PlannedInput, bool]]:
        before = None
        for key in merge(input_list.json_keys(self._on_progress), sorted(self._must_redo, key=ordered), key=ordered):
            self._on_progress()
            if key != before and is_machine_file(key):
                self.machine_files += 1
            elif key != before:
                problem = key_problem(key) or ""
                yield PlannedInput(json=printable(key), problem=problem, forced=key in self._must_redo), False
            before = key

    def _planned(self, listed: ListedInput) -> PlannedInput:
        problem = key_problem(listed.json) or (key_problem(listed.image) if listed.image else None)
        if listed.json in self._broken_links:
            self._broken_links.remove(listed.json)
            problem = problem or "its JSON is a symbolic link that leads nowhere or to itself"
        if problem:
            return PlannedInput(json=printable(listed.json), image=None, prior=False, problem=problem)
        return PlannedInput(
            json=listed.json,
            image=listed.image,
            prior=listed.has_prior,
            forced=listed.json in self._must_redo,
            no_json=not listed.has_json,
        )

    def _fits(self, key: str) -> bool:
        return fits_globs(key, self._run.spec.include, self._run.spec.exclude)

    def _is_left_out(self, folder: str) -> bool:
        """Whether --exclude leaves out every JSON of a folder: a glob that ends in `*` or `*.json` matches its key."""
        globs = (glob.removesuffix(JSON_SUFFIX) for glob in self._run.spec.exclude)
        return any(glob.endswith("*") and fnmatchcase(folder, glob) for glob in globs)
