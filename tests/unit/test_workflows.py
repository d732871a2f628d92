"""The workflows in `workflows/` use commands and options that exist, and the configuration that stands beside them."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from cifm_cli.app import app
from cifm_cli.recipe import shipped

ROOT = Path(__file__).resolve().parents[2]
SNAKEMAKE = ROOT / "workflows" / "snakemake"
NEXTFLOW = ROOT / "workflows" / "nextflow" / "main.nf"


def commands(path: Path) -> dict[str, list[str]]:
    """Subcommand to its words; what the workflow fills in becomes `X`."""
    lines = re.findall(r"^\s+cifm (.*)$", path.read_text(encoding="utf8"), re.MULTILINE)
    filled = [re.sub(r"\$?\{[^}]*\}|\$\w+", "X", line.partition(" > ")[0]) for line in lines]
    return {words[0]: words[1:] for words in map(shlex.split, filled)}


@pytest.mark.parametrize("path", [SNAKEMAKE / "Snakefile", NEXTFLOW], ids=["snakemake", "nextflow"])
def test_commands_and_options_exist(path: Path) -> None:
    used = commands(path)
    assert list(used) == ["prepare", "train", "evaluate", "embed"]
    group = get_command(app)
    for name, words in used.items():
        known = {option for parameter in group.commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, name


def test_the_configuration_has_the_keys_that_the_snakefile_reads() -> None:
    config = yaml.safe_load((SNAKEMAKE / "config.yaml").read_text(encoding="utf8"))
    snakefile = (SNAKEMAKE / "Snakefile").read_text(encoding="utf8")
    assert set(re.findall(r'config\["(\w+)"\]', snakefile)) == set(config)
    assert config["recipe"] in shipped()


def test_the_sample_sheet_has_the_columns_that_the_workflows_read() -> None:
    with (SNAKEMAKE / "samples.csv").open(encoding="utf8", newline="") as sheet:
        columns = csv.DictReader(sheet).fieldnames
    read = set(re.findall(r'\]\["(\w+)"\]', (SNAKEMAKE / "Snakefile").read_text(encoding="utf8")))
    read |= {"name", "condition"} | set(re.findall(r"row\.(\w+)", NEXTFLOW.read_text(encoding="utf8")))
    assert set(columns or ()) == read == {"name", "download", "condition"}
