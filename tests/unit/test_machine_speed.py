"""The estimate of training time from the speed of a machine."""

from __future__ import annotations

import pytest
import torch

from cifm_cli.training.machine_speed import MachineSpeed, measure_speed


@pytest.mark.parametrize(("gflops", "copy", "seconds"), [(88.0, 32.0, 0.32), (204.0, 14.6, 0.27)])
def test_the_estimate_fits_the_machines_that_it_comes_from(gflops: float, copy: float, seconds: float) -> None:
    speed = MachineSpeed(float32_gflops=gflops, bfloat16_gflops=0, copy_gb_per_s=copy)
    assert speed.step_seconds(1) == pytest.approx(seconds, rel=0.02)
    assert speed.step_seconds(2) == speed.step_seconds(16) == speed.step_seconds(1) / 1.8


def test_measuring_leaves_the_threads_of_torch_alone() -> None:
    before = torch.get_num_threads()
    speed = measure_speed()
    assert torch.get_num_threads() == before
    assert all(0 < value < 1e6 for value in speed.to_json().values())
