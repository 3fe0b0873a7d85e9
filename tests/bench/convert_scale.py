"""A conversion of a synthetic output: `python -m tests.bench.convert_scale COUNT FOLDER FORMAT`.

The listing is synthetic, the run folder real. Prints one JSON object: seconds, peak resident bytes, what was written.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from job.convert.conversion import ConvertRequest, convert
from job.convert.source import OutputSource
from job.convert.splitting import SplitOptions
from job.formats.instance_table import InstanceRow, Rle, encode_part
from job.formats.rle import encode_rle
from job.postprocess.masks import CroppedMask, crop_mask
from job.run.instance_parts import part_key
from job.run.journal import ANNOTATED, LeaveRow, ResultRow, StartRow, encode_lines
from job.run.run import Run, open_run
from job.storage.local.store import LocalStore
from job.storage.object_store import ObjectStore
from job.system.resources import peak_resident_bytes
from tests.bench.scale import KEYS_IN_A_FOLDER, SyntheticDriver, SyntheticOutput
from tests.fakes import spec_of
from tests.job.convert.synthetic import CAR, PLATE, TWO_PARTS

IMAGES_A_SHARD = 1000


def main(count: int, folder: Path, format_name: Any) -> dict[str, float]:
    """Convert `count` images of three instances; the first of each thousand has none."""
    outputs = ObjectStore(SyntheticDriver(count, (".jpg", ".json", ".npz")), "scale")  # type: ignore[arg-type]
    output = SyntheticOutput(folder / "out", outputs)
    if not (folder / "out").exists():  # a folder of an earlier call is converted again
        write_tables(output, count)
    before = peak_resident_bytes()
    begun = time.monotonic()
    request = ConvertRequest(
        output=output,
        source=OutputSource(output),
        image_sources=(output,),
        target=LocalStore(folder / "dest", "scale"),
        format_name=format_name,
        split=SplitOptions(share=0.9, by=("source.camera",)),
    )
    counts = convert(request)
    peak = peak_resident_bytes()
    return {
        "seconds": time.monotonic() - begun,
        "before": before,
        "peak": peak,
        "images": counts.images,
        "instances": counts.instances,
        "negatives": counts.negatives,
    }


def write_tables(output: LocalStore, count: int) -> None:
    """Journal and instance tables of one run."""
    run = open_run(output, spec_of(Path("in")), name="r", is_date_given=False, process_id="scale")
    shapes = [crop_mask(pixels, (0, 0), (48, 64)) for pixels in (CAR, PLATE, TWO_PARTS)]
    masks = [mask for mask in shapes if mask is not None]
    for shard in range(-(-count // IMAGES_A_SHARD)):
        write_shard(run, f"{shard:06d}", range(shard * IMAGES_A_SHARD, min(count, (shard + 1) * IMAGES_A_SHARD)), masks)


def write_shard(run: Run, shard: str, numbers: range, masks: list[CroppedMask]) -> None:
    stems = [f"camera{number // KEYS_IN_A_FOLDER:06d}/{number:010d}" for number in numbers]
    results = [ResultRow(json=f"{stem}.json", result=ANNOTATED, instances="scale-0") for stem in stems]
    rows = [StartRow(attempt="scale"), *results, LeaveRow(attempt="scale")]
    run.store.put(run.key("journal", shard, "scale-0.jsonl"), encode_lines(rows))
    table = [row for stem in stems for row in rows_of(stem, masks if stem != stems[0] else [])]
    run.store.put(part_key(run, shard, "scale-0"), encode_part(table))


def rows_of(stem: str, masks: list[CroppedMask]) -> list[InstanceRow]:
    common: dict[str, Any] = {"json": f"{stem}.json", "image": f"{stem}.jpg", "width": 64, "height": 48}
    common["camera"] = stem.partition("/")[0]
    return [
        InstanceRow(
            **common,
            class_name=name,
            prompt=name,
            query=number,
            score=0.5 + number / 8,
            value=85 * (number + 1),
            box=mask.box_xyxy,
            area=mask.area,
            visible_area=mask.area,
            rle=Rle((48, 64), encode_rle(mask, (48, 64))),
        )
        for number, (name, mask) in enumerate(zip(("car", "license_plate", "person"), masks, strict=False))
    ] or [InstanceRow(**common)]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])) + "\n")
