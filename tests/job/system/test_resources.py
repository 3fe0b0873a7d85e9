from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from job.system.resources import (
    available_memory,
    count_gpus,
    memory_limit,
    peak_resident_bytes,
    usable_cpus,
    visible_gpus,
)

AFFINITY = len(os.sched_getaffinity(0))
MIB = 1 << 20
FREE = 4096 * MIB
TOTAL = 8192 * MIB
V1 = "9:name=systemd:/\n4:memory:/\n2:cpu,cpuacct:/\n"
V2 = "0::/\n"
HYBRID = V1 + V2


def machine(root: Path, own_cgroups: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Roots of a tree of cgroups and of a /proc."""
    meminfo = f"MemTotal: {TOTAL // 1024} kB\nMemFree: 1 kB\nMemAvailable:  {FREE // 1024} kB\n"
    proc = {"self/cgroup": own_cgroups, "meminfo": meminfo}
    for folder, texts in (("cgroup", files), ("proc", proc)):
        (root / folder).mkdir()
        for name, text in texts.items():
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return root / "cgroup", root / "proc"


def cpu_v1(quota: str, period: str = "100000", folder: str = "cpu") -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("own_cgroups", "files", "expected"),
    [
        pytest.param("", {}, 64, id="no cgroup"),
        pytest.param(V2, {}, 64, id="v2 without files"),
        pytest.param(V2, {"cpu.max": "max 100000\n"}, 64, id="v2 without a limit"),
        pytest.param(V2, {"cpu.max": ""}, 64, id="v2 empty file"),
        pytest.param(V2, {"cpu.max": "400000 100000\n"}, 4, id="v2 four"),
        pytest.param(V2, {"cpu.max": "399999 100000\n"}, 3, id="v2 nearly four"),
        pytest.param(V2, {"cpu.max": "20000 100000\n"}, 1, id="v2 a fifth"),
        pytest.param(V2, {"cpu.max": "99900000 100000\n"}, 64, id="v2 more than there are"),
        pytest.param("0::/pod/app\n", {"pod/app/cpu.max": "200000 100000\n"}, 2, id="v2 in its folder"),
        pytest.param(
            "0::/pod/app\n",
            {"pod/app/cpu.max": "max 100000\n", "pod/cpu.max": "200000 100000\n"},
            2,
            id="v2 a limit above it",
        ),
        pytest.param(
            "0::/pod/app\n",
            {"pod/app/cpu.max": "800000 100000\n", "pod/cpu.max": "200000 100000\n"},
            2,
            id="v2 a tighter limit above it",
        ),
        pytest.param("0::/../else\n", {"cpu.max": "300000 100000\n"}, 3, id="v2 path of another namespace"),
        pytest.param(V1, cpu_v1("-1"), 64, id="v1 no limit"),
        pytest.param(V1, cpu_v1("300000"), 3, id="v1 three"),
        pytest.param(V1, cpu_v1("5000"), 1, id="v1 a twentieth"),
        pytest.param(V1, cpu_v1("100000", "0"), 64, id="v1 period 0"),
        pytest.param(V1, {"cpu/cpu.cfs_quota_us": "100000\n"}, 64, id="v1 no period"),
        pytest.param("2:cpu,cpuacct:/a/b\n", cpu_v1("200000", folder="cpu/a/b"), 2, id="v1 in its folder"),
        pytest.param("2:cpu,cpuacct:/docker/1\n", cpu_v1("200000"), 2, id="v1 path of the machine in a container"),
        pytest.param(HYBRID, cpu_v1("200000"), 2, id="both, v1 has the controller"),
    ],
)
def test_processors_are_the_affinity_limited_by_the_quota(
    own_cgroups: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert usable_cpus(*machine(tmp_path, own_cgroups, files)) == expected


def memory_v2(limit: object, usage: int, cache: int = 0, folder: str = "") -> dict[str, str]:
    return {
        f"{folder}memory.max": f"{limit}\n",
        f"{folder}memory.current": f"{usage}\n",
        f"{folder}memory.stat": f"anon 1\nfile 2\nactive_file 3\ninactive_file {cache}\n",
    }


def memory_v1(limit: int, usage: int, cache: int = 0, folder: str = "memory/") -> dict[str, str]:
    return {
        f"{folder}memory.limit_in_bytes": f"{limit}\n",
        f"{folder}memory.usage_in_bytes": f"{usage}\n",
        f"{folder}memory.stat": f"cache 5\ntotal_inactive_file {cache}\n",
    }


UNLIMITED_V1 = 9223372036854771712


@pytest.mark.parametrize(
    ("own_cgroups", "files", "expected"),
    [
        pytest.param("", {}, FREE, id="no cgroup"),
        pytest.param(V2, memory_v2("max", 1), FREE, id="v2 without a limit"),
        pytest.param(V2, {"memory.max": "5\n"}, FREE, id="v2 without usage"),
        pytest.param(V2, memory_v2(64 * MIB, 24 * MIB), 40 * MIB, id="v2"),
        pytest.param(V2, memory_v2(64 * MIB, 24 * MIB, 8 * MIB), 48 * MIB, id="v2 with page cache"),
        pytest.param(V2, memory_v2(MIB, 2 * MIB), 0, id="v2 above its limit"),
        pytest.param(V2, memory_v2(2 * FREE, MIB), FREE, id="v2 limit above what is free"),
        pytest.param(
            "0::/pod/app\n",
            memory_v2(64 * MIB, 24 * MIB, folder="pod/app/") | memory_v2(80 * MIB, 50 * MIB, folder="pod/"),
            30 * MIB,
            id="v2 a neighbour in the pod",
        ),
        pytest.param(V1, memory_v1(UNLIMITED_V1, 1), FREE, id="v1 without a limit"),
        pytest.param(V1, memory_v1(64 * MIB, 24 * MIB), 40 * MIB, id="v1"),
        pytest.param(V1, memory_v1(64 * MIB, 24 * MIB, 8 * MIB), 48 * MIB, id="v1 with page cache"),
        pytest.param("4:memory:/a\n", memory_v1(64 * MIB, 0, folder="memory/a/"), 64 * MIB, id="v1 in its folder"),
        pytest.param(HYBRID, memory_v1(64 * MIB, 24 * MIB), 40 * MIB, id="both, v1 has the controller"),
    ],
)
def test_available_memory_is_limited_by_machine_and_cgroups(
    own_cgroups: str, files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    assert available_memory(*machine(tmp_path, own_cgroups, files)) == expected


@pytest.mark.parametrize(
    ("own_cgroups", "files", "expected"),
    [
        pytest.param("", {}, TOTAL, id="no cgroup"),
        pytest.param(V2, memory_v2("max", 1), TOTAL, id="v2 without a limit"),
        pytest.param(V2, memory_v2(64 * MIB, 24 * MIB), 64 * MIB, id="v2"),
        pytest.param(V2, memory_v2(2 * TOTAL, MIB), TOTAL, id="v2 limit above the machine"),
        pytest.param(
            "0::/pod/app\n",
            memory_v2(64 * MIB, 1, folder="pod/app/") | memory_v2(48 * MIB, 1, folder="pod/"),
            48 * MIB,
            id="v2 a tighter limit above it",
        ),
        pytest.param(V1, memory_v1(UNLIMITED_V1, 1), TOTAL, id="v1 without a limit"),
        pytest.param(V1, memory_v1(64 * MIB, 24 * MIB), 64 * MIB, id="v1"),
    ],
)
def test_memory_limit_is_the_smallest_of_machine_and_cgroups(
    own_cgroups: str, files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    assert memory_limit(*machine(tmp_path, own_cgroups, files)) == expected


def test_memory_is_that_of_the_machine_without_proc(tmp_path: Path) -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert available_memory(tmp_path / "cgroup", tmp_path / "proc") == total


def test_real_machine_is_read() -> None:
    assert 1 <= usable_cpus() <= AFFINITY
    assert available_memory() > 0


class Driver:
    """The functions of libcuda that are called: status codes, and the number of devices."""

    def __init__(self, devices: int, *, status: int = 0) -> None:
        self._devices = devices
        self._status = status

    def cuInit(self, flags: int) -> int:  # noqa: N802 (the driver's name)
        return self._status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self._devices
        return 0


def no_driver(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")


def test_a_pod_with_one_gpu_of_eight_sees_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus(lambda name: Driver(1)) == ("0",)
    assert visible_gpus(lambda name: Driver(8)) == tuple("01234567")


def test_a_driver_that_does_not_start_counts_no_gpu() -> None:
    assert count_gpus(lambda name: Driver(8, status=803)) == 0
    assert count_gpus(no_driver) == 0
    assert count_gpus(lambda name: ctypes.CDLL(name)) >= 0


@pytest.mark.parametrize(("chosen", "names"), [("", ()), ("3", ("3",)), ("GPU-1, MIG-2", ("GPU-1", "MIG-2"))])
def test_cuda_visible_devices_decides(monkeypatch: pytest.MonkeyPatch, chosen: str, names: tuple[str, ...]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus(lambda name: Driver(8)) == names


@pytest.mark.parametrize(
    ("chosen", "devices", "names"),
    [
        pytest.param("0,1,2,3", 1, ("0",), id="names of the node in a pod with one GPU"),
        pytest.param("0,1", 2, ("0", "1"), id="all of them exist"),
        pytest.param("MIG-a,MIG-b", 1, ("MIG-a", "MIG-b"), id="a process sees one MIG instance"),
        pytest.param("0,1", 0, ("0", "1"), id="a driver that does not respond"),
    ],
)
def test_the_driver_counts_the_names_of_cuda_visible_devices(
    monkeypatch: pytest.MonkeyPatch, chosen: str, devices: int, names: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus(lambda name: Driver(devices)) == names


def test_the_peak_is_not_that_of_the_process_that_started_this_one() -> None:
    ballast = bytearray(os.urandom(1)) * (300 * MIB)  # resident here
    code = "from job.system.resources import peak_resident_bytes; print(peak_resident_bytes())"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert 5 * MIB < int(completed.stdout) < 150 * MIB
    assert peak_resident_bytes() > len(ballast)


def test_a_kernel_that_does_not_say_the_peak(tmp_path: Path) -> None:
    assert peak_resident_bytes(tmp_path) == 0
