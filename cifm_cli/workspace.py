"""The workspace: default folders of the commands (prepared/, runs/latest, ...), and atomic writing of files."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifm_cli.errors import CifmError, writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PREPARED = Path("prepared")
RUNS = Path("runs")
LATEST = RUNS / "latest"
EMBEDDED = Path("embedded")
EVALUATION = Path("evaluation")
SIMULATION = Path("simulation")
ANNOTATED = Path("annotated")
ANNOTATORS = Path("annotators")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `target` if the block succeeds.

    The file is fsynced before it is renamed. If the block raises, the temporary file is removed.

    Args:
        target: The file or folder to write; its parent folder is created if it is missing.

    Yields:
        The temporary path, in the same folder and with the suffixes of `target`.

    Raises:
        CifmError: The disk is full, or permission is denied.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, as renaming is atomic within one file system only; the dot hides it from `slide_paths`.
        temporary = target.with_name(f".{secrets.token_hex(4)}.partial.{target.name}")
        try:
            yield temporary
            _give_usual_mode(temporary)
            # Data first, then the name: after a crash the target is the old file or the whole new one.
            for inner in (*temporary.rglob("*"), temporary):
                _sync(inner)
            replaced = temporary.with_suffix(".replaced")
            if target.is_dir() and temporary.is_dir():  # a folder cannot be renamed over another
                target.replace(replaced)
            temporary.replace(target)
            _sync(target.parent)  # makes the renaming durable
            shutil.rmtree(replaced, ignore_errors=True)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def _give_usual_mode(path: Path) -> None:
    """Set the mode of a file from the user's umask; safetensors creates files that only their owner can read."""
    if path.is_file():
        mask = os.umask(0)  # the only way to read it is to set it
        os.umask(mask)
        path.chmod(0o666 & ~mask)


def _sync(path: Path) -> None:
    """Fsync a file, or the entries of a folder but not the files in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(target: Path, content: Any) -> None:  # noqa: ANN401 - JSON is any
    """Write indented JSON, whole or not at all.

    Args:
        target: The file.
        content: Values that `json.dumps` accepts. NaN raises a ValueError, since JSON has no NaN.
    """
    with atomic_path(target) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf8")


def slide_paths(given: Sequence[Path], default: Path = PREPARED, command: str = "cifm prepare DOWNLOAD") -> list[Path]:
    """Find the slides that the user named, or all slides of the workspace.

    Args:
        given: Files, and folders that stand for their `.h5ad` files; empty for `default`.
        default: Folder to use if nothing is given.
        command: Command that creates such files, for the hint.

    Returns:
        Existing files, each once, sorted within each folder.

    Raises:
        CifmError: A path does not exist, or no slide is found.
    """
    paths: dict[Path, None] = {}  # a dictionary keeps the order and drops duplicates
    for path in given or (default,):
        if path.is_dir():
            # Hidden files are skipped: they may be partial files of another process.
            paths.update(dict.fromkeys(sorted(path.glob("[!.]*.h5ad"))))
        elif path.is_file():
            paths[path] = None
        elif given:
            raise CifmError(f"{path}: no such file or folder", f"make it with `{command}`, or correct the path")
    if not paths:
        where = ", ".join(str(path) for path in given) or str(default)
        raise CifmError(f"no slides (.h5ad) in {where}", f"make one with `{command}`")
    return list(paths)


def run_folder(given: Path | None) -> Path:
    """Find the folder of a training run.

    Args:
        given: A run folder or its `model.safetensors`; None for `runs/latest`.

    Returns:
        The folder that contains `model.safetensors`.

    Raises:
        CifmError: The folder contains no model.
    """
    folder = given or LATEST
    if folder.name == "model.safetensors":
        folder = folder.parent
    if not (folder / "model.safetensors").is_file():
        raise CifmError(f"no model in {folder}", "train one with `cifm train RECIPE`, or give a run with --model")
    # The run behind `runs/latest`: the link may point to another run before the command is finished.
    return folder.resolve() if folder.is_symlink() else folder


def link_latest(run: Path, link: Path = LATEST) -> None:
    """Make `runs/latest` a link to a run. An existing folder of that name is left unchanged.

    Args:
        run: Folder of the run.
        link: Path of the link.
    """
    if link.exists() and not link.is_symlink():
        return
    with writing(link):
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary = link.with_name(f".{secrets.token_hex(4)}.latest")
        temporary.symlink_to(os.path.relpath(run, link.parent), target_is_directory=True)
        temporary.replace(link)  # atomic, unlike removing the old link first
