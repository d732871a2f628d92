"""`cifm backends`: what can run the graph network here."""

from __future__ import annotations

from typing import Any

from cifm_cli.commands import options


def backends(as_json: options.Json = False) -> None:
    """Show what can run the graph network here, and which one `auto` takes."""
    from cifm_cli.report import terminal

    found = describe_backends()
    if as_json:
        terminal.emit(found)
        return
    header = ("backend", "runs on", "auto for", "version or problem")
    rows = [(x["name"], *map(", ".join, (x["devices"], x["auto"])), x["version"] or x["problem"]) for x in found]
    terminal.listing([header, *rows])


def describe_backends() -> list[dict[str, Any]]:
    """Every registered backend.

    Returns:
        One dictionary per backend: name, version (None where it does not load), problem, the devices of this machine
        that it runs on, and those for which `auto` chooses it.
    """
    import torch

    from cifm_backends import available

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    untaken = set(devices)
    found = []
    for name, status in available().items():
        runs_on = [device for device in devices if status.backend and status.backend.supports(device)]
        found.append(
            {
                "name": name,
                "version": status.backend.version() if status.backend else None,
                "problem": status.problem,
                "devices": runs_on,
                "auto": [device for device in runs_on if device in untaken],
            }
        )
        untaken -= set(runs_on)
    return found
