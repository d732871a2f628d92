"""Upload and download of a model. Only weights, recipe and card are exchanged, and nothing that is downloaded is executed."""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from cifm_cli import recipe as recipes
from cifm_cli.errors import CifmError
from cifm_cli.hub.service import open_hub, talking_to_hub
from cifm_cli.model.checkpoint import MODEL_FILE, describe
from cifm_cli.stored_json import parse_json
from cifm_cli.system_files import without_system_files
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable


RECIPE_FILE: Final = "recipe.toml"
CARD_FILE: Final = "README.md"
PUSHED: Final = (CARD_FILE, RECIPE_FILE, MODEL_FILE)
_MAX_TEXT_BYTES: Final = 1 << 24  # of a downloaded text


@dataclass(frozen=True)
class PulledModel:
    """A model that was downloaded."""

    folder: Path  # folder of the run
    files: tuple[str, ...]
    left_out: tuple[str, ...]  # other files of the repository, which were not downloaded
    parameters: int
    genes: int

    def to_json(self) -> dict[str, Any]:
        """The result as `cifm pull --json` prints it."""
        return {
            "run": self.folder.as_posix(),
            "files": list(self.files),
            "left_out": list(self.left_out),
            "parameters": self.parameters,
            "genes": self.genes,
        }


def push_model(run: Path, repository: str, *, private: bool) -> list[str]:
    """Upload a model to the hub.

    Args:
        run: Folder of the run. Its training states and metrics are not uploaded.
        repository: OWNER/NAME; created if it does not exist.
        private: Whether a new repository is private. An existing one stays as it is.

    Returns:
        Names of the uploaded files.

    Raises:
        CifmError: The model is missing or damaged, the package is missing, or the hub refuses.
    """
    _require_name(repository)
    describe(run / MODEL_FILE)  # with all checks: a damaged model is not shared
    names = [name for name in PUSHED if (run / name).is_file()]
    hub = open_hub()
    with talking_to_hub(repository):
        hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repository, folder_path=str(run), allow_patterns=names, commit_message="Upload with cifm push"
        )
    return names


def pull_model(repository: str, out: Path, revision: str | None = None) -> PulledModel:
    """Download a model from the hub as a run that all commands take.

    Only files of the kinds that `_CHECKS` lists are downloaded, from the top of the repository, and each is checked before the
    folder of the run exists.

    Args:
        repository: OWNER/NAME.
        out: Folder of the run; it must be empty or missing.
        revision: Branch, tag or commit; the newest of the main branch when absent.

    Returns:
        What was downloaded.

    Raises:
        CifmError: The repository holds no model of cifm, a file is damaged, `out` is not empty, the package is missing, or the
            hub refuses.
    """
    _require_name(repository)
    if out.exists() and (not out.is_dir() or without_system_files(out.iterdir())):
        raise CifmError(f"{out}: already exists", "choose another --out")
    hub = open_hub()
    with talking_to_hub(repository):
        present = sorted(hub.list_repo_files(repository, revision=revision))
    names = [name for name in present if _is_wanted(name)]
    if MODEL_FILE not in names:
        raise CifmError(f"{repository}: no {MODEL_FILE} in it", "give a repository that `cifm push` made")
    with atomic_path(out) as temporary, tempfile.TemporaryDirectory(prefix="cifm-") as staging:
        temporary.mkdir()
        for name in names:
            with talking_to_hub(repository):
                downloaded = Path(hub.hf_hub_download(repository, name, revision=revision, local_dir=staging))
            shutil.copyfile(downloaded, temporary / name)
            _CHECKS[PurePosixPath(name).suffix](temporary / name, f"{repository}: {name}")
        about = describe(temporary / MODEL_FILE)
        # The recipe in the model is the one that counts: with another one beside it, a training would not continue.
        own = recipes.parse(about["recipe"], f"{repository}: {MODEL_FILE}")
        (temporary / RECIPE_FILE).write_text(recipes.to_toml(own), encoding="utf8")
    left_out = tuple(name for name in present if name not in names and name != ".gitattributes")
    return PulledModel(out, tuple(names), left_out, about["parameters"]["total"], about["genes"])


def _require_name(repository: str) -> None:
    """Refuse what is not OWNER/NAME, such as a path or an address."""
    parts = repository.split("/")
    if len(parts) != 2 or not all(part and part[0].isalnum() and part.isascii() for part in parts):
        raise CifmError(f"{repository}: not the name of a repository", "give OWNER/NAME, such as my-lab/tonsil-xenium")


def _is_wanted(name: str) -> bool:
    """Whether a file of a repository is downloaded: a plain name at its top, of a kind that can be checked."""
    path = PurePosixPath(name)
    is_plain = path.name == name and "\\" not in name and not name.startswith(".")
    return is_plain and path.suffix in _CHECKS and (path.suffix != ".safetensors" or name == MODEL_FILE)


def _read_text(path: Path, where: str) -> str:
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise CifmError(
            f"{where}: {path.stat().st_size:,} bytes, too large for a text", "ask its owner for another file"
        )
    try:
        return path.read_text(encoding="utf8")
    except UnicodeDecodeError as error:
        raise CifmError(f"{where}: not a text in UTF-8", "ask its owner for another file") from error


def _check_json(path: Path, where: str) -> None:
    try:
        parse_json(_read_text(path, where))
    except ValueError as error:
        raise CifmError(f"{where}: not JSON ({error})", "ask its owner for another file") from error


def _check_toml(path: Path, where: str) -> None:
    try:
        tomllib.loads(_read_text(path, where))
    except (ValueError, RecursionError) as error:
        raise CifmError(f"{where}: not TOML ({error})", "ask its owner for another file") from error


def _check_weights(path: Path, where: str) -> None:
    """Check that the model can be loaded: header, sizes, names and shapes, finite values and checksum."""
    try:
        describe(path)
    except CifmError as error:
        raise CifmError(error.message.replace(str(path), where), error.hint) from error


_CHECKS: Final[dict[str, Callable[[Path, str], Any]]] = {
    ".safetensors": _check_weights,
    ".json": _check_json,
    ".toml": _check_toml,
    ".md": _read_text,
}
