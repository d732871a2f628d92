"""Locks on files. A lock ends with the process that holds it, however that process ends.

The system's own locks are used (`flock`, on Windows `LockFile`). On a file system without locks, a file that only one
process can create takes their place; that of a process which has ended is replaced.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import socket
import stat
import sys
import time
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from cifm_cli.errors import CifmError, deferring_signals, writing
from cifm_cli.storage.owner import Owner
from cifm_cli.system_errors import REFUSED_LOCK

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

SUFFIX: Final = ".cifm-lock"
_REFUSED: Final = REFUSED_LOCK | {errno.EINVAL, errno.EBADF}
_MAX_NAME_BYTES: Final = 120  # file systems allow 255, some only 143
_MAX_HOLDER_BYTES: Final = 4096
_POLL_S: Final = 0.1
# A lock may be held for a moment by a process that removes it, or for some seconds by workers of a killed process.
_MAX_ATTEMPTS: Final = 50
_FAR: Final = 1 << 30  # the byte that is locked on Windows, where others cannot read a locked byte


def lock_path(target: Path) -> Path:
    """The lock of a file or folder that is replaced as a whole: a hidden file beside it."""
    name = target.name
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return target.with_name(f".{name}{SUFFIX}")


@contextmanager
def holding_lock(lock: Path, subject: Path, activity: str, *, hint: str = "") -> Iterator[None]:
    """Hold a lock within the block. The file of the lock is removed at the end, and folders that were made for it.

    Args:
        lock: The file of the lock.
        subject: What the lock protects, for messages.
        activity: What the holder does, such as `training`, for messages.
        hint: What the user can do if another process holds the lock. Empty to wait for that process.

    Raises:
        CifmError: Another process holds the lock and there is a hint, or the file cannot be written.
    """
    made = [folder for folder in (lock.parent, *lock.parent.parents) if not folder.exists()]
    with writing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _acquired(lock, subject, activity, hint):
            yield
    finally:
        for folder in made:
            # Only folders that are empty: after an early error nothing is left behind.
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _acquired(lock: Path, subject: Path, activity: str, hint: str) -> Iterator[None]:
    descriptor, attempts = None, 0
    try:
        while descriptor is None:
            with deferring_signals():  # between the locking and the assignment, a signal would leave the file behind
                descriptor = _try_lock(lock)
            if descriptor is None:
                attempts += 1
                _wait_for_holder(lock, f"{subject}: another {activity} writes to it", hint, attempts)
        yield
    finally:
        if descriptor is not None:
            with deferring_signals():
                _release(lock, descriptor)


def _wait_for_holder(lock: Path, problem: str, hint: str, attempts: int) -> None:
    """Wait for a moment; after some attempts, raise an error or log that the command waits; see `holding_lock`."""
    if attempts == _MAX_ATTEMPTS:
        text = f"{problem}{_describe(_read_holder(lock))}"
        if (claim := _claim_path(lock)).exists():
            # Without locks, it is unknown whether a process of another machine has ended.
            raise CifmError(text, f"{hint or 'wait for it to end'}; if that process has ended, delete {claim}")
        if hint:
            raise CifmError(text, hint)
        logger.info(f"{text}; waiting for it to end")
    time.sleep(_POLL_S)


def _release(lock: Path, descriptor: int) -> None:
    # Removed while it is locked: a process that has opened it meanwhile sees that its name is gone.
    if sys.platform != "win32":
        _remove(lock)
    os.close(descriptor)
    if sys.platform == "win32":
        _remove(lock)


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock, as far as the file of the lock tells; nothing is locked or removed."""
    owner = Owner.decode(str(_read_holder(lock).get("owner")))
    return owner is not None and not owner.has_ended()


def remove_abandoned_lock(lock: Path) -> None:
    """Remove the file of a lock whose holder was killed; one that a process holds is left alone."""
    if not _holder_has_ended(lock) or sys.platform == "win32":
        return
    with suppress(OSError):
        descriptor = os.open(lock, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            # Asked again under the lock, as another process may have taken it meanwhile.
            if _lock_descriptor(descriptor) and _is_named(descriptor, lock) and _holder_has_ended(lock):
                _remove(lock)
        finally:
            os.close(descriptor)


def _holder_has_ended(lock: Path) -> bool:
    owner = Owner.decode(str(_read_holder(lock).get("owner")))
    return owner is not None and owner.has_ended()


def _try_lock(lock: Path) -> int | None:
    """Lock a file; its descriptor, or None if another process holds the lock."""
    with writing(lock):
        while True:
            # Not through a symbolic link, which would let a file elsewhere be overwritten.
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(lock, flags, 0o666)
            try:
                free = _lock_descriptor(descriptor)
            except OSError as error:
                if error.errno not in _REFUSED:
                    os.close(descriptor)
                    raise
                free = _claim(lock)
            if not free:
                os.close(descriptor)
                return None
            if _is_named(descriptor, lock):
                _write_holder(descriptor)
                return descriptor
            os.close(descriptor)  # its last holder has removed it


def _lock_descriptor(descriptor: int) -> bool:
    """Lock an open file; False if another process holds the lock."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


def _is_named(descriptor: int, lock: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False


def _claim(lock: Path) -> bool:
    """Create the file that stands for a lock where the file system has none; False if a process has created it."""
    claim = _claim_path(lock)
    for _ in range(2):
        try:
            descriptor = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            # It is unknown whether a process of another machine has ended.
            if not _holder_has_ended(claim):
                return False
            _remove(claim)
            continue
        _write_holder(descriptor)
        os.close(descriptor)
        return True
    return False


def _claim_path(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}-holder")


def _remove(lock: Path) -> None:
    for path in (_claim_path(lock), lock):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _write_holder(descriptor: int) -> None:
    """Write who holds a lock, for the messages of others."""
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "owner": Owner.current().encode(),
    }
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(holder).encode())


def _read_holder(lock: Path) -> dict[str, Any]:
    """Who holds a lock; empty if that is not known."""
    for path in (_claim_path(lock), lock):
        try:
            facts = path.lstat()
            # Anything may be planted under this name: a pipe would block, a large file fill the memory.
            if not stat.S_ISREG(facts.st_mode) or facts.st_size > _MAX_HOLDER_BYTES:
                continue
            holder = json.loads(path.read_text(encoding="utf8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(holder, dict):
            return holder
    return {}


def _describe(holder: dict[str, Any]) -> str:
    """The holder in brackets, with the time, and the day if that is not today."""
    try:
        since = datetime.fromisoformat(holder["since"]).astimezone()
        form = "%H:%M" if since.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M"
        pid, host = (re.sub(r"[^\w.-]", "?", str(holder[key]))[:64] for key in ("pid", "host"))
    except (KeyError, TypeError, ValueError, OverflowError):
        return ""
    return f" (pid {pid} on host {host}, since {since:{form}})"
