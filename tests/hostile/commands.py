"""The commands that `run_kills.py` and `run_pairs.py` disturb, the workspace they run in, and the check of their files.

Commands run in processes that are forked from one that has all modules imported, so that each takes about a second.
Letters and paths are those of a workspace made by `make_workspace`: `download/t`, `prepared/t.h5ad`, `runs/base`,
`embedded/t.h5ad`, the same of a second sample `u` in `second`, a stand-in for the public release, and whatever a command adds.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # a process forked from one with several threads may hang
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import h5py
import numpy as np
import pandas as pd
import torch
from release_stand_in import stand_in_tensors, write_release
from safetensors.numpy import load_file

from cifm_cli.app import main
from cifm_cli.data.slide import open_slide
from cifm_cli.synthetic.downloads import write_xenium

if TYPE_CHECKING:
    from collections.abc import Set

SMALL = "--set train.steps=12 --set train.validate_every=4 --set train.validation_tiles=1 --set model.width=8"
# With a small radius, so that cells beyond the reach of an embedding are left to train a probe on.
TRAIN = (
    f"train demo {SMALL} --set data.tile_cells=32 --set data.radius_um=5 --set train.save_minutes=1e-9 --backend torch "
    "--device cpu"
)
EVALUATE = "evaluate --model runs/base --backend torch --device cpu --geometry scattered --rounds 1 --adapt none"
SIMULATE = "simulate --model runs/base --backend torch --max-cells 60 --labels cluster"
SHARE = "share embedded/t.h5ad second/embedded/u.h5ad --k 10 --permutations 19"
_LEAVE_OUT = (
    "evaluate prepared/t.h5ad second/prepared/u.h5ad --leave-out slide --recipe demo --backend torch --device cpu"
)
_SHORTER = "--set train.steps=2 --set model.width=8 --set train.validation_tiles=1 --set objective.linear_rank=0"
INPUTS = ("download", "prepared", "runs/base", "embedded", "labelled.h5ad", "second", "release")
LEFTOVER = re.compile(r"\.(partial|complete|replaced)\.|cifm-lock")
# Parts of JSON files that differ between two runs of the same command.
_VARIABLE_KEYS = {"provenance", "seconds", "origin", "minutes", "path", "run"}


@dataclass(frozen=True)
class Command:
    """A command line and what it writes."""

    name: str  # name in reports
    words: str  # the command line after `cifm`
    outputs: tuple[str, ...]  # files and folders that it makes
    resume: bool = False  # whether an interrupted one is continued with --resume
    once: bool = False  # whether it refuses to replace what it wrote


COMMANDS = (
    Command("prepare", "prepare download/t --out new", ("new",)),
    Command("train", f"{TRAIN} --out runs/new", ("runs/new",), resume=True),
    Command("evaluate", f"{EVALUATE} --save-predictions --out evaluation", ("evaluation",)),
    Command("embed", "embed --model runs/base --backend torch --out out", ("out",)),
    Command(
        "predict", "predict prepared/t.h5ad --model runs/base --backend torch --out predicted/t.h5ad", ("predicted",)
    ),
    Command("export", "export prepared/t.h5ad --to parquet --force --out exported", ("exported",)),
    Command("probe", "probe embedded/t.h5ad --label cluster --folds 2 --out probe/p.json", ("probe",)),
    Command("annotate apply", "annotate apply --out annotated", ("annotated",)),
    Command(
        "annotate train", "annotate train labelled.h5ad --label cluster --out annotators/a.safetensors", ("annotators",)
    ),
    Command(
        "simulate",
        "simulate --inject tcell --count 5 --steps 2 --model runs/base --backend torch --max-cells 60 --out simulation",
        ("simulation",),
    ),
    Command(
        "simulate edits",
        f"{SIMULATE} --remove macrophage --knockout KRT8 --in tumour --inject t_cell --count 3 --near tumour --within 60 --region 0,0,1000,1000 --steps 1 "
        "--adapt none --out edited",
        ("edited",),
    ),
    Command(
        "simulate --sensitivity",
        f"{SIMULATE} --sensitivity KRT8 --inject t_cell --search 2 --adapt none --out sensitivity",
        ("sensitivity",),
    ),
    Command("share", f"{SHARE} --out shared", ("shared",)),
    Command(
        "evaluate --leave-out",
        f"{_LEAVE_OUT} {_SHORTER} --set data.tile_cells=64 --geometry scattered --rounds 1 --adapt none --out left_out",
        ("left_out",),
    ),
    Command("import-release", "import-release release --out runs/release", ("runs/release",), once=True),
)


class Outcome(NamedTuple):
    """How a process ended."""

    code: int  # exit code; negative for a signal
    log: str  # stdout and stderr
    seconds: float


class Problem(Exception):
    """Something that must not happen."""


def require(condition: bool, message: str) -> None:
    """Raise a `Problem` unless a condition holds."""
    if not condition:
        raise Problem(message)


class Running:
    """A command in a forked process, the first of a process group of its own."""

    def __init__(self, words: str, folder: Path) -> None:
        self._log = folder / f"log-{time.monotonic_ns()}"
        self._started = time.monotonic()
        self.pid = os.fork()
        if not self.pid:
            _run_child(words, folder, self._log)

    def send(self, number: int) -> None:
        """Send a signal to the command, if it still runs."""
        os.kill(self.pid, number)  # a process keeps its number until it is waited for

    def wait(self, limit_s: float = 300.0) -> Outcome:
        """Wait for the end; a `Problem` if it does not come."""
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() - self._started > limit_s:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise Problem(f"no end within {limit_s:.0f} s")
            time.sleep(0.002)
        log = self._log.read_text(errors="replace") if self._log.exists() else ""
        self._log.unlink(missing_ok=True)
        return Outcome(os.waitstatus_to_exitcode(ended[1]), log, time.monotonic() - self._started)

    def require_no_process(self) -> None:
        """Check that no worker of the command is left some seconds after its end."""
        for _ in range(500):
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.02)
        raise Problem("a process is left")


def _run_child(words: str, folder: Path, log: Path) -> None:
    code = 1
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        code = main(words.split())
    except BaseException:  # noqa: BLE001 - what a user would see
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(words: str, folder: Path) -> Outcome:
    """Run a command without disturbing it; a `Problem` if it fails."""
    outcome = Running(words, folder).wait()
    require(outcome.code == 0, f"`cifm {words}` failed with {outcome.code}: {outcome.log[-2000:]}")
    return outcome


# The second sample, in a folder of its own: other commands take all slides of `prepared`.
_SECOND = (
    "prepare download/u --out second/prepared",
    "embed second/prepared/u.h5ad --model runs/base --backend torch --out second/embedded",
)


def make_workspace(folder: Path, names: Set[str]) -> None:
    """Make a workspace with everything that the commands read, and run those of some names once, as a warm-up."""
    torch.set_num_threads(1)
    for number, name in enumerate(("t", "u")):
        write_xenium(folder / "download" / name, 250, seed=number)
    wanted = [command for command in COMMANDS if command.name in names]
    with chdir(folder):
        # In this process, so that the forked ones have all modules imported and all kernels compiled.
        first = ["prepare download/t", f"{TRAIN} --out runs/base", "embed --model runs/base --backend torch"]
        for words in [*first, *(_SECOND if names & {"share", "evaluate --leave-out"} else ())]:
            require(main(words.split()) == 0, words)
        shutil.copyfile("prepared/t.h5ad", "labelled.h5ad")
        genes = open_slide(Path("prepared/t.h5ad"), hold=False).gene_ids
        write_release(Path("release"), genes, stand_in_tensors(len(genes), width=8))
        for command in wanted:
            require(main(command.words.split()) == 0, command.name)
    for command in wanted:
        for name in command.outputs:
            shutil.rmtree(folder / name, ignore_errors=True)


def digests(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Path to a digest of the content, for all visible files; raises an exception for a file that is not whole."""
    found = {}
    for name in names:
        for path in sorted([folder / name] if (folder / name).is_file() else (folder / name).rglob("*")):
            inner = path.relative_to(folder)
            if path.is_file() and not any(part.startswith(".") for part in inner.parts):
                try:
                    found[inner.as_posix()] = digest(path)
                except Exception as error:
                    raise Problem(f"{inner} is not whole: {error!r}") from error
    return found


