"""Damage small downloads of every format, prepare them, and count what `cifm prepare` made of it.

    python benchmarks/fuzz_prepare.py --seed 0 --inputs 3000 --out benchmarks/results/fuzz-prepare.json

Input i of a seed is always the same; `--only i` makes it alone and shows what came out. A format, a family of damage
(bytes, files, table, matrix, datasets), a kind and a place are drawn for each. The slide is compared with that of the intact
download: counts, places (to a nanometre), barcodes, genes and regions, whatever the order of the genes. Outcomes:

    refused            an error with a hint, exit 1
    same               the very slide; `same, told` where a note or a warning is new
    different, told    another slide, and a note, a warning or a reason to drop cells or genes that is new (void cells aside)
    other labels       the very slide but for symbols, or columns of the download that are carried along
    another download   another slide and not a word, after damage that leaves a download as it could have been written
    DIFFERENT          another slide and not a word, after any other damage
    TRACEBACK          any other exception, NumPy's warnings included
    KILLED             a crash of a library below Python, or no end within two minutes
    PARTIAL            a file left behind that is no whole slide
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
    """A slide and its report."""

    slide: ad.AnnData
    report: dict[str, Any]


class Tried(NamedTuple):
    """One damaged input and what came out."""

    number: int
    format: str
    family: str
    kind: str
    file: str
    outcome: str
    said: str


def main() -> None:
    """Try the inputs, print the tally and write it."""
    options = parse()
    if options.first is not None:
        work(options)
        return
    end = options.inputs
    shares = [range(end * job // options.jobs, end * (job + 1) // options.jobs) for job in range(options.jobs)]
    if options.only is not None:
        shares = [range(options.only, options.only + 1)]
    with ThreadPoolExecutor(len(shares)) as pool:
        tried = [one for share in pool.map(lambda share: list(try_all(options, share)), shares) for one in share]
    tally = Counter(one.outcome for one in tried)
    print(f"{len(tried):,} inputs:", ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(tally.items())))
    if options.out:
        write_record(options.out, PACKAGES, summarise(tried, options.seed))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=1, help="processes; the result does not depend on it")
    parser.add_argument("--only", type=int, help="try this input alone")
    parser.add_argument("--folder", type=Path, help="for the downloads, a few MB")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def try_all(options: argparse.Namespace, numbers: range) -> Iterator[Tried]:
    """Try the inputs in a process of their own, and in a new one after each that kills it or never ends."""
    number = numbers.start
    while number < numbers.stop:
        words = ["--seed", options.seed, "--first", number, "--inputs", numbers.stop]
        words += ["--folder", options.folder] if options.folder else []
        command = [sys.executable, __file__, *map(str, words)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                tried = Tried(*json.loads(line))
                number = tried.number + 1
                if tried.outcome in BAD or options.only is not None:
                    print(*tried, sep=" | ", flush=True)
                yield tried
            said = process.communicate()[1]
        if process.returncode:
            if number == numbers.stop or ("Timeout" not in said and process.returncode > 0):
                raise RuntimeError(said)
            tried = Tried(
                number,
                *draw(options.seed, number)[1:4],
                "",
                "KILLED",
                said.strip().partition("\n")[0] or f"signal {-process.returncode}",
            )
            print(*tried, sep=" | ", flush=True)
            yield tried
            number += 1


def work(options: argparse.Namespace) -> None:
    """Try inputs one after the other, each on a line of JSON."""
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        lab = Lab(Path(folder), options.seed)
        for number in range(options.first, options.inputs):
            faulthandler.dump_traceback_later(LONGEST_S, exit=True)
            print(json.dumps(lab.try_input(number)), flush=True)


def draw(seed: int, number: int) -> tuple[np.random.Generator, str, str, str]:
    """The generator of an input, its format, family and kind of damage."""
    rng = np.random.default_rng([seed, number])
    name = str(rng.choice(list(FORMATS)))
    families = kinds_for(FORMATS[name])
    family = str(rng.choice(list(families)))
    return rng, name, family, str(rng.choice(families[family]))


class Lab:
    """Intact downloads, their slides, and a bench to damage copies on.

    Args:
        folder: An empty folder.
        seed: Of the damage.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.intact: dict[str, Prepared] = {}

    def try_input(self, number: int) -> Tried:
        """Make one damaged input and prepare it."""
        rng, *drawn = draw(self.seed, number)
        return Tried(number, *drawn, *self.try_damage(*drawn, rng))

    def try_damage(self, name: str, family: str, kind: str, rng: np.random.Generator) -> tuple[str, str, str]:
        """Damage a download of a format and prepare it; returns the file that was damaged, the outcome and what was said."""
        form, bench = FORMATS[name], self.folder / "bench"
        if name not in self.intact:
            with contextlib.redirect_stderr(io.StringIO()):
                write_format(name, self.folder / name)
            self.intact[name] = self.prepare(self.folder / name, form)
        for _ in range(20):  # some damage cannot be written, such as a column of text as numbers
            shutil.rmtree(bench, ignore_errors=True)
            shutil.copytree(self.folder / name, bench)
            file = ""
            with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
                file = damage(bench, form, family, kind, rng)
            if file:
                return file, *self.judge(bench, form, kind, self.intact[name])
        return "", "cannot be written", ""

    def judge(self, bench: Path, form: Format, kind: str, intact: Prepared) -> tuple[str, str]:
        """What `prepare` makes of an input, and what it said."""
        try:
            found = self.prepare(bench, form)
        except CifmError as error:
            left = [path.name for path in (self.folder / "out").rglob("*")]
            return ("PARTIAL", ", ".join(left)) if left else ("refused", error.message)
        except Exception as error:  # noqa: BLE001 - whatever it is, the fuzz is there to find it
            place = traceback.extract_tb(error.__traceback__)[-1]
            return "TRACEBACK", f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        difference = compare(found.slide, intact.slide)
        news = told(found.report, intact.report)
        if difference:
            silent = "another download" if kind in VALID else "DIFFERENT"
            return ("different, told" if news else silent), "; ".join([difference, *news])
        if news:
            return "same, told", "; ".join(news)
        return ("same" if same_labels(found.slide, intact.slide) else "other labels"), ""

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
    """What differs between two slides; empty where they are the same but for the order of the genes."""
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
    """Whether symbols, and columns that are carried along, agree too."""
    drop = ["download_row"]
    if slide.var["symbol"].tolist() != intact.var.loc[slide.var_names, "symbol"].tolist():
        return False
    return bool(slide.obs.drop(columns=drop).astype(str).equals(intact.obs.drop(columns=drop).astype(str)))


