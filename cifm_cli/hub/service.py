"""The connection to the hub, behind the extra `hub`, and the translation of its errors."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Hub(Protocol):
    """The part of `huggingface_hub.HfApi` that is used."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:  # noqa: ANN401 - an address
        """Create a repository of models, if there is none of this name."""

    def upload_folder(self, *, repo_id: str, folder_path: str, allow_patterns: list[str], commit_message: str) -> Any:  # noqa: ANN401
        """Upload the files of a folder whose names match, in one commit."""

    def list_repo_files(self, repo_id: str, *, revision: str | None) -> list[str]:
        """List the paths of all files of a repository."""

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str | None, local_dir: str) -> str:
        """Download a file into a folder, and return its path."""


def open_hub() -> Hub:
    """Open the hub with the user's own login, if there is one.

    Returns:
        The hub. Nothing is sent yet.

    Raises:
        CifmError: The package is missing.
    """
    try:
        library = import_module("huggingface_hub")
    except ImportError as error:
        raise CifmError(
            "huggingface_hub is not installed", 'install it with `pip install ".[hub]"` in the source folder of cifm'
        ) from error
    hub: Hub = library.HfApi(library_name="cifm")
    return hub


@contextmanager
def talking_to_hub(repository: str) -> Iterator[None]:
    """Turn what the hub and the network raise into an error. The block contains nothing but calls of the hub.

    Args:
        repository: Name of the repository, for the message.

    Raises:
        CifmError: The block raised such an exception.
    """
    # The errors of the hub are OSError and ValueError, and those of the connection are of a package that varies.
    expected: tuple[type[Exception], ...] = (OSError, ValueError, *_connection_errors())
    try:
        yield
    except expected as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CifmError(
            f"{repository}: the hub says: {reason}",
            "check the name (OWNER/NAME), the connection, and the login (`hf auth login`)",
        ) from error


def _connection_errors() -> tuple[type[Exception], ...]:
    """Errors of the packages with which versions of huggingface_hub connect."""
    errors: list[type[Exception]] = []
    for name in ("httpx", "httpx2"):
        try:
            errors.append(import_module(name).HTTPError)
        except (ImportError, AttributeError):
            continue
    return tuple(errors)