def digest(path: Path) -> str:
    """Digest of a file without the parts that differ between two runs of the same command."""
    found = hashlib.sha256()
    for part in _parts(path):
        found.update(part)
    return found.hexdigest()


def _parts(path: Path) -> list[bytes]:  # noqa: PLR0911 - one for each kind of file
    content = path.read_bytes()
    if path.suffix == ".h5ad":
        return _hdf5_parts(path)
    if path.suffix == ".json":
        return [json.dumps(_without_variable(json.loads(content)), sort_keys=True).encode()]
    if path.suffix == ".jsonl":
        lines = content.decode().splitlines(keepends=True)
        # A killed process leaves the last line incomplete; `--resume` removes it.
        return [
            json.dumps(_without_variable(json.loads(line)), sort_keys=True).encode()
            for line in lines
            if line.endswith("\n")
        ]
    if path.suffix == ".parquet":
        return [pd.util.hash_pandas_object(pd.read_parquet(path)).to_numpy().tobytes()]
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        return [part for name in sorted(tensors) for part in (name.encode(), tensors[name].tobytes())]
    if path.suffix == ".html":
        require(content.rstrip().endswith(b"</html>"), "the page has no end")
        return []
    if path.suffix == ".png":
        require(content.startswith(b"\x89PNG") and b"IEND" in content[-16:], "the image has no end")
        return []
    return [content]


def _hdf5_parts(path: Path) -> list[bytes]:
    parts: list[bytes] = []

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("uns/cifm/"):
            values = np.asarray(item[()])
            texts = values.dtype.kind == "O"
            parts.extend([name.encode(), repr(values.tolist()).encode() if texts else values.tobytes()])

    with h5py.File(path, "r") as file:
        file.visititems(add)
    return parts


def _without_variable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_variable(part) for key, part in value.items() if key not in _VARIABLE_KEYS}
    return [_without_variable(part) for part in value] if isinstance(value, list) else value


def leftovers(folder: Path) -> list[str]:
    """Files under a temporary name, and locks."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if LEFTOVER.search(path.name)]


def raw_digests(folder: Path) -> dict[str, str]:
    """Digests of all bytes of the inputs; not of the model card, into which `evaluate` writes its result."""
    files = (path for name in INPUTS for path in [folder / name, *(folder / name).rglob("*")] if path.is_file())
    files = (path for path in files if path.name != "README.md")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
