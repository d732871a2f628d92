"""The remark about GPUs without bfloat16."""

from __future__ import annotations

import pytest
import torch

from cifm_cli.model.precision import precision_note


@pytest.mark.parametrize(
    ("precision", "device", "capability", "noted"),
    [
        ("bfloat16", "cuda", (7, 5), True),
        ("bfloat16", "cuda", (8, 0), False),
        ("bfloat16", "cuda", (12, 0), False),
        ("float32", "cuda", (7, 5), False),
        ("bfloat16", "cpu", (0, 0), False),
    ],
)
def test_a_gpu_without_bfloat16_is_noted(
    monkeypatch: pytest.MonkeyPatch, precision: str, device: str, capability: tuple[int, int], noted: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    note = precision_note(precision, torch.device(device))
    assert note == ("Tesla T4 has no bfloat16 in hardware: --precision float32 may be faster" if noted else None)
