"""The estimate of training time from the speed of a machine."""

from __future__ import annotations

import pytest
import torch

from cifm_cli.training.machine_speed import MachineSpeed, measure_speed


@pytest.mark.parametrize(
    ("bfloat16_gflops", "measured_s"),
    [(224.0, 0.086), (86.0, 0.097)],  # with products in bfloat16, and in float32
)
def test_the_estimate_fits_the_machine_that_it_comes_from(bfloat16_gflops: float, measured_s: float) -> None:
    speed = MachineSpeed(float32_gflops=86.0, bfloat16_gflops=bfloat16_gflops, copy_gb_per_s=30.0)
    assert speed.step_seconds(2) == pytest.approx(measured_s, rel=0.15)
    assert speed.step_seconds(1) == pytest.approx(1.4 * speed.step_seconds(2))
    assert speed.step_seconds(16) == speed.step_seconds(2)  # a step is taken on one core


def test_measuring_leaves_the_threads_of_torch_alone() -> None:
    before = torch.get_num_threads()
    speed = measure_speed()
    assert torch.get_num_threads() == before
    assert all(0 < value < 1e6 for value in speed.to_json().values())
