"""`cifm push` and `cifm pull` with a stand-in for the hub: a folder. The service itself is not called by any test."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from builders import save_random_run

from cifm_cli.data.slide import open_slide
from cifm_cli.hub import models, service


class LocalHub:
    """Repositories as folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.created: dict[str, bool] = {}  # repository to whether it is private

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.created.setdefault(repo_id, private)
        (self.folder / repo_id).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, *, repo_id: str, folder_path: str, allow_patterns: list[str], commit_message: str) -> None:
        assert commit_message
        for path in Path(folder_path).rglob("*"):
            if any(fnmatch(str(path.relative_to(folder_path)), pattern) for pattern in allow_patterns):
                shutil.copyfile(path, self.folder / repo_id / path.relative_to(folder_path))

    def list_repo_files(self, repo_id: str, *, revision: str | None) -> list[str]:
        if revision not in (None, "main") or not (self.folder / repo_id).is_dir():
            raise OSError("404 Client Error.\n\nRepository Not Found")
        root = self.folder / repo_id
        return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str | None, local_dir: str) -> str:
        target = Path(local_dir, filename)
        shutil.copyfile(self.folder / repo_id / filename, target)
        return str(target)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """The stand-in, in place of the hub."""
    stand_in = LocalHub(tmp_path / "hub")
    monkeypatch.setattr(models, "open_hub", lambda: stand_in)
    return stand_in


@pytest.fixture
def run(workspace: Path, prepared_synthetic: Path) -> Path:
    """A run with random weights, and files that are not shared."""
    tables = {"model": {"width": 8}, "data": {"tile_cells": 100}}
    folder = save_random_run(workspace / "runs" / "one", open_slide(prepared_synthetic), tables)
    (folder / "train_state-00000001.safetensors").write_bytes(b"state")
    (folder / "metrics.jsonl").write_text("{}")
    return Path("runs/one")


def test_a_model_goes_to_the_hub_and_back(cifm: Callable, run: Path, hub: LocalHub) -> None:
    code, out, err = cifm("push", run, "lab/tissue")
    assert (code, out) == (0, ""), err
    assert hub.created == {"lab/tissue": True}
    assert sorted(hub.list_repo_files("lab/tissue", revision=None)) == ["README.md", "model.safetensors"]
    code, out, err = cifm("pull", "lab/tissue", "--json")
    assert code == 0, err
    facts = json.loads(out)
    pulled = Path("runs/tissue")
    assert (facts["run"], facts["left_out"]) == (pulled.as_posix(), [])
    assert (pulled / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert sorted(path.name for path in pulled.iterdir()) == ["README.md", "model.safetensors", "recipe.toml"]
    # Every command takes it.
    assert cifm("inspect", pulled).code == 0
    assert cifm("embed", "--model", pulled, "--adapt", "none").code == 0
    assert cifm("recipes", "check", pulled / "recipe.toml").code == 0


def test_a_public_repository_must_be_asked_for(cifm: Callable, run: Path, hub: LocalHub) -> None:
    assert cifm("push", run, "lab/open", "--public").code == 0
    assert hub.created == {"lab/open": False}


def test_only_files_that_can_be_checked_are_downloaded(cifm: Callable, run: Path, hub: LocalHub) -> None:
    cifm("push", run, "lab/tissue")
    root = hub.folder / "lab" / "tissue"
    for name in ("model.pkl", "setup.py", ".gitattributes", "other.safetensors", "sub/config.json", ".hidden.md"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    (root / "config.json").write_text('{"a": 1}')
    code, out, err = cifm("pull", "lab/tissue", "-o", "p", "--json")
    assert code == 0, err
    assert sorted(path.name for path in Path("p").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "recipe.toml",
    ]
    assert set(json.loads(out)["left_out"]) == {
        "model.pkl", "setup.py", "other.safetensors", "sub/config.json", ".hidden.md",
    }  # fmt: skip
    assert "not downloaded" in err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"no tensors", "lab/tissue: model.safetensors"),
        ("config.json", b"{", "config.json: not JSON"),
        ("config.json", b'{"a": 1e999}', "config.json: not JSON"),
        ("recipe.toml", b"= 1", "recipe.toml: not TOML"),
        ("README.md", b"\xff\xfe", "README.md: not a text in UTF-8"),
    ],
)
def test_damaged_files_leave_no_run(
    cifm: Callable, fail: Callable[..., str], run: Path, hub: LocalHub, name: str, content: bytes, message: str
) -> None:
    cifm("push", run, "lab/tissue")
    (hub.folder / "lab" / "tissue" / name).write_bytes(content)
    assert message in fail("pull", "lab/tissue")
    assert [path.name for path in Path("runs").iterdir()] == ["one"]


def test_a_recipe_beside_the_model_does_not_replace_its_own(cifm: Callable, run: Path, hub: LocalHub) -> None:
    cifm("push", run, "lab/tissue")
    (hub.folder / "lab" / "tissue" / "recipe.toml").write_text('description = "another"')
    assert cifm("pull", "lab/tissue").code == 0
    assert "another" not in Path("runs/tissue/recipe.toml").read_text(encoding="utf8")


@pytest.mark.parametrize("name", ["tissue", "a/b/c", "../x", "/x", "https://x/y", "a/", "ä/b"])
def test_what_is_no_name_of_a_repository(fail: Callable[..., str], run: Path, hub: LocalHub, name: str) -> None:
    assert "OWNER/NAME" in fail("pull", name)
    assert "OWNER/NAME" in fail("push", run, name)


def test_errors_of_the_hub_are_one_line(fail: Callable[..., str], run: Path, hub: LocalHub) -> None:
    assert "lab/none: the hub says: 404 Client Error. Repository Not Found" in fail("pull", "lab/none")
    (hub.folder / "lab" / "empty").mkdir(parents=True)
    assert "no model.safetensors in it" in fail("pull", "lab/empty")


def test_an_existing_folder_is_not_replaced(cifm: Callable, fail: Callable[..., str], run: Path, hub: LocalHub) -> None:
    cifm("push", run, "lab/one")
    assert "already exists" in fail("pull", "lab/one")


def test_a_damaged_model_is_not_uploaded(fail: Callable[..., str], run: Path, hub: LocalHub) -> None:
    (run / "model.safetensors").write_bytes(b"no tensors")
    assert "model.safetensors" in fail("push", run, "lab/tissue")
    assert hub.created == {}


def test_without_the_package_the_extra_is_named(
    fail: Callable[..., str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert ".[hub]" in fail("push", run, "lab/tissue")
    assert ".[hub]" in fail("pull", "lab/tissue")


@pytest.mark.filterwarnings("ignore")
def test_the_real_package_has_these_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names and keywords that are used; nothing is sent."""
    pytest.importorskip("huggingface_hub", reason="needs the hub extra", exc_type=ImportError)
    real: Any = service.open_hub()
    for name in ("create_repo", "upload_folder", "list_repo_files", "hf_hub_download"):
        expected = inspect.signature(getattr(LocalHub, name)).parameters.keys() - {"self"}
        assert expected <= inspect.signature(getattr(real, name)).parameters.keys(), name
