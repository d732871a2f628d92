"""`cifm backends`: list the backends of the graph network."""

from __future__ import annotations

from typing import Any

from cifm_cli.commands import options


def backends(as_json: options.Json = False) -> None:
    """List the backends of the graph network on this machine, and which one `auto` uses.

    A backend that is not available is shown with the reason and does not affect the others. No backend has been run on a
    GPU yet: the triton backend was checked in Triton's interpreter, and its speed has not been measured.
    """
    from cifm_cli.report import terminal

    statuses = describe_backends()
    if as_json:
        terminal.emit(statuses)
        return
    header = ("backend", "runs on", "auto for", "version or problem")
    rows = [
        (x["name"], ", ".join(x["devices"]) or "-", ", ".join(x["auto"]) or "-", x["version"] or x["problem"])
        for x in statuses
    ]
    terminal.listing([header, *rows])


def describe_backends() -> list[dict[str, Any]]:
    """Describe every registered backend.

    Returns:
        One dictionary per backend: name, version (None if it does not load), problem (None if it loads), the devices of
        this machine that it runs on, and those for which `auto` uses it.
    """
    import torch

    from cifm_backends import available

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    without_backend = set(devices)  # backends are in the order in which `auto` tries them
    descriptions = []
    for name, status in available().items():
        runs_on = [device for device in devices if status.backend and status.backend.supports(device)]
        descriptions.append(
            {
                "name": name,
                "version": status.backend.version() if status.backend else None,
                "problem": status.problem,
                "devices": runs_on,
                "auto": [device for device in runs_on if device in without_backend],
            }
        )
        without_backend -= set(runs_on)
    return descriptions
