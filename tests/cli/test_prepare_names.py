"""The names of slides, and downloads whose names are long, undecodable, hidden, linked or not data at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import small_downloads as small
from hypothesis import given
from hypothesis import strategies as st

from cifm_cli import keys
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.slide_names import MAX_NAME_BYTES, portable_name, slide_name

POSIX = pytest.mark.skipif(os.name != "posix" or sys.platform == "darwin", reason="names that other systems refuse")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_bundle(tmp_path_factory.mktemp("small") / "section")


def stage(bundle: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copytree(bundle, target))


@given(st.text(st.characters(codec=None), max_size=300))
def test_every_text_becomes_a_name_that_every_file_system_accepts(text: str) -> None:
    name = portable_name(text)
    assert 0 < len(name.encode()) <= MAX_NAME_BYTES
    assert not set(name) & set('<>:"/\\|?*')
    assert name.isprintable() or any(unicodedata.category(letter) in {"Zs", "Cn", "Co"} for letter in name)
    assert name[0] not in ".- "
    assert name[-1] not in ". "
    assert unicodedata.is_normalized("NFC", name)
    assert portable_name(name) == name


@given(st.text("ab", min_size=MAX_NAME_BYTES + 1), st.text("ab", min_size=MAX_NAME_BYTES + 1))
def test_long_names_stay_distinct(one: str, other: str) -> None:
    assert (portable_name(one) == portable_name(other)) == (one == other)


@POSIX
@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "😀" * 63, "a" * 233])
def test_long_name_is_shortened_with_a_hash(
    prepare: Callable[..., tuple], bundle: Path, tmp_path: Path, name: str
) -> None:
    slide, err = prepare(stage(bundle, tmp_path / name))
    (path,) = (tmp_path / "prepared").glob("*.h5ad")
    assert path.stem.endswith(hashlib.sha256(name.encode()).hexdigest()[:8])
    assert name.startswith(path.stem[:-9])
    assert MAX_NAME_BYTES - 4 < len(path.stem.encode()) <= MAX_NAME_BYTES
    assert slide.uns[keys.CIFM][keys.SAMPLE] == path.stem
    assert "its name is longer than 232 bytes" in " ".join(err.split())


@POSIX
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a\nb", "a_b"),
        ("-rf", "rf"),
        (".hidden", "hidden"),
        ("what?", "what_"),
        ("x\x1b[31m", "x_[31m"),
        ("aux", "aux_"),
        ("trailing. ", "trailing"),
        ("...", "slide"),
    ],
)
def test_names_are_made_portable_and_the_user_is_told(
    prepare: Callable[..., tuple], bundle: Path, tmp_path: Path, name: str, expected: str
) -> None:
    _, err = prepare(stage(bundle, tmp_path / name))
    assert [path.name for path in (tmp_path / "prepared").glob("*.h5ad")] == [f"{expected}.h5ad"]
    assert f"is named {expected!r}" in err
    assert "\x1b" not in err


@POSIX
def test_undecodable_bytes_are_read_and_printed(cifm: Callable[..., tuple], bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9") / os.fsdecode(b"\xff\xfe")
    out = tmp_path / os.fsdecode(b"out\xe9")
    code, stdout, err = cifm(
        "prepare", stage(bundle, folder), "--out", out, "--tissue", os.fsdecode(b"l\xfcng"), "--json"
    )
    assert code == 0, err
    (path,) = out.glob("*.h5ad")
    assert path.stem.startswith("__-")
    assert path.name in stdout
    assert path.with_suffix(".html").read_text(encoding="utf8")
    renamed = path.rename(out / os.fsdecode(b"renamed\xe9.h5ad"))
    for words in (["inspect", renamed], ["inspect", out], ["inspect", renamed, "--json"]):
        code, stdout, err = cifm(*words)
        assert code == 0, err
        stdout.encode()


@POSIX
def test_single_file_with_undecodable_name_is_recognised_again(cifm: Callable[..., tuple], tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"s\xe9.h5ad")
    small.anndata_slide().write_h5ad(path)
    assert cifm("prepare", path, "--out", tmp_path / "p")[0] == 0
    code, _, err = cifm("prepare", path, "--out", tmp_path / "p")
    assert (code, "is up to date" in err) == (0, True)


def test_linked_download_is_named_after_the_link(prepare: Callable[..., tuple], bundle: Path, tmp_path: Path) -> None:
    hashed = stage(bundle, tmp_path / "store" / "3f2a9c")
    (tmp_path / "patient_7").symlink_to(hashed, target_is_directory=True)
    slide, _ = prepare(tmp_path / "patient_7")
    assert slide.uns[keys.CIFM][keys.SAMPLE] == "patient_7"
    small.anndata_slide().write_h5ad(tmp_path / "store" / "77ab.h5ad")
    (tmp_path / "patient_8.h5ad").symlink_to(tmp_path / "store" / "77ab.h5ad")
    assert slide_name(tmp_path / "patient_8.h5ad", PrepareConfig()) == "patient_8"
    assert slide_name(tmp_path / "patient_7" / "outs" / ".." / "outs", PrepareConfig()) == "patient_7"


def test_generic_folder_at_the_root_keeps_its_name() -> None:
    assert slide_name(Path("/outs"), PrepareConfig()) == "outs"
    assert slide_name(Path("/"), PrepareConfig()) == "slide"


def test_decomposed_name_is_found_as_it_is_typed(prepare: Callable[..., tuple], bundle: Path, tmp_path: Path) -> None:
    stage(bundle, tmp_path / unicodedata.normalize("NFD", "Probé"))
    slide, _ = prepare(tmp_path / "Probé")
    assert slide.uns[keys.CIFM][keys.SAMPLE] == "Probé"


@pytest.mark.parametrize("name", ["", "-x", ".x", "a/b", "a\tb", "x" * 233, "\u202ex"])
def test_given_names_that_cannot_name_a_file_are_refused(refuse: Callable[..., str], bundle: Path, name: str) -> None:
    assert "--name" in refuse(bundle, f"--name={name}")


def test_a_folder_with_the_name_of_a_slide_is_refused(cifm: Callable[..., tuple], bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "slides" / "mine.h5ad"
    for words in (("prepare", bundle), ("embed", tmp_path / "slide.h5ad")):
        (tmp_path / "slide.h5ad").touch()
        code, out, err = cifm(*words, "--out", target)
        assert (code, out) == (1, "")
        assert f"error: --out {target}: " in err
        assert f"hint: name a folder, such as --out {tmp_path / 'slides' / 'mine'};" in err
        assert not target.parent.exists()


def test_two_downloads_of_one_name_are_listed(refuse: Callable[..., str], bundle: Path, tmp_path: Path) -> None:
    other = stage(bundle, tmp_path / "elsewhere" / "section")
    err = refuse(bundle, other)
    assert "2 downloads would be prepared as 'section'" in err
    assert (str(bundle) in err, str(other) in err) == (True, True)


def test_files_of_macos_and_windows_are_ignored(prepare: Callable[..., tuple], bundle: Path, tmp_path: Path) -> None:
    folder = stage(bundle, tmp_path / "s")
    matrix = (folder / "cell_feature_matrix.h5").rename(folder / "GSM1_cell_feature_matrix.h5")
    (folder / f"._{matrix.name}").write_bytes(b"\x00\x05\x16\x07")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._cells.parquet"):
        (folder / name).write_bytes(b"x")
    assert prepare(folder)[0].n_obs == small.NUM_CELLS


def test_apple_double_file_is_named(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "._s.h5ad").write_bytes(b"\x00\x05\x16\x07\x00")
    assert "a note of macOS about another file" in refuse(tmp_path / "._s.h5ad")


def test_download_inside_an_unpacked_archive_is_named(refuse: Callable[..., str], bundle: Path, tmp_path: Path) -> None:
    inner = stage(bundle, tmp_path / "unpacked" / "sample")
    (tmp_path / "unpacked" / "__MACOSX").mkdir()
    err = refuse(tmp_path / "unpacked")
    assert f"hint: give what it holds: {inner}\n" in err
    assert "__MACOSX" not in err


def test_the_download_around_a_subfolder_is_named(refuse: Callable[..., str], bundle: Path) -> None:
    inner = bundle / "analysis" / "clustering"
    inner.mkdir(parents=True, exist_ok=True)
    assert f"hint: give the folder of the download: {bundle.absolute()}\n" in refuse(inner)


def test_links_that_lead_nowhere_are_named(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    assert f"a link to {tmp_path / 'gone'}, which does not exist" in refuse(tmp_path / "broken")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert "a link that leads in a circle" in refuse(tmp_path / "circle")
    assert "longer than the file system allows" in refuse(tmp_path / ("x" * 300))
