"""`cifm doctor`: facts about this machine for bug reports."""

from __future__ import annotations

from typing import Any

from cifm_cli.commands import options

_GB = 1e9
_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def doctor(as_json: options.Json = False) -> None:
    """Print versions, threads, memory, disk, speed and backends of this machine, and how long training takes on it."""
    from cifm_cli.report import terminal

    facts = _collect() | _measure()
    if as_json:
        terminal.emit(facts)
    else:
        terminal.listing(terminal.flatten(facts))


def _measure() -> dict[str, Any]:
    """Speed of a core, and the time that the recipe `xenium` takes if nothing else runs."""
    import torch

    from cifm_cli.recipe import find, load
    from cifm_cli.training.machine_speed import measure_speed

    speed, steps = measure_speed(), load(find("xenium")).train.steps
    step_s = speed.step_seconds(torch.get_num_threads())
    estimate = {"recipe": "xenium", "steps": steps, "seconds_per_step": round(step_s, 2)}
    return {
        "speed_of_a_core": speed.to_json(),
        "training_estimate": estimate | {"minutes": round(steps * step_s / 60)},
    }


def _collect() -> dict[str, Any]:
    """Versions, threads, memory, disk and backends, as JSON values."""
    import os
    import shutil
    from pathlib import Path

    import torch

    from cifm_cli import provenance
    from cifm_cli.commands.backends import describe_backends

    origin = provenance.collect("doctor")
    page = os.sysconf("SC_PAGE_SIZE")
    return {
        **{key: origin[key] for key in ("cifm", "git", "python", "machine", "packages")},
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "environment": {name: os.environ.get(name) for name in _VARIABLES},
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * page / _GB, 1),
        "memory_free_gb": round(os.sysconf("SC_AVPHYS_PAGES") * page / _GB, 1),
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / _GB, 1),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "backends": {x["name"]: x["version"] or x["problem"] for x in describe_backends()},
    }
