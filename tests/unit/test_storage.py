"""Locks that end with their holder, incomplete files of killed processes, sets of files, and refusing file systems."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifm_cli import workspace
from cifm_cli.data.writers.h5ad import require_space
from cifm_cli.errors import CifmError
from cifm_cli.storage import lock as locks
from cifm_cli.storage import partial_files
from cifm_cli.storage.lock import holding_lock, lock_path
from cifm_cli.storage.names import require_different_files
from cifm_cli.storage.owner import Owner
from cifm_cli.storage.partial_files import COMPLETE, ORDER_FILE, REPLACED, remove_leftovers, temporary_path

if TYPE_CHECKING:
    from collections.abc import Callable

HINT = "choose another folder"
HOLD = """
import sys, time
from pathlib import Path
from cifm_cli.storage.lock import holding_lock
lock = Path(sys.argv[1])
with holding_lock(lock, lock.parent, "training", hint="wait"):
    print("held", flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def hold_elsewhere(lock: Path) -> subprocess.Popen[str]:
    """A process that holds a lock until it is ended."""
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert other.stdout
    assert other.stdout.readline() == "held\n"
    return other


@pytest.fixture
def ended() -> Owner:
    """A process of this machine that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return Owner(Owner.current().machine, done.pid, 1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_MAX_ATTEMPTS", 2)


@given(st.from_regex(r"[0-9a-f]{6}", fullmatch=True), st.integers(0, 1 << 40), st.integers(0, 1 << 60))
def test_an_owner_survives_its_text(machine: str, pid: int, started: int) -> None:
    owner = Owner(machine, pid, started)
    assert Owner.decode(owner.encode()) == owner
    assert Owner.decode(f"x{owner.encode()}") is None


def test_only_processes_known_to_have_ended_have_ended(ended: Owner) -> None:
    current = Owner.current()
    assert ended.has_ended()
    assert not current.has_ended()
    assert not Owner(ended.machine[::-1] + "x", ended.pid, 1).has_ended()  # of another machine
    if current.started:  # the number of a process that has ended belongs to another one
        assert Owner(current.machine, current.pid, current.started + 1).has_ended()


def test_a_second_holder_is_told_who_holds_the_lock(tmp_path: Path, impatient: None) -> None:
    folder = tmp_path / "runs" / "x"
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    other = hold_elsewhere(folder / ".cifm-lock")
    for path in (folder, tmp_path / "link"):
        with pytest.raises(CifmError, match=rf"x: another training writes to it \(pid {other.pid} on host") as caught:
            holding_lock(path / ".cifm-lock", folder, "training", hint=HINT).__enter__()
        assert caught.value.hint == HINT
    other.kill()
    other.communicate()
    with holding_lock(folder / ".cifm-lock", folder, "training", hint=HINT):
        assert json.loads((folder / ".cifm-lock").read_text())["pid"] == os.getpid()
    assert names(folder) == []


def test_a_lock_without_a_hint_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture, impatient: None) -> None:
    caplog.set_level("INFO", "cifm_cli")
    other = hold_elsewhere(tmp_path / "l")
    threading.Timer(0.6, other.terminate).start()
    started = time.monotonic()
    with holding_lock(tmp_path / "l", tmp_path, "cifm prepare"):
        assert time.monotonic() - started > 0.3
    other.communicate()
    assert "waiting for it to end" in caplog.text


def test_nothing_is_left_of_folders_made_for_a_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyError), holding_lock(tmp_path / "runs" / "x" / "l", tmp_path, "training"):
        raise KeyError
    assert names(tmp_path) == []


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "l").symlink_to(tmp_path / "mine")
    with pytest.raises(CifmError, match="cannot write"):
        holding_lock(tmp_path / "l", tmp_path, "training").__enter__()
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_file_takes_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None, ended: Owner, number: int
) -> None:
    def refuse(*_: object) -> bool:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks, "_lock_descriptor", refuse)
    lock = tmp_path / "l"
    with holding_lock(lock, tmp_path, "training", hint=HINT):
        with pytest.raises(CifmError, match="another training writes to it") as caught:
            holding_lock(lock, tmp_path, "training", hint=HINT).__enter__()
        assert "l-holder" in caught.value.hint
    assert names(tmp_path) == []
    (tmp_path / "l-holder").write_text(json.dumps({"owner": ended.encode()}))  # of a process that was killed
    with holding_lock(lock, tmp_path, "training", hint=HINT):
        pass
    assert names(tmp_path) == []


def leave(folder: Path, owner: Owner, kind: str, name: str) -> Path:
    path = folder / f".{owner.encode()}-0a1b{kind}{name}"
    path.write_text("half")
    return path


def test_files_of_killed_processes_are_removed_and_said(
    tmp_path: Path, ended: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "cifm_cli")
    for name in ("a.h5ad", "b.h5ad"):
        leave(tmp_path, ended, ".partial.", name)
    elsewhere = Owner("abcdef", 7, 7)
    kept = [leave(tmp_path, owner, ".partial.", "c.h5ad").name for owner in (Owner.current(), elsewhere)]
    kept += [(tmp_path / name).name for name in (".x.partial.mine", "notes") if (tmp_path / name).touch() is None]
    lock = lock_path(tmp_path / "a.h5ad")
    lock.write_text(json.dumps({"owner": ended.encode()}))
    workspace.write_json(tmp_path / "m.json", {})
    assert names(tmp_path) == sorted([*kept, "m.json"])
    assert caplog.messages == [f"{tmp_path}: removed the incomplete a.h5ad, b.h5ad of a process that was killed"]
    # After a day without a change, nobody writes a file of another machine any more.
    for name in kept:
        os.utime(tmp_path / name, (0, 0))
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted([kept[0], ".x.partial.mine", "m.json", "notes"])


def test_a_temporary_name_fits_and_keeps_its_ending(tmp_path: Path) -> None:
    for name in ("x.h5ad", "µ" * 125 + ".h5ad", "a" * 250 + ".h5ad"):
        path = temporary_path(tmp_path / name)
        path.touch()
        assert path.suffix == ".h5ad"
        lock_path(tmp_path / name).touch()
        with workspace.atomic_path(tmp_path / name) as temporary:
            temporary.touch()


def test_a_folder_that_was_not_replaced_is_restored(tmp_path: Path, ended: Owner) -> None:
    leave(tmp_path, ended, REPLACED, "simulation").rename(tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / f".{ended.encode()}-0a1b{REPLACED}simulation")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["simulation"]


def write_set(folder: Path, text: str) -> None:
    with workspace.atomic_files(folder, "metrics.json", lambda name: name.startswith("predictions")) as new:
        for name in ("per_cell", "metrics.json", *([f"predictions-{text}"] if text == "old" else [])):
            (new / name).write_text(text)


def test_a_set_of_files_is_written_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    write_set(tmp_path, "old")
    assert names(tmp_path) == ["metrics.json", "notes", "per_cell", "predictions-old"]
    with pytest.raises(ValueError, match="not JSON"), workspace.atomic_files(tmp_path, "metrics.json") as new:
        workspace.write_json(new / "metrics.json", float("nan"))
    assert (tmp_path / "metrics.json").read_text() == "old"
    write_set(tmp_path, "new")
    assert names(tmp_path) == ["metrics.json", "notes", "per_cell"]
    assert {(tmp_path / name).read_text() for name in ("metrics.json", "per_cell")} == {"new"}


def test_a_set_that_was_being_moved_is_completed_by_the_next_command(
    tmp_path: Path, ended: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path, "old")
    complete = tmp_path / f".{ended.encode()}-0a1b{COMPLETE}set"
    complete.mkdir()
    (complete / "metrics.json").write_text("new")  # the other file was moved already
    (tmp_path / "per_cell").write_text("new")
    (complete / ORDER_FILE).write_text(
        json.dumps({"remove": ["predictions-old"], "move": ["per_cell", "metrics.json"]})
    )
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["metrics.json", "per_cell"]
    assert (tmp_path / "metrics.json").read_text() == "new"


def test_a_signal_does_not_leave_half_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path, "old")
    replace, calls = Path.replace, []

    def interrupted(self: Path, target: Path) -> Path:
        if target.name in ("per_cell", "metrics.json"):
            calls.append(target)
            if len(calls) == 2:
                raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_set(tmp_path, "new")
    assert names(tmp_path) == ["metrics.json", "per_cell"]
    assert {(tmp_path / name).read_text() for name in ("metrics.json", "per_cell")} == {"new"}


def test_an_error_within_a_set_names_the_final_path(tmp_path: Path) -> None:
    with pytest.raises(CifmError, match=rf"^cannot write {tmp_path}/x: no space"):  # noqa: SIM117
        with workspace.atomic_files(tmp_path, "x") as new, workspace.atomic_path(new / "x"):
            raise OSError(errno.ENOSPC, "full")


def refusing(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_what_a_file_system_refuses_but_the_result_does_not_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for owner, name in ((os, "fsync"), (Path, "chmod"), (Path, "symlink_to"), (os, "posix_fallocate")):
        monkeypatch.setattr(owner, name, refusing(number))
    monkeypatch.chdir(tmp_path)
    workspace.write_json(Path("m.json"), {"a": 1})
    write_set(tmp_path, "new")
    require_space(tmp_path, 10)
    with pytest.raises(OSError, match="No space left"):
        require_space(tmp_path, 1 << 60)
    for name in ("one", "two"):
        run = Path("runs", name)
        run.mkdir(parents=True)
        (run / "model.safetensors").touch()
        workspace.link_latest(run)
        assert workspace.run_folder(None).name == name
        assert workspace.run_folder(Path("runs/latest")) == run.resolve()
        assert Path("runs/latest").read_text() == f"{name}\n"
    assert names(Path("runs")) == ["latest", "one", "two"]


def test_the_text_file_is_replaced_by_a_link_where_there_are_links(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("gone\n")
    (tmp_path / "run").mkdir()
    workspace.link_latest(tmp_path / "run", tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_a_failing_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "fsync", refusing(number))
    with pytest.raises(CifmError, match="cannot write"):
        workspace.write_json(tmp_path / "m.json", {})
    assert names(tmp_path) == []


def test_hang_up_is_obeyed_unless_it_is_ignored() -> None:
    from cifm_cli.errors import StopRequested, raising_on_stop_signals

    with pytest.raises(StopRequested), raising_on_stop_signals():
        signal.raise_signal(signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        with raising_on_stop_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert partial_files.PARTIAL == ".partial."


def test_names_that_are_one_file_on_a_file_system_without_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_different_files(["Slide", "slide", "other"], tmp_path / "out", "rename one")  # told apart here
    exists = Path.exists
    # A file system that does not tell case apart.
    monkeypatch.setattr(
        Path,
        "exists",
        lambda self: exists(self) or self.name.lower() in [p.name.lower() for p in self.parent.iterdir()],
    )
    with pytest.raises(CifmError, match="Slide and slide would be the same file there"):
        require_different_files(["Slide", "other", "slide"], tmp_path / "out", "rename one")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "order",
    [
        {"remove": ["../mine"], "move": []},
        {"remove": ["MINE"], "move": []},
        {"remove": [], "move": ["../mine", "metrics.json"]},
        {"remove": [".."], "move": ["."]},
        {"remove": "mine", "move": None},
        ["remove"],
    ],
)
def test_a_planted_set_touches_nothing_elsewhere(tmp_path: Path, ended: Owner, order: object) -> None:
    folder, mine = tmp_path / "evaluation", tmp_path / "mine"
    mine.write_text("precious")
    complete = folder / f".{ended.encode()}-0a1b{COMPLETE}set"
    complete.mkdir(parents=True)
    (complete / ORDER_FILE).write_text(json.dumps(order).replace("MINE", str(mine)))
    remove_leftovers(folder)
    assert mine.read_text() == "precious"
    assert names(folder) == []


def test_planted_locks_and_links_do_no_harm(tmp_path: Path, ended: Owner, impatient: None) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    write_set(elsewhere, "precious")
    (elsewhere / ORDER_FILE).write_text(json.dumps({"remove": [], "move": ["metrics.json"]}))
    (folder / f".{ended.encode()}-0a1b{COMPLETE}set").symlink_to(elsewhere, target_is_directory=True)
    os.mkfifo(folder / ".pipe.cifm-lock")
    (folder / ".deep.cifm-lock").write_text("[" * 4000)
    remove_leftovers(folder)
    assert (elsewhere / "metrics.json").read_text() == "precious"
    with holding_lock(folder / ".l", folder, "training"):
        (folder / ".l").write_text(
            json.dumps({"pid": "\x1b[2J", "host": "h" * 999, "since": "2026-01-01T00:00:00+00:00"})
        )
        with pytest.raises(CifmError) as caught:
            holding_lock(folder / ".l", folder, "training", hint=HINT).__enter__()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300
