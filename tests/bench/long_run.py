"""A long run of the real command: memory, handles, threads and processor time, sampled while it works.

`python -m tests.bench.long_run FOLDER [--images 100000] [--sample_s 30] [--json FILE]` draws a few hundred small garage
scenes, repeats them as links, and annotates them with the embedded model: one worker, one thread. SIGTERM or SIGINT
ends the run in order; the figures are then those of the images that were done. The exit status is 1 if they are not
flat.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.demo_model.scenes.scenes import write_scenes
from job.model.processor import instruction_names, processor_name

DISTINCT, IN_FOLDER = 300, 1000
SIZES_WH = ((48, 36), (36, 48))
WARM_UP = 0.1
"""Share of the images before the first sample that counts: buffers, arenas and caches fill."""
MAX_GROWTH = {"resident_bytes": 1.05, "handles": 1.05, "threads": 1.0, "processor_s_per_image": 1.2}
"""Last quarter of the samples by the first quarter. The processor time of an image changes with what else runs on the
same core."""
MAX_MORE_HANDLES = 3
"""Files of images in flight are open at some of the samples."""


@dataclass(frozen=True)
class Sample:
    """What the kernel says about the process at one moment.

    Attributes:
        seconds: Since its start.
        images: Number of inputs whose JSON is in the output.
        resident_bytes: Resident memory.
        handles: Open file descriptors.
        threads: Threads.
        processor_s: User and system time since its start.
    """

    seconds: float
    images: int
    resident_bytes: int
    handles: int
    threads: int
    processor_s: float


class Output:
    """Counts the JSON files of the output; a folder that is complete is not listed again."""

    def __init__(self, root: Path, images: int) -> None:
        self._root = root
        self._open = {folder_name(number): 0 for number in range(0, images, IN_FOLDER)}
        self._complete = 0

    def images(self) -> int:
        """Number of annotated inputs."""
        for name in list(self._open):
            folder = self._root / name
            found = sum(entry.endswith(".json") for entry in os.listdir(folder)) if folder.is_dir() else 0
            self._open[name] = found
            if found == IN_FOLDER:
                self._complete += self._open.pop(name)
        return self._complete + sum(self._open.values())


def folder_name(number: int) -> str:
    """Folder of an input."""
    return f"camera{number // IN_FOLDER:04d}"


def write_inputs(folder: Path, images: int) -> None:
    """Link the scenes to as many names as there are images."""
    scenes = folder.with_name("scenes")
    write_scenes(scenes, seed=16, count=min(DISTINCT, images), sizes_wh=SIZES_WH)
    originals = sorted(scenes.rglob("*.jpg"))
    for number in range(images):
        place = folder / folder_name(number)
        place.mkdir(parents=True, exist_ok=True)
        original = originals[number % len(originals)]
        for suffix in (".jpg", ".json"):
            os.link(original.with_suffix(suffix), place / f"{number:08d}{suffix}")


def sample(process_id: int, begun: float, images: int) -> Sample:
    """Read the process's files in /proc.

    Raises:
        OSError: The process has ended.
    """
    proc = Path(f"/proc/{process_id}")
    fields = (proc / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Sample(
        seconds=round(time.monotonic() - begun, 1),
        images=images,
        resident_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        handles=len(os.listdir(proc / "fd")),
        threads=int(fields[17]),
        processor_s=ticks / os.sysconf("SC_CLK_TCK"),
    )


def verdict(samples: list[Sample]) -> dict[str, Any]:
    """Compare the last quarter of the samples after the warm-up with the first one.

    Returns:
        The medians of both quarters for each figure, their ratio, and whether each is flat; `is_flat` is None if there
        are too few samples.
    """
    counted = [found for found in samples if found.images >= WARM_UP * samples[-1].images]
    quarter = len(counted) // 4
    if quarter < 2:
        return {"is_flat": None}
    first, last = counted[:quarter], counted[-quarter:]
    found: dict[str, Any] = {}
    for name, limit in MAX_GROWTH.items():
        early, late = figure(first, name), figure(last, name)
        allowed = limit * early + (MAX_MORE_HANDLES if name == "handles" else 0)
        found[name] = {"first": early, "last": late, "ratio": round(late / early, 3), "is_flat": late <= allowed}
    return {**found, "is_flat": all(each["is_flat"] for each in found.values())}


def figure(samples: list[Sample], name: str) -> float:
    """Median of a figure; the processor time of an image is that between the ends."""
    if name != "processor_s_per_image":
        return float(statistics.median(getattr(found, name) for found in samples))
    images = samples[-1].images - samples[0].images
    return (samples[-1].processor_s - samples[0].processor_s) / max(images, 1)


def annotate(folder: Path, images: int, sample_s: float) -> tuple[list[Sample], int]:
    """Run the command to its end, or until this process is told to end.

    Returns:
        The samples and the exit code.
    """
    command = [sys.executable, "-m", "job", "--input_top_dir", folder / "in", "--out_top_dir", folder / "out"]
    command += ["--prompts", "car", "--workers", "1", "--threads", "1", "--device", "cpu"]
    output, samples, begun = Output(folder / "out", images), [], time.monotonic()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: process.terminate())
        while process.poll() is None:
            try:
                samples.append(sample(process.pid, begun, output.images()))
                process.wait(sample_s)
            except (OSError, subprocess.TimeoutExpired):
                continue
    return [found for found in samples if found.resident_bytes], process.returncode


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the inputs, annotate, judge."""
    folder: Path = arguments.folder
    write_inputs(folder / "in", arguments.images)
    begun = datetime.datetime.now(datetime.UTC)
    samples, code = annotate(folder, arguments.images, arguments.sample_s)
    return {
        "begun": begun.isoformat(timespec="seconds"), "images": arguments.images,
        "done": Output(folder / "out", arguments.images).images(), "exit_code": code,
        "processor": processor_name(), "instructions": instruction_names(), "load": os.getloadavg(),
        "verdict": verdict(samples), "samples": [asdict(found) for found in samples],
    }  # fmt: skip


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.bench.long_run")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--sample_s", type=float, default=30.0)
    parser.add_argument("--json", type=Path, default=None)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    given = parsed(sys.argv[1:])
    result = main(given)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    shown = {name: value for name, value in result.items() if name != "samples"}
    sys.stdout.write(json.dumps(shown, indent=1) + "\n")
    sys.exit(1 if result["verdict"]["is_flat"] is False else 0)
