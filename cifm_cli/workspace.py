"""The workspace: default folders of the commands (prepared/, runs/latest, ...), and atomic writing of files."""

from __future__ import annotations

import errno
import json
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifm_cli.errors import CifmError, writing
from cifm_cli.storage.lock import holding_lock, lock_path
from cifm_cli.storage.partial_files import (
    COMPLETE,
    ORDER_FILE,
    REPLACED,
    move_set,
    remove,
    remove_leftovers,
    temporary_path,
)
from cifm_cli.system_errors import is_refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PREPARED = Path("prepared")
RUNS = Path("runs")
LATEST = RUNS / "latest"
EMBEDDED = Path("embedded")
EVALUATION = Path("evaluation")
SIMULATION = Path("simulation")
SHARING = Path("sharing")
ANNOTATED = Path("annotated")
ANNOTATORS = Path("annotators")
EXPORTED = Path("exported")

_SET = "set"  # in names of files that belong together
_MAX_LINK_BYTES = 1 << 16  # of the text file that stands for a link


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `target` if the block succeeds.

    The file is fsynced before it is renamed. If the block raises, the temporary file is removed. Incomplete files that
    killed processes have left in the folder are removed first.

    Args:
        target: The file or folder to write; its parent folder is created if it is missing.

    Yields:
        The temporary path, in the same folder and with the suffixes of `target`.

    Raises:
        CifmError: The disk is full, permission is denied, or the system refuses to write for another reason.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        # In the same folder, as renaming is atomic within one file system only.
        temporary = temporary_path(target)
        try:
            with _naming(target, temporary):
                yield temporary
            _make_durable(temporary)
            if temporary.is_dir():
                _replace_folder(temporary, target)
            else:
                temporary.replace(target)
            _sync_folder(target.parent)
        finally:
            remove(temporary)


@contextmanager
def atomic_files(folder: Path, last: str, remove_before: Callable[[str], bool] = lambda _name: False) -> Iterator[Path]:
    """Yield a temporary folder, whose files are moved to `folder` together if the block succeeds.

    Files of two processes are never mixed: the files of a set are moved while a lock is held. A process that is killed
    leaves all old files or all new ones, once the next command has written to the folder.

    Args:
        folder: The folder; created if it is missing. Its other files are left alone.
        last: Name of the file that is moved last. It must be written by the block.
        remove_before: Tells by their names which files of `folder` are removed if the block does not write them anew.

    Yields:
        The temporary folder, in `folder`.

    Raises:
        CifmError: As for `atomic_path`.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        temporary = temporary_path(folder / _SET)
        try:
            temporary.mkdir()
            with _naming(folder, temporary):
                yield temporary
            for path in temporary.iterdir():
                if (folder / path.name).is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / path.name))
            names = sorted({path.name for path in temporary.iterdir()} - {last})
            with holding_lock(lock_path(folder / _SET), folder, "command"):
                old = sorted(path.name for path in folder.iterdir() if path.is_file() and remove_before(path.name))
                order = {"remove": [name for name in old if name not in names], "move": [*names, last]}
                (temporary / ORDER_FILE).write_text(json.dumps(order), encoding="utf8")
                _make_durable(temporary)
                complete = temporary_path(folder / _SET, COMPLETE)
                temporary.replace(complete)  # from here on, the next command would move the files
                try:
                    move_set(complete)
                except BaseException:  # a signal: what has begun is completed before it takes effect
                    move_set(complete)
                    raise
            _sync_folder(folder)
        finally:
            remove(temporary)


@contextmanager
def _naming(target: Path, temporary: Path) -> Iterator[None]:
    """Name the final path and not the temporary one in errors about files inside of a temporary folder."""
    try:
        yield
    except CifmError as error:
        if str(temporary) not in error.message:
            raise
        raise CifmError(error.message.replace(str(temporary), str(target)), error.hint) from error


def _replace_folder(temporary: Path, target: Path) -> None:
    """Rename a folder, also where a folder of that name exists, over which it could not be renamed."""
    with holding_lock(lock_path(target), target, "command"):
        replaced = temporary_path(target, REPLACED)
        if target.is_dir():
            target.replace(replaced)  # `remove_leftovers` would undo it if this process were killed now
        try:
            temporary.replace(target)
        except BaseException:
            if not target.exists() and replaced.exists():
                replaced.replace(target)
            raise
    remove(replaced)


def _make_durable(temporary: Path) -> None:
    """Fsync a file, or a folder with all its files, and give them the usual mode.

    Data first, then the name: after a crash of the machine, the target is the old file or the whole new one.
    """
    for path in (*temporary.rglob("*"), temporary):
        if path.is_dir():
            _sync_folder(path)
        else:
            _give_usual_mode(path)
            _sync(path)


def _give_usual_mode(path: Path) -> None:
    """Set the mode of a file from the user's umask; safetensors creates files that only their owner can read."""
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    try:
        path.chmod(0o666 & ~mask)
    except OSError as error:
        if not is_refused(error):
            raise