def told(report: dict[str, Any], intact: dict[str, Any]) -> list[str]:
    """Notes, warnings and reasons to drop cells or genes that the intact download does not get."""
    said = [note for part in ("notes", "warnings") for note in report[part] if note not in intact[part]]
    for part in ("cells", "genes"):
        before = intact[part]["dropped"]
        said += [
            f"{reason}: {number}"
            for reason, number in report[part]["dropped"].items()
            if number != before.get(reason) and not reason.startswith("void")
        ]
    if report["genes"]["summed"] != intact["genes"]["summed"]:
        said.append(f"summed: {report['genes']['summed']['count']}")
    return said


def summarise(tried: list[Tried], seed: int) -> dict[str, Any]:
    """Tallies of outcomes over all, by format and by kind of damage, and every input that should not have passed."""
    return {
        "seed": seed,
        "inputs": len(tried),
        "all": dict(sorted(Counter(one.outcome for one in tried).items())),
        "by_format": _tally(tried, "format"),
        "by_family": _tally(tried, "family"),
        "by_kind": _tally(tried, "kind"),
        "bad": [one._asdict() for one in tried if one.outcome in BAD],
    }


def _tally(tried: list[Tried], field: str) -> dict[str, dict[str, int]]:
    names = sorted({getattr(one, field) for one in tried})
    counts = {name: Counter(one.outcome for one in tried if getattr(one, field) == name) for name in names}
    return {name: dict(sorted(count.items())) for name, count in counts.items()}


if __name__ == "__main__":
    main()
