"""The command that a stopped run prints continues it: seed, slides, genes and backend are read from the run."""

from __future__ import annotations

import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from builders import forget_checksums, interrupt_training, read_tensors

from cifm_cli.model.checkpoint import load_checkpoint
from cifm_cli.training.state import list_states

SMALL = [
    word
    for setting in (
        "train.steps=8",
        "train.max_minutes=1e6",  # so that compiling, which may take long, does not change the learning rate
        "train.validate_every=4",
        "train.validation_tiles=1",
        "model.width=8",
        "objective.linear_rank=8",
    )
    for word in ("--set", setting)
]


@pytest.fixture
def prepared(prepared_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with one prepared slide."""
    monkeypatch.chdir(tmp_path)
    Path("prepared").mkdir()
    return Path(shutil.copy(prepared_small, "prepared"))


def train_and_stop(cifm: Callable, out: str, *words: object, steps: int = 6) -> list[str]:
    """Train until a signal during step `steps`, and return the command that is printed then."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_training(patch, steps, signal.SIGTERM)
        outcome = cifm("train", "demo", *SMALL, "--out", out, *words)
    assert outcome.code == 143, outcome.err
    return shlex.split(outcome.err.rpartition("go on with: cifm ")[2].splitlines()[0])


def train_to_the_end(cifm: Callable, out: str, *words: object) -> None:
    assert cifm("train", "demo", *SMALL, "--out", out, *words).code == 0


def weights(run: str) -> dict[str, torch.Tensor]:
    return read_tensors(list_states(Path(run))[0])[0]


def same(first: str, second: str) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_seed_slides_and_backend_are_read_from_the_run(cifm: Callable, prepared: Path) -> None:
    words = ("--seed", 5, "--data", prepared, "--backend", "torch")
    train_to_the_end(cifm, "whole", *words)
    command = train_and_stop(cifm, "interrupted", *words)
    shutil.copy(prepared, "prepared/later.h5ad")  # a slide that is not part of the run
    outcome = cifm(*command)
    assert outcome.code == 0, outcome.err
    assert "of 1 slide(s)" in outcome.err
    assert "backend torch" in outcome.err
    assert same("whole", "interrupted")
    provenance = load_checkpoint(Path("interrupted")).provenance
    assert (provenance["seed"], list(provenance["inputs"])) == (5, [str(prepared)])


def test_a_fine_tuned_run_keeps_its_genes_and_its_origin(cifm: Callable, prepared: Path) -> None:
    train_to_the_end(cifm, "given", "--data", prepared)
    slide = ad.read_h5ad(prepared)
    forget_checksums(slide[:, np.arange(slide.n_vars)[::-1]]).write_h5ad("reversed.h5ad")
    forget_checksums(slide[:, ::2]).write_h5ad("half.h5ad")
    for other in ("reversed", "half"):
        words = ("--init", "given", "--data", f"{other}.h5ad")
        train_to_the_end(cifm, f"whole_{other}", *words)
        assert cifm(*train_and_stop(cifm, f"interrupted_{other}", *words)).code == 0
        assert same(f"whole_{other}", f"interrupted_{other}")
        whole, interrupted = (load_checkpoint(Path(f"{run}_{other}")) for run in ("whole", "interrupted"))
        assert interrupted.vocabulary == whole.vocabulary == load_checkpoint(Path("given")).vocabulary
        assert interrupted.provenance["init"] == whole.provenance["init"]
        assert str(prepared) in interrupted.provenance["init"]["inputs"]


def test_a_run_continues_after_its_slides_have_moved(cifm: Callable, prepared: Path) -> None:
    train_to_the_end(cifm, "whole")
    command = train_and_stop(cifm, "interrupted")
    Path("prepared").rename("elsewhere")
    outcome = cifm(*command)
    assert outcome.code == 1
    assert "error: prepared/tissue.h5ad: a slide of interrupted, and no such file" in outcome.err
    assert "hint: name the run's slides: --data PATH" in outcome.err
    assert cifm(*command, "--data", "elsewhere").code == 0
    assert same("whole", "interrupted")


def test_another_seed_or_other_slides_are_an_error(cifm: Callable, prepared: Path) -> None:
    command = train_and_stop(cifm, "run")
    before = weights("run")
    outcome = cifm(*command, "--seed", 3)
    assert "error: run: resumed with --seed 3, started with 0" in outcome.err
    shutil.copy(prepared, "prepared/later.h5ad")
    outcome = cifm(*command, "--data", "prepared")
    assert "error: prepared/later.h5ad: not among the slides that run was started with" in outcome.err
    slide = ad.read_h5ad(prepared)
    forget_checksums(slide[: slide.n_obs - 1]).write_h5ad(prepared)
    outcome = cifm(*command)
    assert outcome.code == 1
    assert "error: run: started with prepared/tissue.h5ad, which has changed" in outcome.err
    assert all(torch.equal(value, weights("run")[name]) for name, value in before.items())


def test_a_state_with_a_damaged_header_is_skipped(cifm: Callable, prepared: Path) -> None:
    train_to_the_end(cifm, "whole")
    command = train_and_stop(cifm, "interrupted")
    newest, older = list_states(Path("interrupted"))
    content = bytearray(newest.read_bytes())
    content[content.index(b"position") - 2] ^= 0x40  # the quote before it: no longer JSON
    newest.write_bytes(content)
    outcome = cifm(*command)
    assert outcome.code == 0, outcome.err
    assert f"warning: {newest}: not a readable training state" in outcome.err
    assert older.name == "train_state-00000004.safetensors"
    assert same("whole", "interrupted")


def test_a_model_with_a_damaged_header_is_an_error(cifm: Callable, prepared: Path) -> None:
    train_to_the_end(cifm, "run")
    model = Path("run/model.safetensors")
    content = bytearray(model.read_bytes())
    content[content.index(b"vocabulary") - 2] ^= 0x40
    model.write_bytes(content)
    outcome = cifm("inspect", model)
    assert outcome.code == 1
    assert f"error: {model}: not a readable checkpoint" in outcome.err