def _sync(path: Path) -> None:
    """Fsync a file, or the entries of a folder but not the files in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_refused(error):
            raise
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Fsync the entries of a folder where the system can; many network file systems cannot, and keep them anyway."""
    with suppress(OSError):
        _sync(path)


def write_json(target: Path, content: Any) -> None:  # noqa: ANN401 - JSON is any
    """Write indented JSON, whole or not at all.

    Args:
        target: The file.
        content: Values that `json.dumps` accepts. NaN raises a ValueError, since JSON has no NaN.
    """
    with atomic_path(target) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf8")


def has_slides(folder: Path) -> bool:
    """Whether a folder holds `.h5ad` files itself."""
    return any(folder.glob("[!.]*.h5ad"))


def slide_paths(given: Sequence[Path], default: Path = PREPARED, command: str = "cifm prepare DOWNLOAD") -> list[Path]:
    """Find the slides that the user named, or all slides of the workspace.

    Args:
        given: Files, and folders that stand for their `.h5ad` files; empty for `default`. With the default `EMBEDDED`,
            slides may also be Zarr stores, folders with the suffix `.zarr`.
        default: Folder to use if nothing is given.
        command: Command that creates such files, for the hint.

    Returns:
        Existing files, each once, sorted within each folder.

    Raises:
        CifmError: A path does not exist, or no slide is found.
    """
    paths: dict[Path, None] = {}  # a dictionary keeps the order and drops duplicates
    for path in given or (default,):
        if path.is_dir() and default == EMBEDDED and path.suffix == ".zarr":
            paths[path] = None
        elif path.is_dir():
            # Hidden files are skipped: they may be partial files of another process.
            found = sorted(path.glob("[!.]*.h5ad"))
            if default == EMBEDDED:
                # A slide in both formats is read once.
                found += [store for store in sorted(path.glob("[!.]*.zarr")) if store.with_suffix(".h5ad") not in found]
            paths.update(dict.fromkeys(found))
        elif path.is_file():
            paths[path] = None
        elif given:
            raise CifmError(f"{path}: no such file or folder", f"make it with `{command}`, or correct the path")
    if not paths:
        where = ", ".join(str(path) for path in given) or str(default)
        raise CifmError(f"no slides (.h5ad) in {where}", f"make one with `{command}`")
    return list(paths)


def require_folder_name(folder: Path) -> None:
    """Refuse to make a folder whose name is that of a file of cells, which was probably meant to be one.

    Args:
        folder: The folder of `--out`.

    Raises:
        CifmError: Its name ends with `.h5ad`.
    """
    if folder.suffix == ".h5ad" and not folder.is_dir():
        raise CifmError(
            f"--out {folder}: the files are written into a folder, and this is the name of a file",
            f"name a folder, such as --out {folder.parent / folder.stem}; files in it are named after the slides",
        )


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
    # The run behind `runs/latest`: the link may point to another run before the command is finished.
    run = follow_latest(folder)
    if not (run / "model.safetensors").is_file():
        raise CifmError(f"no model in {folder}", "train one with `cifm train RECIPE`, or give a run with --model")
    return run


def follow_latest(path: Path) -> Path:
    """The run that a link points to, which is a text file where the file system refuses symbolic links.

    Args:
        path: A path such as `runs/latest`.

    Returns:
        The run; `path` itself if it is neither a link nor such a file.
    """
    if path.is_symlink():
        return path.resolve()
    run = _read_link_file(path)
    return (path.parent / run).resolve() if run else path


def link_latest(run: Path, link: Path = LATEST) -> None:
    """Make `runs/latest` a link to a run. An existing folder or other file of that name is left unchanged.

    Args:
        run: Folder of the run.
        link: Path of the link, which becomes a text file with the path where the file system refuses symbolic links.
    """
    if link.exists() and not link.is_symlink() and _read_link_file(link) is None:
        return
    with writing(link):
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(link)
        goal = os.path.relpath(run, link.parent)
        try:
            temporary.symlink_to(goal, target_is_directory=True)
        except OSError as error:
            if not is_refused(error):
                raise
            temporary.write_text(f"{goal}\n", encoding="utf8")
        try:
            temporary.replace(link)  # atomic, unlike removing the old link first
        finally:
            remove(temporary)


def _read_link_file(path: Path) -> str | None:
    """The path in a text file that `link_latest` wrote in place of a link; None for any other file or folder."""
    try:
        if path.name != LATEST.name or not path.is_file() or path.stat().st_size > _MAX_LINK_BYTES:
            return None
        lines = path.read_text(encoding="utf8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return lines[0] if len(lines) == 1 and lines[0] else None
