"""The host's work on pictures, without the model.

    python -m tests.bench.host_path COUNT FOLDER [--alone] [--picture_size WxH]

Prints one JSON object: seconds of core time an image of this work, and without `--alone`, of a yardstick on the same
picture.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from job.model.session import Session, SessionInfo
from job.pipeline.stages import AnnotatorIO
from job.plan.selection import Selection
from job.run.options import WorkerOptions
from job.tools.bench.end_to_end import open_folders, run_target, write_inputs
from job.tools.bench.host_stages import host_stages
from job.tools.bench.pictures import fixed_grounding
from job.tools.bench.sessions import FixedAnswers
from job.worker.factory import build_annotator
from tests.fakes import FakeSession, demo_artifact

PROMPTS = ("car", "license plate", "person")
SIDE, GRID = 1008, 288


def host_path_s(folder: Path, count: int, size_wh: tuple[int, int]) -> float:
    """Median core time an image of every stage but the model, at the size of the official model."""
    info = SessionInfo(runtime="none", provider="none", image_side=SIDE, batch_size=1, threads=1)
    session: Session = FakeSession(info=info)  # type: ignore[assignment]
    answers = FixedAnswers(session, 0.0, fixed_grounding((len(PROMPTS), 200), (GRID, GRID)))
    write_inputs(folder, count, size_wh)
    source, run = open_folders(folder, demo_artifact(), PROMPTS, "host")
    io_of = AnnotatorIO(source, run_target(run), lambda: None)
    annotator, _ = build_annotator(io_of, answers, demo_artifact(), WorkerOptions(device="cpu"))
    return sum(host_stages(annotator, Selection(run, source).inputs(), SIDE).values()) / 1e3


def yardstick_s(data: bytes, repeats: int) -> float:
    """Median core time of plain library calls that do comparable work: decode, resize, deflate two megabytes."""
    noise = np.random.default_rng(1).integers(0, 4, 1 << 21, np.uint8).tobytes()
    taken = []
    for _ in range(repeats):
        begun_s = time.process_time()
        with Image.open(io.BytesIO(data)) as picture:
            np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(np.float32).sum()
        zlib.compress(noise, 1)
        taken.append(time.process_time() - begun_s)
    return statistics.median(taken)


def main(arguments: list[str]) -> None:
    """Measure the host path, and the yardstick."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.host_path", description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--picture_size", default="1920x1080")
    flags = parser.parse_args(arguments)
    width, _, height = flags.picture_size.partition("x")
    found = {"host_s": host_path_s(flags.folder, flags.count, (int(width), int(height)))}
    if not flags.alone:
        found["yardstick_s"] = yardstick_s((flags.folder / "in" / "00000.jpg").read_bytes(), flags.count)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
