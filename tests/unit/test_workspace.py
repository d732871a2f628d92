"""Atomic writing of files, and the default folders of the workspace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cifm_cli import workspace
from cifm_cli.errors import CifmError, StopRequested, writing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("before", [False, True])
def test_a_file_appears_only_when_it_is_complete(tmp_path: Path, kind: str, before: bool) -> None:
    target = tmp_path / "deep" / "made.h5ad"

    def write(path: Path, text: str) -> None:
        if kind == "folder":
            path.mkdir()
            (path / text).touch()
        else:
            path.write_text(text)

    for text in ["old", "new"] if before else ["new"]:
        with workspace.atomic_path(target) as temporary:
            assert (temporary.suffix, temporary.parent) == (target.suffix, target.parent)
            write(temporary, text)
    assert names(target.parent) == ["made.h5ad"]
    assert (names(target) == ["new"]) if kind == "folder" else (target.read_text() == "new")


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), StopRequested()])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failed_block_leaves_no_file_and_keeps_the_old_one(tmp_path: Path, error: BaseException, kind: str) -> None:
    target = tmp_path / "x.json"
    target.write_text("old")
    with pytest.raises(type(error)), workspace.atomic_path(target) as temporary:  # noqa: PT012
        if kind == "folder":
            temporary.mkdir()
            (temporary / "part").touch()
        else:
            temporary.write_text("half")
        raise error
    assert names(tmp_path) == ["x.json"]
    assert target.read_text() == "old"


def test_a_file_readable_by_its_owner_only_gets_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with workspace.atomic_path(tmp_path / "x") as temporary:
        temporary.touch(mode=0o600)
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_json_is_strict_and_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "m.json"
    workspace.write_json(target, {"a": [1, None, "µ"]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        workspace.write_json(target, {"a": float("nan")})
    assert json.loads(target.read_text(encoding="utf8")) == {"a": [1, None, "µ"]}


WRITE_TOO_MUCH = """
import resource, sys
from pathlib import Path
import h5py, numpy as np
from cifm_cli.errors import CifmError
from cifm_cli.workspace import atomic_path
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with atomic_path(Path(sys.argv[1])) as temporary:
        if sys.argv[1].endswith(".h5ad"):
            with h5py.File(temporary, "w") as file:
                file["x"] = np.ones(1_000_000)
        else:
            temporary.write_bytes(bytes(1_000_000))
except CifmError as error:
    sys.exit(f"{error.message} | {error.hint}")
"""


@pytest.mark.parametrize("name", ["x.bin", "x.h5ad"])
def test_a_file_that_exceeds_the_limit_is_a_user_error(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    done = subprocess.run(
        [sys.executable, "-c", WRITE_TOO_MUCH, target], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr.splitlines()[-1].startswith(f"cannot write {target}: the file is larger than the system allows")
    assert names(tmp_path) == []


def test_the_error_number_is_read_from_the_message_of_hdf5() -> None:
    message = "Can't write (file write failed: time = Sat, filename = 'x', errno = 28, error message = 'No space left')"
    with pytest.raises(CifmError, match="no space left on the disk"), writing(Path("x.h5ad")):
        raise OSError(message)
    with pytest.raises(OSError, match="other"), writing(Path("x.h5ad")):
        raise OSError("other")


def test_a_file_in_place_of_the_folder_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(CifmError, match="cannot write"):
        workspace.write_json(tmp_path / "taken" / "m.json", {})


def test_a_file_never_replaces_a_folder(tmp_path: Path) -> None:
    other = tmp_path / "probe.json" / "other"
    other.parent.mkdir()
    other.touch()
    with pytest.raises(CifmError, match="a folder is in the way"):
        workspace.write_json(tmp_path / "probe.json", {})
    assert other.exists()
    assert names(tmp_path) == ["probe.json"]


def test_slides_default_to_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CifmError, match="no slides") as caught:
        workspace.slide_paths([])
    assert "cifm prepare" in caught.value.hint
    prepared = Path("prepared")
    prepared.mkdir()
    for name in ("b.h5ad", "a.h5ad", ".x.partial.c.h5ad", "notes.txt"):
        (prepared / name).touch()
    assert workspace.slide_paths([]) == [prepared / "a.h5ad", prepared / "b.h5ad"]
    assert workspace.slide_paths([prepared / "b.h5ad", prepared]) == [prepared / "b.h5ad", prepared / "a.h5ad"]
    with pytest.raises(CifmError, match=r"prepared/z\.h5ad: no such file"):
        workspace.slide_paths([prepared / "z.h5ad"])


def test_a_run_is_given_by_folder_by_file_or_as_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CifmError, match="no model in runs/latest"):
        workspace.run_folder(None)
    for run in (Path("runs/one"), tmp_path / "elsewhere" / "two", Path("runs/three")):
        run.mkdir(parents=True)
        (run / "model.safetensors").touch()
        workspace.link_latest(run)
        assert workspace.run_folder(None).name == run.name
    assert workspace.run_folder(Path("runs/one")) == Path("runs/one")
    assert workspace.run_folder(Path("runs/one/model.safetensors")) == Path("runs/one")


def test_a_folder_called_latest_is_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    (tmp_path / "run").mkdir()
    workspace.link_latest(tmp_path / "run", tmp_path / "latest")
    assert not (tmp_path / "latest").is_symlink()
