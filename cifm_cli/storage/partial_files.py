"""Files that are not complete: their names, and the removal of those that a killed process has left.

A name `.OWNER-TOKEN.partial.NAME` contains the process that writes the file. `.OWNER-TOKEN.replaced.NAME` is a folder
that makes room for a new one. `.OWNER-TOKEN.complete.set` is a folder of files that belong together, which are about to
be moved beside it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from cifm_cli.errors import PARTIAL
from cifm_cli.storage.lock import SUFFIX, remove_abandoned_lock
from cifm_cli.storage.owner import PATTERN, Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

REPLACED: Final = ".replaced."
COMPLETE: Final = ".complete."
ORDER_FILE: Final = ".order.json"
"""In a set of files: names to remove before the files are moved, and names of the files in the order of moving."""

_NAME: Final = re.compile(rf"\.({PATTERN})-[0-9a-f]{{4}}(\.partial\.|\.replaced\.|\.complete\.)(.*)", re.DOTALL)
# Earlier versions did not name the owner.
_EARLIER: Final = re.compile(r"\.[0-9a-f]{8}(\.partial\.)(.*)", re.DOTALL)
_MAX_ORDER_BYTES: Final = 1 << 20
_MAX_AGE_S: Final = 24 * 3600.0  # since the last change of a file whose process is on another machine


class Leftover(NamedTuple):
    """A file or folder under a temporary name."""

    path: Path
    owner: Owner | None  # the process that made it; None if unknown
    kind: str  # `PARTIAL`, `REPLACED` or `COMPLETE`
    name: str  # name under which it would have been complete, perhaps shortened


class Order(NamedTuple):
    """What is done with a set of files: names in the folder to which the files are moved."""

    remove: tuple[str, ...]
    move: tuple[str, ...]


def temporary_path(target: Path, kind: str = PARTIAL) -> Path:
    """A new name in the folder of a file, which ends like that of the file.

    Args:
        target: The file or folder.
        kind: `PARTIAL`, `REPLACED` or `COMPLETE`.

    Returns:
        The path; the dot at its start hides it from `slide_paths`.
    """
    start = f".{Owner.current().encode()}-{secrets.token_hex(2)}{kind}"
    room = _max_name_bytes(target.parent) - len(start)
    name = target.name
    while len(os.fsencode(name)) > room:  # the end is kept, as the suffix tells libraries what to write
        name = name[1:]
    return target.with_name(start + name)


def find_leftovers(folder: Path) -> Iterator[Leftover]:
    """Files of a folder under a temporary name, of processes that run and of others."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if match := _NAME.fullmatch(entry.name):
                yield Leftover(folder / entry.name, Owner.decode(match[1]), match[2], match[3])
            elif match := _EARLIER.fullmatch(entry.name):
                yield Leftover(folder / entry.name, None, match[1], match[2])


def remove_leftovers(folder: Path, owned: Callable[[str], bool] = lambda _name: False) -> None:
    """Remove the incomplete files of processes that were killed, and complete what they had begun to move.

    Files of processes that run are left alone, and those of other machines unless they have not changed for a day.

    Args:
        folder: Folder of the files; it need not exist.
        owned: Decides by the name of a file whether this process alone may write it.
    """
    for lock in folder.glob(f".*{SUFFIX}"):
        remove_abandoned_lock(lock)
    removed = []
    for leftover in list(find_leftovers(folder)):
        if leftover.owner == Owner.current() or not (owned(leftover.name) or _is_abandoned(leftover)):
            continue
        target = folder / leftover.name
        if leftover.kind == COMPLETE and _read_order(leftover.path):
            move_set(leftover.path)
            logger.info(f"{folder}: completed what a process had written that was killed")
        elif leftover.kind == REPLACED and not target.exists():
            leftover.path.replace(target)
            logger.info(f"{target}: restored, as the process that was killed had not replaced it")
        elif remove(leftover.path):
            removed.append(leftover.name)
    if removed:
        logger.info(f"{folder}: removed the incomplete {', '.join(sorted(set(removed)))} of a process that was killed")


def move_set(folder: Path) -> None:
    """Move the files of a complete set beside its folder, in the order of `ORDER_FILE`, and remove the folder.

    May be repeated after it was interrupted.
    """
    order = _read_order(folder) or Order((), ())
    for name in order.remove:
        (folder.parent / name).unlink(missing_ok=True)
    for name in order.move:
        with suppress(FileNotFoundError):  # moved already
            (folder / name).replace(folder.parent / name)
    shutil.rmtree(folder, ignore_errors=True)


def _read_order(folder: Path) -> Order | None:
    """What is to be moved out of a set; None if it is not one, or would touch files anywhere else."""
    file = folder / ORDER_FILE
    # A folder that was copied from elsewhere may contain anything, such as links and paths to other folders.
    if folder.is_symlink() or file.is_symlink() or not file.is_file() or file.stat().st_size > _MAX_ORDER_BYTES:
        return None
    try:
        order = json.loads(file.read_text(encoding="utf8"))
        lists = [order[key] for key in ("remove", "move")]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if not all(isinstance(names, list) and all(map(_is_plain, names)) for names in lists):
        return None
    return Order(*map(tuple, lists))


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not re.search(r"[/\\\0]", name)


def remove(path: Path) -> bool:
    """Remove a file or a folder; whether it is gone by this call."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:  # of another user, or removed by another process
        return False
    return True


def _is_abandoned(leftover: Leftover) -> bool:
    """Whether the process of a file has ended, or, where that is unknown, whether the file has not changed for a day."""
    if leftover.owner and leftover.owner.is_here():
        return leftover.owner.has_ended()
    try:
        return time.time() - leftover.path.lstat().st_mtime > _MAX_AGE_S
    except OSError:
        return False


def _max_name_bytes(folder: Path) -> int:
    """Longest name that the file system allows."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):  # the folder does not exist yet; Windows has no `pathconf`
        return 255
