"""Check what a wheel and an sdist contain: `python tools/check_distributions.py FOLDER`.

Prints nothing if all is well; otherwise one line for each problem, and the exit code is 1.
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

# What must be there, as ends of paths.
IN_WHEEL = (
    "cifm_cli/py.typed",
    "cifm_backends/py.typed",
    "cifm_cli/recipes/xenium.toml",
    "cifm_cli/report/report.html.jinja",
    "cifm_cli/model_card/model_card.md.jinja",
    "cifm_cli/celltype/markers.tsv",
    "cifm_cli/data/prepare/gene_symbols.tsv.xz",
    ".dist-info/licenses/LICENSE",
    ".dist-info/licenses/cifm_cli/celltype/PROFILES.txt",
    ".dist-info/entry_points.txt",
)
IN_SDIST = (
    "/pyproject.toml",
    "/README.md",
    "/LICENSE",
    "/CHANGELOG.md",
    "/noxfile.py",
    "/constraints/cpu.txt",
    "/recipes/xenium.toml",
    "/tests/conftest.py",
    "/tests/golden/cli_options.json",
    "/docs/files.md",
    "/workflows/snakemake/Snakefile",
)
# Settings of the repository's host, results of runs, and anything that could be data or a secret.
UNWANTED = re.compile(
    r"(^|/)(\.github|\.git|\.venv|\.nox|__pycache__|prepared|runs|embedded|shared)/|\.(h5|h5ad|mtx|safetensors|pem|key|env)$"
)
MAX_BYTES = 20_000_000  # of a distribution; the tables of genes and profiles take most of it


def names_of(path: Path) -> list[str]:
    """Paths of the files in a wheel or an sdist."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return wheel.namelist()
    with tarfile.open(path) as sdist:
        return [member.name for member in sdist.getmembers() if member.isfile()]


def problems_of(path: Path) -> list[str]:
    """What is wrong with a wheel or an sdist."""
    names = names_of(path)
    wanted = IN_WHEEL if path.suffix == ".whl" else IN_SDIST
    problems = [f"{path.name}: no {end}" for end in wanted if not any(name.endswith(end) for name in names)]
    problems += [f"{path.name}: contains {name}" for name in names if UNWANTED.search(name)]
    if path.suffix == ".whl":
        tops = {name.partition("/")[0] for name in names}
        others = {top for top in tops if top not in ("cifm_cli", "cifm_backends") and not top.endswith(".dist-info")}
        problems += [f"{path.name}: installs {top}" for top in sorted(others)]
    if path.stat().st_size > MAX_BYTES:
        problems.append(f"{path.name}: {path.stat().st_size:,} bytes")
    return problems


def main(folder: Path) -> int:
    """Check the wheel and the sdist of a folder; returns the exit code."""
    found = sorted([*folder.glob("*.whl"), *folder.glob("*.tar.gz")])
    problems = [problem for path in found for problem in problems_of(path)]
    if [path.suffix for path in found] != [".gz", ".whl"] and [path.suffix for path in found] != [".whl", ".gz"]:
        problems.append(f"{folder}: needs one wheel and one sdist, has {[path.name for path in found]}")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
