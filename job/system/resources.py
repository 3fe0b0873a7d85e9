"""Processors and memory that this process may use, by machine and cgroups (v1 and v2)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from job.system.cuda_driver import load_driver, number_of_gpus

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
_UNLIMITED = 1 << 60
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
_LARGE_BUFFER_BYTES = 1 << 20
_HEAPS = 2


def usable_cpus(cgroup_root: Path = _CGROUP_ROOT, proc: Path = _PROC) -> int:
    """Processors that this process may use: its affinity, limited by the quota of its cgroups, at least 1."""
    granted = len(os.sched_getaffinity(0))
    quota = _cpu_quota(cgroup_root, proc)
    return max(1, granted if quota is None else min(granted, int(quota)))


def visible_gpus(load: Callable[[str], Any] = ctypes.CDLL) -> tuple[str, ...]:
    """Names of the NVIDIA GPUs that this process can use, as in CUDA_VISIBLE_DEVICES.

    The driver counts them, and applies that variable itself: it ignores the names from the first invalid one on. Of
    several MIG instances it shows a process only the first (CUDA C++ Programming Guide), so each instance that the
    variable names is one for a process of its own. A driver that does not respond counts nothing, and may come back.
    """
    count = count_gpus(load)
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return tuple(str(number) for number in range(count))
    names = tuple(name.strip() for name in chosen.split(",") if name.strip())
    is_mig = bool(names) and all(name.startswith("MIG-") for name in names)
    return names if is_mig or count == 0 else names[:count]


def count_gpus(load: Callable[[str], Any] = ctypes.CDLL) -> int:
    """Number of GPUs, or MIG instances, by NVIDIA's driver (CUDA driver API, `cuDeviceGetCount`); 0 without a driver.

    A container sees only the devices that it was given, while `/proc/driver/nvidia/gpus` lists all of the node.
    """
    driver = load_driver(load)
    return 0 if driver is None else number_of_gpus(driver)


def peak_resident_bytes(proc: Path = _PROC) -> int:
    """Peak of this process's resident memory, by proc(5); 0 where the kernel does not say.

    `ru_maxrss` (getrusage(2)) begins at the peak of the process that started this one.
    """
    return _bytes_after("VmHWM", _read_text(proc / "self/status")) or 0


def available_memory(cgroup_root: Path = _CGROUP_ROOT, proc: Path = _PROC) -> int:
    """Bytes that this process can still allocate: free memory, limited by its cgroups."""
    free = _meminfo(proc, "MemAvailable")
    for folder, limit_name, usage_name in _memory_files(cgroup_root, proc):
        limit, usage = _read_int(folder / limit_name), _read_int(folder / usage_name)
        if limit is not None and usage is not None and limit < _UNLIMITED:
            free = min(free, limit - usage + _reclaimable(folder))
    return max(0, free)


def memory_limit(cgroup_root: Path = _CGROUP_ROOT, proc: Path = _PROC) -> int:
    """Maximum bytes of this process: the machine's memory, limited by its cgroups."""
    limits = [_read_int(folder / limit_name) for folder, limit_name, _ in _memory_files(cgroup_root, proc)]
    return min([_meminfo(proc, "MemTotal"), *(limit for limit in limits if limit is not None)])


def _own_cgroup(controller: str, cgroup_root: Path, proc: Path) -> Path:
    """Folder of this process's cgroup; the root of the mount in a container with its own namespace."""
    for line in _read_text(proc / "self" / "cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(",") or (names == "" and not (cgroup_root / controller).is_dir()):
            base = cgroup_root / controller if names else cgroup_root
            own = base / path.lstrip("/")
            return own if own.is_dir() else base
    return cgroup_root


def _cpu_quota(cgroup_root: Path, proc: Path) -> float | None:
    """Processors by the smallest quota of this process's cgroup and its parents."""
    folder = _own_cgroup("cpu", cgroup_root, proc)
    quotas = []
    for ancestor in _up_to(folder, cgroup_root):
        fields = _read_text(ancestor / "cpu.max").split()
        if len(fields) == 2 and fields[0].isdigit():
            quotas.append(int(fields[0]) / int(fields[1]))
        quota, period = _read_int(ancestor / "cpu.cfs_quota_us"), _read_int(ancestor / "cpu.cfs_period_us")
        if quota is not None and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def _memory_files(cgroup_root: Path, proc: Path) -> list[tuple[Path, str, str]]:
    folder = _own_cgroup("memory", cgroup_root, proc)
    names = [("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")]
    return [(ancestor, limit, usage) for ancestor in _up_to(folder, cgroup_root) for limit, usage in names]


def _up_to(folder: Path, root: Path) -> list[Path]:
    levels = [folder, *folder.parents]
    return levels[: levels.index(root) + 1] if root in levels else [folder]


def _reclaimable(folder: Path) -> int:
    """Page cache that the kernel can reclaim."""
    for line in _read_text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in {"inactive_file", "total_inactive_file"}:
            return int(value)
    return 0


def _meminfo(proc: Path, name: str) -> int:
    found = _bytes_after(name, _read_text(proc / "meminfo"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if found is None else found


def _bytes_after(name: str, text: str) -> int | None:
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _read_int(path: Path) -> int | None:
    text = _read_text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def return_freed_memory() -> None:
    """Make glibc return large freed buffers to the system at once.

    By default glibc raises its mmap threshold with every large buffer and keeps one heap for each thread: rasters of
    24 megapixels then take twice the memory in use (mallopt(3)). Other C libraries are not changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BUFFER_BYTES)
    mallopt(_M_ARENA_MAX, _HEAPS)
