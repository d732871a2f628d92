"""One checkpoint on every backend: the same outputs, gradients, and losses of 50 training steps."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import add_noise, available_backend, mask_cells

from cifm_backends.base import Backend
from cifm_backends.torch_reference import TorchBackend
from cifm_cli.data.slide import slide_from_arrays
from cifm_cli.model.masking import MaskedTile
from cifm_cli.model.network import Network
from cifm_cli.provenance import numpy_generator, seeded_torch
from cifm_cli.recipe import Recipe, parse

OTHERS = [pytest.param("fused"), pytest.param("dgl", marks=pytest.mark.dgl)]
GENES = tuple(f"ENSG{g:011d}" for g in range(10))
FORMS = {
    "factored": {"model": {"width": 8, "heads": 2, "self_loops": True}, "objective": {"name": "balanced_mse"}},
    "mlp": {
        "model": {"message": "mlp", "width": 8, "residual": False, "self_loops": True},
        "objective": {"name": "balanced_mse"},
    },
}
SHORT = {
    "train.steps": 50,
    "train.max_minutes": 1e6,  # the learning rate must not depend on time
    "train.warmup_steps": 5,
    "train.learning_rate": 1e-3,  # at twice this rate, the literal form amplifies the rounding of float32 a thousand times
    "train.validation_tiles": 1,
    "data.tile_cells": 64,
    "model.width": 16,
    "objective.name": "balanced_mse",
}


def tissues() -> dict[str, np.ndarray]:
    """Positions of cells in micrometres; the radius is 20."""
    generator = numpy_generator(0, "agreement")
    return {
        "random": generator.uniform(0, 90, (60, 2)),
        "all at one position": np.zeros((12, 2)),
        "no neighbours": np.arange(10.0)[:, None] * [50.0, 0.0],
        "two at each position": np.repeat(generator.uniform(0, 40, (9, 2)), 2, axis=0),
    }


def ready_tiles(recipe: Recipe, dtype: torch.dtype) -> Iterator[tuple[str, MaskedTile]]:
    """A masked tile of each tissue; its second cell is void."""
    for name, xy_um in tissues().items():
        counts = numpy_generator(1, name).poisson(1.5, (len(xy_um), len(GENES)))
        counts[1] = 0
        slide = slide_from_arrays(name, xy_um, counts, GENES, 20.0)
        yield name, mask_cells(slide, np.array([3, 5]), recipe, dtype)


def differentiate(network: Network, backend: Backend, tile: MaskedTile) -> dict[str, torch.Tensor]:
    """Outputs, and the gradient of a fixed scalar of them in every parameter."""
    outputs = {name: values for name, values in network(backend, tile)._asdict().items() if values is not None}
    weights = dict(network.named_parameters())
    total = sum((values * torch.linspace(-1, 1, values.numel()).view_as(values)).sum() for values in outputs.values())
    grads = torch.autograd.grad(total, list(weights.values()), materialize_grads=True)
    return {name: values.detach() for name, values in (outputs | dict(zip(weights, grads, strict=True))).items()}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str)
def test_one_checkpoint_gives_one_output(name: str, dtype: torch.dtype, allowed: float) -> None:
    backend = available_backend(name)
    for form, content in FORMS.items():
        recipe = parse(content, form)
        with seeded_torch(0, "network"):
            network = Network(len(GENES), recipe).to(dtype)
            add_noise(network, 0.1)
        for tissue, tile in ready_tiles(recipe, dtype):
            wanted = differentiate(network, TorchBackend(), tile)
            for part, found in differentiate(network, backend, tile).items():
                apart = float((found - wanted[part]).abs().max()) / max(1.0, float(wanted[part].abs().max()))
                assert apart < allowed, f"{form}, {tissue}, {part}: {apart:.1e} apart"


@pytest.fixture(scope="module")
def curve(prepared_small: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], np.ndarray]:
    """Losses of a short training with a backend and a form of the layer; each is trained once."""
    from cifm_cli.app import main

    known: dict[tuple[str, str], np.ndarray] = {}

    def train(backend: str, form: str) -> np.ndarray:
        if (backend, form) not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path_factory.mktemp("curve"))
                words = [f"--set={key}={value}" for key, value in ({**SHORT, "model.message": form}).items()]
                words += ["--out=run", f"--backend={backend}"]
                assert main(["train", "demo", "--data", str(prepared_small.parent), *words]) == 0
                lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
            known[backend, form] = np.array([line["loss"] for line in lines if "loss" in line])
        return known[backend, form]

    return train


@pytest.mark.parametrize("name", OTHERS)
def test_fifty_steps_give_the_same_losses(
    name: str, curve: Callable[[str, str], np.ndarray], record_property: Callable[[str, object], None]
) -> None:
    available_backend(name)
    for form in FORMS:
        wanted, found = curve("torch", form), curve(name, form)
        assert len(wanted) == 50
        assert wanted[-10:].mean() < wanted[:10].mean(), "the loss did not fall, so nothing is tested"
        apart = float(np.abs(found / wanted - 1).max())
        record_property(f"{form}: largest relative difference", apart)
        sys.stderr.write(f"{name}, {form}: largest relative difference of a loss in 50 steps {apart:.1e}\n")
        assert apart < 1e-4, f"{form}: losses {apart:.1e} apart"


@pytest.mark.parametrize("name", ["torch", *OTHERS])
def test_members_trained_in_parallel_equal_members_trained_in_turn(
    name: str, prepared_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two members share a tile, its graph and the backend; training them in parallel must not change the result."""
    from cifm_cli.app import main

    available_backend(name)
    monkeypatch.chdir(tmp_path)
    settings = {**SHORT, "objective.name": "residual", "model.members": 2, "model.dropout": 0.2, "train.steps": 4}
    settings["objective.linear_rank"] = 0  # its fit takes longer than the steps
    words = ["train", "demo", "--data", str(prepared_small.parent), f"--backend={name}"]
    words += [f"--set={key}={value}" for key, value in settings.items()]
    before, losses = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert main([*words, f"--out={threads}"]) == 0
            lines = [json.loads(line) for line in Path(str(threads), "metrics.jsonl").read_text().splitlines()]
            losses.append(np.array([line["loss"] for line in lines if "loss" in line]))
    finally:
        torch.set_num_threads(before)
    assert len(losses[0]) == 4
    apart = float(np.abs(losses[1] / losses[0] - 1).max())
    assert apart < 1e-5, f"losses {apart:.1e} apart"
