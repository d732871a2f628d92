"""Names of prepared slides, which are also the names of their files: portable, of bounded length, from the path as typed."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from cifm_cli.data.prepare.config import PrepareConfig

# File systems allow 255 bytes. The longest name that is derived from that of a slide is the one under which the slide
# is written, `.xxxxxxxx.partial.NAME.h5ad`.
MAX_NAME_BYTES = 232
_NUM_DIGITS = 8  # hexadecimal digits of the hash in a shortened name
_GENERIC_FOLDER = re.compile(r"outs|binned_outputs|segmented_outputs|square_\d{3}um")  # folders of every download
_SUFFIXES = re.compile(r"(\.(h5ad|zarr|h5|mtx|csv|tsv|txt|gz|zip))+$")
_NOT_PORTABLE = re.compile(r'[<>:"/\\|?*]')  # in names of files on Windows, and on disks that are shared with it
# Control characters, marks of direction, halves of surrogate pairs (which stand for undecodable bytes), line separators.
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", re.IGNORECASE)
_FALLBACK = "slide"


def slide_name(download: Path, config: PrepareConfig) -> str:
    """Name of the prepared slide.

    Args:
        download: Folder or file.
        config: Options of the preparation.

    Returns:
        `config.name`, or else the name of the download as it was typed, made portable and at most `MAX_NAME_BYTES` long;
        for a folder that every download has, such as `outs`, the name of its parent.

    Raises:
        CifmError: `config.name` cannot be the name of a file.
    """
    if config.name is not None:
        _check_given_name(config.name)
        return config.name.removesuffix(".h5ad")
    return portable_name(_name_of(download))


def name_note(download: Path, config: PrepareConfig) -> str | None:
    """A note if the slide is not named exactly after its download; None otherwise. Arguments as `slide_name`."""
    if config.name is not None:
        return None
    own, name = _name_of(download), slide_name(download, config)
    if unicodedata.normalize("NFC", own) == name:
        return None
    shortened = f"its name is longer than {MAX_NAME_BYTES} bytes" if len(os.fsencode(own)) > MAX_NAME_BYTES else ""
    reason = shortened or "its name holds characters that not every file system or terminal can show"
    return f"the slide of {own!r} is named {name!r}: {reason}; choose another with --name"


def portable_name(name: str) -> str:
    """Turn a text into the name of a file that every file system accepts and every terminal shows.

    Args:
        name: Any text; bytes that are not valid in the encoding of the system are halves of surrogate pairs.

    Returns:
        At most `MAX_NAME_BYTES` bytes of UTF-8 in the normal form C. A name that is shortened, or that had undecodable
        bytes, ends with a hash of the original, so that different texts have different names.
    """
    # File names of macOS are in the normal form D, in which a name does not equal the one that a user types.
    composed = unicodedata.normalize("NFC", name)
    visible = "".join("_" if unicodedata.category(letter) in _INVISIBLE else letter for letter in composed)
    # A leading dot hides a file, a leading dash looks like an option, and Windows drops dots and blanks at the end.
    stripped = _NOT_PORTABLE.sub("_", visible).lstrip(".- ").rstrip(". ")
    portable = _WINDOWS_DEVICE.sub(r"\1_", stripped, count=1) or _FALLBACK
    is_undecodable = any(unicodedata.category(letter) == "Cs" for letter in name)
    if not is_undecodable and len(portable.encode()) <= MAX_NAME_BYTES:
        return portable
    digest = hashlib.sha256(name.encode("utf8", "surrogatepass")).hexdigest()[:_NUM_DIGITS]
    # Cut at a character: half of one is not valid UTF-8.
    start = portable.encode()[: MAX_NAME_BYTES - _NUM_DIGITS - 1].decode("utf8", "ignore")
    return f"{start}-{digest}"


def _name_of(download: Path) -> str:
    """The name of a download without its suffixes."""
    # Not resolved: workflow managers stage inputs as links to files that are named by a hash.
    given = Path(os.path.abspath(download))  # noqa: PTH100 - `Path.absolute` keeps `..`
    path = given
    # Such folders have the same name in every download, so that the name would not identify the slide.
    while _GENERIC_FOLDER.fullmatch(path.name):
        path = path.parent
    # A download that is mounted at the root of a container has no other name.
    return _SUFFIXES.sub("", path.name or given.name)


def _check_given_name(name: str) -> None:
    """Raise an error for a name that cannot be, or should not be, the name of a file."""
    stem = name.removesuffix(".h5ad")
    invisible = any(unicodedata.category(letter) in _INVISIBLE for letter in name)
    if not stem or "/" in name or name.startswith((".", "-")) or invisible:
        raise CifmError(f"--name {name!r} cannot name a file", "use letters, digits, - and _")
    if (num_bytes := len(stem.encode())) > MAX_NAME_BYTES:
        raise CifmError(
            f"--name {stem[:20]}... has {num_bytes} bytes, and file names have at most {MAX_NAME_BYTES} beside the endings",
            "choose a shorter name",
        )
