"""The workspace: where the commands meet (prepared/, runs/latest, ...) and how a file becomes whole or stays absent."""

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
    """Yield a temporary path beside `target` that becomes `target` when the block ends well.

    The file is fsynced before it is renamed; when the block raises, nothing is left behind.

    Args:
        target: The file or folder to write; its parent is made if missing.

    Yields:
        The temporary path, with the suffixes of `target`.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{secrets.token_hex(4)}.partial.{target.name}")
        try:
            yield temporary
            _give_usual_mode(temporary)
            for inner in (*temporary.rglob("*"), temporary):
                _sync(inner)
            replaced = temporary.with_suffix(".replaced")
            if target.is_dir() and temporary.is_dir():  # a folder cannot be renamed over another
                target.replace(replaced)
            temporary.replace(target)
            _sync(target.parent)
            shutil.rmtree(replaced, ignore_errors=True)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def _give_usual_mode(path: Path) -> None:
    """Let a file be read by whom the user's umask lets; safetensors makes files that only their owner may read."""
    if path.is_file():
        mask = os.umask(0)
        os.umask(mask)
        path.chmod(0o666 & ~mask)


def _sync(path: Path) -> None:
    """Fsync a file, or the list of names that a folder is: what others write into it is theirs."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(target: Path, content: Any) -> None:  # noqa: ANN401 - JSON is any
    """Write `content` as indented JSON, whole or not at all.

    Args:
        target: The file.
        content: What `json.dumps` takes; a NaN is refused, since JSON has none.
    """
    with atomic_path(target) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf8")


def slide_paths(given: Sequence[Path], default: Path = PREPARED, command: str = "cifm prepare DOWNLOAD") -> list[Path]:
    """Resolve slides the user named, or all slides of the workspace.

    Args:
        given: Files, or folders whose `.h5ad` files are meant; empty for `default`.
        default: The folder meant when nothing is given.
        command: The command that would make such files, for the hint.

    Returns:
        Existing files, sorted within each folder, without repetition.

    Raises:
        CifmError: A path does not exist, or no slide is found.
    """
    found: dict[Path, None] = {}
    for path in given or (default,):
        if path.is_dir():
            found.update(dict.fromkeys(sorted(path.glob("[!.]*.h5ad"))))
        elif path.is_file():
            found[path] = None
        elif given:
            raise CifmError(f"{path}: no such file or folder", f"make it with `{command}`, or correct the path")
    if not found:
        where = ", ".join(str(path) for path in given) or str(default)
        raise CifmError(f"no slides (.h5ad) in {where}", f"make one with `{command}`")
    return list(found)


def run_folder(given: Path | None) -> Path:
    """Resolve a training run.

    Args:
        given: A run folder or its `model.safetensors`; None for `runs/latest`.

    Returns:
        The folder that holds `model.safetensors`.

    Raises:
        CifmError: There is no model there.
    """
    folder = given or LATEST
    if folder.name == "model.safetensors":
        folder = folder.parent
    if not (folder / "model.safetensors").is_file():
        raise CifmError(f"no model in {folder}", "train one with `cifm train RECIPE`, or name a run with --model")
    return folder.resolve() if folder.is_symlink() else folder


def link_latest(run: Path, link: Path = LATEST) -> None:
    """Make `runs/latest` of the workspace point at a run, wherever that is.

    Args:
        run: A run folder.
        link: The link.
    """
    if link.exists() and not link.is_symlink():
        return  # somebody's own folder of that name is theirs
    with writing(link):
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary = link.with_name(f".{secrets.token_hex(4)}.latest")
        temporary.symlink_to(os.path.relpath(run, link.parent), target_is_directory=True)
        temporary.replace(link)
