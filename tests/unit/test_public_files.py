"""Files for the repository's host, citation and distributions: they parse, agree with the project, and name what exists."""

from __future__ import annotations

import importlib.util
import io
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from cifm_cli.version import __version__

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
pytestmark = pytest.mark.skipif(not GITHUB.is_dir(), reason="an sdist has no settings of the repository's host")
YAML_FILES = [*sorted(GITHUB.rglob("*.yml")), ROOT / "CITATION.cff", ROOT / ".pre-commit-config.yaml"]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf8"))


def sessions() -> set[str]:
    """Names of the sessions of the noxfile."""
    text = (ROOT / "noxfile.py").read_text(encoding="utf8")
    return set(re.findall(r"^@nox\.session.*\n(?:@.*\n)*def (\w+)\(", text, re.MULTILINE))


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.fixture(scope="module")
def distributions() -> ModuleType:
    """The module `tools/check_distributions.py`."""
    path = ROOT / "tools" / "check_distributions.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_yaml_files_parse(path: Path) -> None:
    assert isinstance(load(path), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_a_commit_of_a_version(path: Path) -> None:
    used = re.findall(r"uses: (.*)$", path.read_text(encoding="utf8"), re.MULTILINE)
    assert used
    assert [line for line in used if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_sessions_that_workflows_run_exist(path: Path) -> None:
    runs = [step["run"] for step in steps(load(path)) if "run" in step]
    named = {
        name for run in runs for line in re.findall(r"nox --session (.*)$", run, re.MULTILINE) for name in line.split()
    }
    assert named
    assert named <= sessions()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_scripts_that_workflows_run_exist(path: Path) -> None:
    runs = "\n".join(step["run"] for step in steps(load(path)) if "run" in step)
    named = [*re.findall(r"tools/\w+\.py", runs), *re.findall(r"^\.ci/\w+", runs, re.MULTILINE)]
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_read_the_repository_only(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    given = [job["permissions"] for job in workflow["jobs"].values() if "permissions" in job]
    # Trusted publishing needs a token that names the workflow; nothing else is written.
    assert all({key for key, value in each.items() if value == "write"} <= {"id-token"} for each in given)
    assert "secrets." not in path.read_text(encoding="utf8")
    # Text of others, such as the title of a change or the name of a tag, must not become part of a command.
    assert not any("${{ github" in step.get("run", "") for step in steps(workflow))


def test_tests_run_on_all_systems_and_supported_versions_of_python() -> None:
    matrix = load(GITHUB / "workflows" / "checks.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    assert f">={matrix['python'][0]}" == project["requires-python"]


def test_the_citation_agrees_with_the_project() -> None:
    citation = load(ROOT / "CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    assert citation["version"] == __version__
    assert set(citation["keywords"]) <= set(project["keywords"])
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["You", "Wang", "Fleisher", "Liu", "Thomson"]
    assert paper["year"] == 2025


def wheel_of(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name in names:
            wheel.writestr(name, "")
    return path


def sdist_of(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:gz") as sdist:
        for name in names:
            sdist.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


def test_complete_distributions_have_no_problem(
    distributions: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Entries that begin with a dot or a slash are ends of paths.
    in_wheel = [name if name[0] != "." else f"cifm-1{name}" for name in distributions.IN_WHEEL]
    wheel_of(tmp_path / "cifm-1.whl", in_wheel)
    assert distributions.main(tmp_path) == 1
    assert "needs one wheel and one sdist" in capsys.readouterr().out
    sdist_of(tmp_path / "cifm-1.tar.gz", [f"cifm-1{name}" for name in distributions.IN_SDIST])
    assert distributions.main(tmp_path) == 0
    assert capsys.readouterr().out == ""


def test_what_is_missing_or_unwanted_in_distributions_is_named(distributions: ModuleType, tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path / "cifm-1.whl", ["cifm_cli/app.py", "recipes/x.toml", "cifm_cli/a.h5ad"])
    problems = distributions.problems_of(wheel)
    assert "cifm-1.whl: no cifm_cli/py.typed" in problems
    assert "cifm-1.whl: installs recipes" in problems
    assert "cifm-1.whl: contains cifm_cli/a.h5ad" in problems
    sdist = sdist_of(tmp_path / "cifm-1.tar.gz", ["cifm-1/.github/x.yml", "cifm-1/runs/a/b", "cifm-1/cifm_cli/runs.py"])
    problems = distributions.problems_of(sdist)
    assert [each for each in problems if "contains" in each] == [
        "cifm-1.tar.gz: contains cifm-1/.github/x.yml",
        "cifm-1.tar.gz: contains cifm-1/runs/a/b",
    ]
