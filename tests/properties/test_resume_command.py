"""The command that a stopped run prints continues it: seed, slides, genes and backend are read from the run."""

from __future__ import annotations

import shlex
import shutil
import signal
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import torch
from builders import forget_checksums, interrupt_training, read_tensors

from cifm_cli.model.checkpoint import load_checkpoint
from cifm_cli.training.state import list_states

if TYPE_CHECKING:
    from conftest import BuildOnce

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


@pytest.fixture
def resume_command(
    cifm: Callable, build_once: BuildOnce, prepared_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The command that continues the run `interrupted` of the working directory; `whole` was never stopped."""

    def build(folder: Path) -> None:
        (folder / "prepared").mkdir()
        shutil.copy(prepared_small, folder / "prepared")
        with chdir(folder):
            train_to_the_end(cifm, "whole")
            Path("command").write_text(shlex.join(train_and_stop(cifm, "interrupted")), encoding="utf8")

    shutil.copytree(build_once("resume-command", build), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return shlex.split(Path("command").read_text(encoding="utf8"))


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
    # Half of the genes, in reverse order.
    forget_checksums(slide[:, np.arange(slide.n_vars)[::-2]]).write_h5ad("other.h5ad")
    words = ("--init", "given", "--data", "other.h5ad")
    train_to_the_end(cifm, "whole", *words)
    assert cifm(*train_and_stop(cifm, "interrupted", *words)).code == 0
    assert same("whole", "interrupted")
    whole, interrupted = (load_checkpoint(Path(run)) for run in ("whole", "interrupted"))
    assert interrupted.vocabulary == whole.vocabulary == load_checkpoint(Path("given")).vocabulary
    assert interrupted.provenance["init"] == whole.provenance["init"]
    assert str(prepared) in interrupted.provenance["init"]["inputs"]


def test_a_run_continues_after_its_slides_have_moved(cifm: Callable, resume_command: list[str]) -> None:
    Path("prepared").rename("elsewhere")
    outcome = cifm(*resume_command)
    assert outcome.code == 1
    assert "error: prepared/tissue.h5ad: a slide of interrupted, and no such file" in outcome.err
    assert "hint: name the run's slides: --data PATH" in outcome.err
    assert cifm(*resume_command, "--data", "elsewhere").code == 0
    assert same("whole", "interrupted")


def test_another_seed_or_other_slides_are_an_error(cifm: Callable, resume_command: list[str]) -> None:
    before = weights("interrupted")
    outcome = cifm(*resume_command, "--seed", 3)
    assert "error: interrupted: resumed with --seed 3, started with 0" in outcome.err
    prepared = Path("prepared/tissue.h5ad")
    shutil.copy(prepared, "prepared/later.h5ad")
    outcome = cifm(*resume_command, "--data", "prepared")
    assert "error: prepared/later.h5ad: not among the slides that interrupted was started with" in outcome.err
    slide = ad.read_h5ad(prepared)
    forget_checksums(slide[: slide.n_obs - 1]).write_h5ad(prepared)
    outcome = cifm(*resume_command)
    assert outcome.code == 1
    assert "error: interrupted: started with prepared/tissue.h5ad, which has changed" in outcome.err
    assert all(torch.equal(value, weights("interrupted")[name]) for name, value in before.items())


def test_a_state_with_a_damaged_header_is_skipped(cifm: Callable, resume_command: list[str]) -> None:
    newest, older = list_states(Path("interrupted"))
    content = bytearray(newest.read_bytes())
    content[content.index(b"position") - 2] ^= 0x40  # the quote before it: no longer JSON
    newest.write_bytes(content)
    outcome = cifm(*resume_command)
    assert outcome.code == 0, outcome.err
    assert f"warning: {newest}: not a readable training state" in outcome.err
    assert older.name == "train_state-00000004.safetensors"
    assert same("whole", "interrupted")


@pytest.mark.usefixtures("resume_command")
def test_a_model_with_a_damaged_header_is_an_error(cifm: Callable) -> None:
    model = Path("whole/model.safetensors")
    content = bytearray(model.read_bytes())
    content[content.index(b"vocabulary") - 2] ^= 0x40
    model.write_bytes(content)
    outcome = cifm("inspect", model)
    assert outcome.code == 1
    assert f"error: {model}: not a readable checkpoint" in outcome.err
