"""The released onnxruntime-gpu wheel beside CUDA libraries that answer every call and compute nothing.

Sessions, graph optimisation, placement of nodes and choice of kernels are the wheel's own; no value is computed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "gpu-wheel"
_LOCK = ROOT / "requirements" / "gpu.txt"
_SOURCE = Path(__file__).with_name("cuda_stubs.c")
# Resolved by name at run time, so the wheel's list of needed libraries does not contain them.
_LOADED_BY_NAME = {
    "libcudnn.so.9": rb"cudnn[A-Z]",
    "libcufft.so.12": rb"cufft[A-Z]",
    "libcuda.so.1": rb"cu(?:Launch|Link|Module|Func|Get|Device)",
}
_DOWNLOAD_S = 600


class NoRegistryError(Exception):
    """pip reaches no registry that has the wheel."""


@dataclass(frozen=True)
class StubGpu:
    """An unpacked wheel and the stub libraries, for one process after the other."""

    packages: Path
    libraries: Path

    def run(
        self,
        request: dict[str, Any],
        *,
        sm: int = 80,
        memory: int = 80_000_000_000,
        driver: int = 13000,
        module: str = "tests.gpu.probe",
    ) -> dict[str, Any]:
        """Run `tests/gpu/probe.py`, or another module, in a process of its own.

        Args:
            request: Its input; see there.
            sm: Compute capability of the device, 80 is 8.0.
            memory: Of the device, in bytes.
            driver: CUDA version of the driver, 13000 is 13.0.
            module: Reads a JSON object and prints one on its last line.

        Returns:
            What the probe found.
        """
        environment = {
            **os.environ,
            "PYTHONPATH": f"{self.packages}:{ROOT}",
            "LD_LIBRARY_PATH": str(self.libraries),
            "STUB_SM": str(sm),
            "STUB_MEMORY": str(memory),
            "STUB_DRIVER": str(driver),
            "ORT_DISABLE_TELEMETRY": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps(request),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the probe ended with {done.returncode}:\n{done.stderr[-4000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def stub_gpu() -> StubGpu:
    """Fetch the locked wheel and compile the stubs, once for each version of either.

    Raises:
        NoRegistryError: pip reaches no registry that has the wheel.
    """
    requirement = locked_requirement()
    version = requirement.split("==")[1].split()[0]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        packages = CACHE / version
        if not packages.exists():
            _fetch(requirement, packages)
        return StubGpu(packages, _compile(packages))


def locked_requirement() -> str:
    """Return the lines of onnxruntime-gpu in `requirements/gpu.txt`, hashes included."""
    found = re.search(r"^onnxruntime-gpu==(?:.*\\\n)*.*$", _LOCK.read_text(), re.MULTILINE)
    assert found, f"{_LOCK} does not lock onnxruntime-gpu"
    return found.group()


def _fetch(requirement: str, packages: Path) -> None:
    draft = packages.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    listed = draft / "requirements.txt"
    listed.write_text(requirement + "\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--dest", str(draft)]
    done = subprocess.run(
        [*command, "--requirement", str(listed)], capture_output=True, text=True, check=False, timeout=_DOWNLOAD_S
    )
    if done.returncode:
        raise (NoRegistryError if "(from versions: none)" in done.stderr else RuntimeError)(done.stderr[-2000:])
    (wheel,) = draft.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(draft)
    wheel.unlink()
    draft.rename(packages)


def _compile(packages: Path) -> Path:
    """One shared library for every name that the CUDA provider needs."""
    provider = packages / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so"
    libraries = packages / "stubs"
    stamp = libraries / "source.c"
    if stamp.exists() and stamp.read_bytes() == _SOURCE.read_bytes():
        return libraries
    shutil.rmtree(libraries, ignore_errors=True)
    libraries.mkdir()
    needed = _needed_symbols(provider)
    # The first one defines what the others call.
    for library in sorted(needed, key=lambda x: "cudart" not in x):
        _compile_library(library, needed[library], libraries)
    shutil.copy(_SOURCE, stamp)
    return libraries


def _compile_library(library: str, symbols: set[str], folder: Path) -> None:
    short = library.removeprefix("lib").split(".")[0]
    defined = set(re.findall(r"^(?:EXPORT .*?|LAUNCHES\()\*?(\w+)(?:\(|\))", _SOURCE.read_text(), re.MULTILINE))
    source = folder / f"{short}.c"
    answers = "".join(f"EXPORT long {name}(void) {{ return 0; }}\n" for name in sorted(symbols - defined))
    source.write_text(f'#define LIBRARY_{short}\n#include "{_SOURCE}"\n{answers}')
    script = folder / f"{short}.map"
    script.write_text(f"{library} {{ global: *; }};\n")
    command = ["gcc", "-shared", "-fPIC", "-O1", "-w", "-fno-builtin", f"-Wl,-soname,{library}"]
    script_flag = [f"-Wl,--version-script={script}"]
    others = [] if short == "cudart" else [str(next(folder.glob("libcudart.so.*")))]
    subprocess.run([*command, *script_flag, "-o", str(folder / library), str(source), *others], check=True)


def _needed_symbols(provider: Path) -> dict[str, set[str]]:
    """Symbols that the CUDA provider imports, by library."""
    dynamic = subprocess.run(["readelf", "-d", provider], capture_output=True, text=True, check=True).stdout
    imported = subprocess.run(["nm", "-D", "--undefined-only", provider], capture_output=True, text=True, check=True)
    needed: dict[str, set[str]] = {x: set() for x in re.findall(r"NEEDED.*\[(libcu\S+)\]", dynamic)}
    for symbol, library in re.findall(r" U (\w+)@(libcu\S+)$", imported.stdout, re.MULTILINE):
        needed[library].add(symbol)
    needed["libcuda.so.1"].update(re.findall(r" U (cu[A-Z]\w+)$", imported.stdout, re.MULTILINE))
    content = provider.read_bytes()
    for library, prefix in _LOADED_BY_NAME.items():
        found = re.findall(rb"(?<=\0)(" + prefix + rb"\w+)(?=\0)", content)
        needed.setdefault(library, set()).update(x.decode() for x in found)
    return needed
