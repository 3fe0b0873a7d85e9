"""Checks of the instance tables of an output, as a reader sees them."""

from __future__ import annotations

import hashlib

from job.formats.instance_reader import read_instances
from job.formats.instance_rows import paint_rows
from job.formats.mask_npz import read_mask
from job.storage.keys import mask_key
from job.storage.store import Store


def check_tables(store: Store) -> list[str]:
    """Every annotated image has its whole rows once, and they give the stored mask; returns the keys."""
    keys = []
    for image in read_instances(store):
        assert image.problem == "", image
        assert not image.is_visible_only, f"{image.key} has no rows in a table"
        assert image.result is not None
        assert image.result.instances.startswith(f"{image.result.worker}-")
        assert {row.json for row in image.rows} == {image.key}
        instances = [row for row in image.rows if row.value is not None]
        assert len(instances) == sum(map(len, image.result.scores.values()))
        assert len({row.value for row in instances}) == len(instances), f"{image.key} has an instance twice"
        masks = [row.rle for row in image.rows if row.class_name is not None]
        assert len(image.rows) == max(1, len(masks))
        mask = read_mask(store.read(mask_key(image.key)))
        assert paint_rows(image.rows, mask.shape).tobytes() == mask.tobytes()
        assert image.result.mask_sha256 == hashlib.sha256(mask.data).hexdigest()
        keys.append(image.key)
    assert keys == sorted(set(keys))
    return keys
