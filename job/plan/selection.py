"""The selection of a run: which listed inputs are processed."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from heapq import merge

from job.plan.input_list import InputList
from job.plan.pairing import ListedInput, PairingCounts, pair_listings
from job.plan.plan import PlannedInput, logger
from job.run.run import RunTarget
from job.storage.keys import key_problem, ordered, printable
from job.storage.store import PRIVATE_FOLDER, Store
from job.system.watchdog import OnProgress


class Selection:
    """What a run selects from the listings; its counts are true once `inputs` is consumed."""

    def __init__(
        self,
        run: RunTarget,
        source: Store,
        must_redo: frozenset[str] = frozenset(),
        input_list: InputList | None = None,
        on_progress: OnProgress = lambda: None,
    ) -> None:
        """Nothing is listed yet.

        Args:
            run: Output and options.
            source: The input.
            must_redo: Keys to do whatever the output holds (an older run was interrupted on them).
            input_list: Takes the place of both listings.
            on_progress: Told of every key that is listed.
        """
        self._run = run
        self._source = source
        self._must_redo = must_redo
        self._input_list = input_list
        self._on_progress = on_progress
        self.inputs_listed = 0
        self.inputs_done = 0
        self.counts = PairingCounts()

    def inputs(self) -> Iterator[PlannedInput]:
        """The inputs to do, ascending; the listing goes on to its end even when the limit is reached."""
        left = self._run.spec.limit
        unseen = set(self._must_redo)
        for planned in self._selected():
            unseen.discard(planned.json)
            if left is None or left > 0 or planned.forced:
                left = None if left is None else left - 1
                yield planned
        for key in self.counts.images_without_json_keys:
            logger.debug("No JSON for image %s/%s: not an input", self._source.url, printable(key))
        if unseen:
            logger.warning(
                "%d outputs that an unfinished run was at are not in this input, such as %s: "
                "`audit --deep` tells whether they are whole",
                len(unseen),
                min(unseen),
            )

    def _selected(self) -> Iterator[PlannedInput]:
        """What fits the selection, and what is forced whether it fits or not."""
        for planned, is_done in self._listed() if self._input_list is None else self._from_list(self._input_list):
            if not planned.forced and not self._fits(planned.json):
                continue
            self.inputs_listed += 1
            if is_done and not self._run.spec.override and not planned.forced:
                self.inputs_done += 1
            else:
                yield planned

    def _listed(self) -> Iterator[tuple[PlannedInput, bool]]:
        pairs = pair_listings(
            self._keys(self._source),
            self._keys(self._run.store),
            needs_image=self._run.spec.image_mode == "copy",
            counts=self.counts,
        )
        for listed in pairs:
            yield _planned(listed, listed.json in self._must_redo), listed.is_done

    def _keys(self, store: Store) -> Iterator[str]:
        for found in store.list(skip=PRIVATE_FOLDER):
            self._on_progress()
            yield found.key

    def _from_list(self, input_list: InputList) -> Iterator[tuple[PlannedInput, bool]]:
        before = None
        for key in merge(input_list.json_keys(self._on_progress), sorted(self._must_redo, key=ordered), key=ordered):
            self._on_progress()
            if key != before:
                problem = key_problem(key) or ""
                yield PlannedInput(json=printable(key), problem=problem, forced=key in self._must_redo), False
            before = key

    def _fits(self, key: str) -> bool:
        spec = self._run.spec
        is_included = not spec.include or any(fnmatchcase(key, glob) for glob in spec.include)
        return is_included and not any(fnmatchcase(key, glob) for glob in spec.exclude)


def _planned(listed: ListedInput, forced: bool) -> PlannedInput:
    problem = key_problem(listed.json) or (key_problem(listed.image) if listed.image else None)
    if problem:
        return PlannedInput(json=printable(listed.json), image=None, prior=False, problem=problem)
    return PlannedInput(json=listed.json, image=listed.image, prior=listed.has_prior, forced=forced)
