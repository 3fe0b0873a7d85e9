"""Worker processes on an S3 server, restarted like pods of a Job until their index is complete."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes import DATE
from tests.s3.fixtures import Bucket
from tests.s3.servers import S3Server

FINAL_CODES = {0, 2, 65, 78}


@dataclass
class Pod:
    """One index of one pool and its successive processes.

    Attributes:
        name: In the User-Agent of its requests.
        command: Of the worker.
        log: Standard output and error of all processes.
        codes: Exit codes of its processes, in order.
    """

    name: str
    command: list[str]
    log: Path
    codes: list[int] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(self.command, stderr=stream, stdout=stream)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def is_over(self) -> bool:
        """Record an exit; whether the index is complete or cannot be completed."""
        if self.process is not None and self.process.poll() is not None:
            self.codes.append(self.process.returncode)
            self.process = None
        return self.process is None and bool(self.codes) and self.codes[-1] in FINAL_CODES

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def pods(
    folder: Path, bucket: Bucket, server: S3Server, run: str, pools: dict[str, int], *flags: str, module: str = "job"
) -> list[Pod]:
    """Pods of the pools `{name: completions}`; pool `cpu` walks backward."""
    made = []
    for pool, completions in pools.items():
        for index in range(completions):
            name = f"pod-{pool}-{index}"
            options = folder / f"{name}.json"
            options.write_text(json.dumps(server.options(user_agent_extra=name, read_timeout=3)))
            command = [
                sys.executable, "-m", module, "annotate", "--input_top_dir", bucket.url("in"),
                "--out_top_dir", bucket.url("out"), "--input_storage_options", str(options),
                "--output_storage_options", str(options), "--run", run, "--pool", pool, "--index", str(index),
                "--num_indexes", str(completions), "--order", "backward" if pool == "cpu" else "forward",
                "--annotation_date", DATE, "--threads", "1", "--device", "cpu", *flags,
            ]  # fmt: skip
            made.append(Pod(name, command, folder / f"{name}.log"))
    return made


def run_to_end(made: list[Pod], timeout_s: float = 300) -> None:
    """Start all concurrently, and restart each one that exits with work left."""
    deadline = time.monotonic() + timeout_s
    try:
        for pod in made:
            pod.start()
        while sum(pod.is_over() for pod in made) < len(made):
            assert time.monotonic() < deadline, (
                f"not complete in {timeout_s} s: {[(pod.name, pod.codes) for pod in made]}"
            )
            for pod in made:
                if pod.process is None and not pod.is_over():
                    pod.start()
            time.sleep(0.05)
    finally:
        for pod in made:
            pod.end()
