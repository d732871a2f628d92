"""Embedded slides in Zarr. They are converted to a temporary `.h5ad`, and read and checked as one."""

from __future__ import annotations

import json
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cifm_cli.data.slide_file import damaged, reading_slot
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Iterator

_GROUP_MARKS: Final = (".zgroup", "zarr.json")
_METADATA: Final = (".zarray", ".zmetadata", "zarr.json")
_MAX_RATIO: Final = 1_100  # bytes of all arrays per byte of the store, as for HDF5
_SMALL: Final = 64 << 20  # bytes that are allowed with any ratio: Zarr does not store parts that are zero


@contextmanager
def as_h5ad(path: Path) -> Iterator[Path]:
    """Give the `.h5ad` of an embedded slide.

    Args:
        path: An `.h5ad`, or a Zarr store.

    Yields:
        The `.h5ad`: `path` itself, or a temporary file of the same name.

    Raises:
        CifmError: The store is damaged, or the zarr package is missing.
    """
    if not path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="cifm-") as folder:
        converted = Path(folder, f"{path.stem}.h5ad")
        _convert(path, converted)
        try:
            yield converted
        except CifmError as error:
            message, hint = (text.replace(str(converted), str(path)) for text in (error.message, error.hint))
            raise CifmError(message, hint) from error


def _convert(path: Path, target: Path) -> None:
    if not any((path / name).is_file() for name in _GROUP_MARKS):
        raise CifmError(f"{path}: not a Zarr store", "give files that `cifm embed` wrote, or folders of them")
    _require_harmless(path)
    try:
        import zarr
    except ImportError as error:
        raise CifmError(
            f"{path}: a Zarr store, and the zarr package is missing",
            'install it with `pip install ".[analysis]"` in the source folder of cifm',
        ) from error
    import anndata as ad

    with ad.settings.override(allow_write_nullable_strings=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of AnnData about formats
        with reading_slot(path):
            _require_stored_sizes(path, zarr.open_group(path, mode="r"))
            table = ad.read_zarr(path)
            table.write_h5ad(target)


def _require_harmless(path: Path) -> None:
    """Refuse arrays of pickled objects: a pickle can run code when it is read."""
    for name in _METADATA:
        for file in path.rglob(name):
            with reading_slot(path, str(file.relative_to(path))):
                about = json.loads(file.read_text(encoding="utf8"))
            if "pickle" in _codecs(about):
                raise damaged(path, f"{file.relative_to(path)}: pickled objects are not read")


def _codecs(about: Any) -> set[str]:  # noqa: ANN401 - any JSON
    """Names of codecs anywhere in a nested JSON value."""
    if isinstance(about, list):
        return set().union(*map(_codecs, about))
    if not isinstance(about, dict):
        return set()
    own = {str(about[key]).lower().rpartition(".")[2] for key in ("id", "name") if key in about}
    return own.union(*map(_codecs, about.values()))


def _require_stored_sizes(path: Path, group: Any) -> None:  # noqa: ANN401 - a zarr group
    """Check that the arrays are not much larger than the files of the store. Raises `ValueError`."""
    stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    claimed = _claimed_bytes(group)
    if claimed > max(_SMALL, _MAX_RATIO * stored):
        raise ValueError(f"its arrays claim {claimed:,} bytes, the store has {stored:,}")


def _claimed_bytes(group: Any) -> int:  # noqa: ANN401 - a zarr group
    arrays = sum(int(array.nbytes) for _, array in group.arrays())
    return arrays + sum(_claimed_bytes(child) for _, child in group.groups())
