"""Damage small downloads of every format, run `cifm prepare` on them and count the outcomes.

    python benchmarks/fuzz_prepare.py --seed 0 --inputs 3000 --out benchmarks/results/fuzz-prepare.json

Each input has a random format, family of damage (bytes, files, table, matrix, datasets), kind of damage and position. Input i of a
seed is always the same; `--only i` runs this input alone and prints its outcome. The prepared slide is compared with that of the
undamaged download: counts, positions (to a nanometre), barcodes, genes and regions, regardless of the order of the genes. Outcomes:

    refused            an error with a hint, exit code 1
    same               an identical slide; `same, told` with a new note or warning
    different, told    another slide, with a new note or warning or a new reason for removed cells or genes (except void cells)
    other labels       an identical slide except for gene symbols or columns copied from the download
    another download   another slide without any message, after damage that can result in a valid download
    DIFFERENT          another slide without any message, after any other damage
    TRACEBACK          any other exception, including NumPy's warnings
    KILLED             a crash of a compiled library, or more than two minutes
    PARTIAL            an incomplete file is left behind
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anndata as ad
import numpy as np
from fuzz_damage import VALID, damage, kinds_for
from fuzz_inputs import FORMATS, Format, write_format
from record import write_record

from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = ("anndata", "h5py", "numpy", "scipy", "pandas", "pyarrow", "zarr")
BAD = ("DIFFERENT", "TRACEBACK", "PARTIAL", "KILLED")
LONGEST_S = 120.0
TOLERANCE_UM = 1e-3
OURS = ("total_counts", "n_genes_by_counts", "split")


class Prepared(NamedTuple):
    """A prepared slide and its report."""

    slide: ad.AnnData
    report: dict[str, Any]


class FuzzResult(NamedTuple):
    """One damaged input and its outcome."""

    number: int
    format: str
    family: str
    kind: str
    file: str
    outcome: str
    messages: str


def main() -> None:
    """Run all inputs; print and write the number of inputs with each outcome."""
    options = parse()
    if options.first is not None:
        run_inputs(options)
        return
    end = options.inputs
    ranges = [range(end * job // options.jobs, end * (job + 1) // options.jobs) for job in range(options.jobs)]
    if options.only is not None:
        ranges = [range(options.only, options.only + 1)]
    with ThreadPoolExecutor(len(ranges)) as pool:
        results = [
            result
            for part in pool.map(lambda numbers: list(run_in_processes(options, numbers)), ranges)
            for result in part
        ]
    counts = Counter(result.outcome for result in results)
    print(f"{len(results):,} inputs:", ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(counts.items())))
    if options.out:
        write_record(options.out, PACKAGES, summarise(results, options.seed))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=1, help="number of processes; the result does not depend on it")
    parser.add_argument("--only", type=int, help="run only this input")
    parser.add_argument("--folder", type=Path, help="folder for temporary files, a few MB")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_in_processes(options: argparse.Namespace, numbers: range) -> Iterator[FuzzResult]:
    """Run inputs in a separate process, which is replaced by a new one after an input that crashes it or does not end."""
    number = numbers.start
    while number < numbers.stop:
        words = ["--seed", options.seed, "--first", number, "--inputs", numbers.stop]
        words += ["--folder", options.folder] if options.folder else []
        command = [sys.executable, __file__, *map(str, words)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                result = FuzzResult(*json.loads(line))
                number = result.number + 1
                if result.outcome in BAD or options.only is not None:
                    print(*result, sep=" | ", flush=True)
                yield result
            stderr = process.communicate()[1]
        if process.returncode:
            # "Timeout" is written by faulthandler; a negative code is a signal. Anything else is an error of this script.
            if number == numbers.stop or ("Timeout" not in stderr and process.returncode > 0):
                raise RuntimeError(stderr)
            reason = stderr.strip().partition("\n")[0] or f"signal {-process.returncode}"
            result = FuzzResult(number, *draw(options.seed, number)[1:4], "", "KILLED", reason)
            print(*result, sep=" | ", flush=True)
            yield result
            number += 1


def run_inputs(options: argparse.Namespace) -> None:
    """Run inputs in this process; print each result as a line of JSON."""
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        fuzzer = Fuzzer(Path(folder), options.seed)
        for number in range(options.first, options.inputs):
            faulthandler.dump_traceback_later(LONGEST_S, exit=True)
            print(json.dumps(fuzzer.run_input(number)), flush=True)


def draw(seed: int, number: int) -> tuple[np.random.Generator, str, str, str]:
    """Draw the format, family and kind of damage of an input; returns them after the generator, which is used further."""
    rng = np.random.default_rng([seed, number])
    name = str(rng.choice(list(FORMATS)))
    families = kinds_for(FORMATS[name])
    family = str(rng.choice(list(families)))
    return rng, name, family, str(rng.choice(families[family]))


class Fuzzer:
    """Damages copies of downloads and prepares them.

    Undamaged downloads are written and prepared once per format, when they are first needed.

    Args:
        folder: An empty folder.
        seed: Seed of the damage.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.intact: dict[str, Prepared] = {}

    def run_input(self, number: int) -> FuzzResult:
        """Write one damaged input and prepare it."""
        rng, *drawn = draw(self.seed, number)
        return FuzzResult(number, *drawn, *self.prepare_damaged(*drawn, rng))

    def prepare_damaged(self, name: str, family: str, kind: str, rng: np.random.Generator) -> tuple[str, str, str]:
        """Damage a download of a format and prepare it; returns the damaged file, the outcome and the messages."""
        form, copy = FORMATS[name], self.folder / "copy"
        if name not in self.intact:
            with contextlib.redirect_stderr(io.StringIO()):
                write_format(name, self.folder / name)
            self.intact[name] = self.prepare(self.folder / name, form)
        for _ in range(20):  # some damage cannot be written, such as a column of text as numbers
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(self.folder / name, copy)
            file = ""
            with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
                file = damage(copy, form, family, kind, rng)
            if file:
                return file, *self.classify(copy, form, kind, self.intact[name])
        return "", "cannot be written", ""

    def classify(self, copy: Path, form: Format, kind: str, intact: Prepared) -> tuple[str, str]:
        """Prepare a damaged download; returns the outcome and the messages."""
        try:
            damaged = self.prepare(copy, form)
        except CifmError as error:
            left = [path.name for path in (self.folder / "out").rglob("*")]
            return ("PARTIAL", ", ".join(left)) if left else ("refused", error.message)
        except Exception as error:  # noqa: BLE001 - the purpose of the script is to find unexpected exceptions
            frame = traceback.extract_tb(error.__traceback__)[-1]
            return "TRACEBACK", f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
        difference = compare(damaged.slide, intact.slide)
        messages = new_messages(damaged.report, intact.report)
        if difference:
            silent = "another download" if kind in VALID else "DIFFERENT"
            return ("different, told" if messages else silent), "; ".join([difference, *messages])
        if messages:
            return "same, told", "; ".join(messages)
        return ("same" if same_labels(damaged.slide, intact.slide) else "other labels"), ""

    def prepare(self, folder: Path, form: Format) -> Prepared:
        """Prepare a download as the command does, into an empty folder."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        cells = None if form.cells is None else folder / form.cells
        with contextlib.redirect_stderr(io.StringIO()):
            result = prepare_download(folder / form.download, PrepareConfig(out=out, name="slide", cells=cells))
        if [path.name for path in out.iterdir()] != ["slide.h5ad"]:
            raise FileExistsError(", ".join(path.name for path in out.iterdir()))
        return Prepared(ad.read_h5ad(result.path), result.report)


def compare(slide: ad.AnnData, intact: ad.AnnData) -> str:
    """Describe the first difference between two slides; empty if they are identical up to the order of the genes."""
    if slide.obs_names.tolist() != intact.obs_names.tolist():
        return f"other cells ({slide.n_obs} of {intact.n_obs})"
    if sorted(slide.var_names) != sorted(intact.var_names):
        return f"other genes ({slide.n_vars} of {intact.n_vars})"
    slide = slide[:, intact.var_names]
    if (slide.X != intact.X).nnz:
        return f"{(slide.X != intact.X).nnz} other counts"
    if not np.allclose(slide.obsm["spatial"], intact.obsm["spatial"], rtol=0, atol=TOLERANCE_UM):
        return f"other places (by up to {np.abs(slide.obsm['spatial'] - intact.obsm['spatial']).max():.3g} um)"
    ours = all(slide.obs[name].tolist() == intact.obs[name].tolist() for name in OURS)
    return "" if ours and slide.uns["cifm"]["radius_um"] == intact.uns["cifm"]["radius_um"] else "other obs or radius"


def same_labels(slide: ad.AnnData, intact: ad.AnnData) -> bool:
    """Whether gene symbols and the columns copied from the download are identical."""
    drop = ["download_row"]
    if slide.var["symbol"].tolist() != intact.var.loc[slide.var_names, "symbol"].tolist():
        return False
    return bool(slide.obs.drop(columns=drop).astype(str).equals(intact.obs.drop(columns=drop).astype(str)))


def new_messages(report: dict[str, Any], intact: dict[str, Any]) -> list[str]:
    """Notes, warnings and reasons for removed cells or genes that are not in the report of the undamaged download."""
    messages = [note for part in ("notes", "warnings") for note in report[part] if note not in intact[part]]
    for part in ("cells", "genes"):
        before = intact[part]["dropped"]
        messages += [
            f"{reason}: {number}"
            for reason, number in report[part]["dropped"].items()
            if number != before.get(reason) and not reason.startswith("void")
        ]
    if report["genes"]["summed"] != intact["genes"]["summed"]:
        messages.append(f"summed: {report['genes']['summed']['count']}")
    return messages


def summarise(results: list[FuzzResult], seed: int) -> dict[str, Any]:
    """Count outcomes over all inputs and by format and kind of damage, and list the inputs with a bad outcome."""
    return {
        "seed": seed,
        "inputs": len(results),
        "all": dict(sorted(Counter(result.outcome for result in results).items())),
        "by_format": _count_outcomes(results, "format"),
        "by_family": _count_outcomes(results, "family"),
        "by_kind": _count_outcomes(results, "kind"),
        "bad": [result._asdict() for result in results if result.outcome in BAD],
    }


def _count_outcomes(results: list[FuzzResult], field: str) -> dict[str, dict[str, int]]:
    names = sorted({getattr(result, field) for result in results})
    counts = {name: Counter(result.outcome for result in results if getattr(result, field) == name) for name in names}
    return {name: dict(sorted(count.items())) for name, count in counts.items()}


if __name__ == "__main__":
    main()
