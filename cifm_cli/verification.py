"""Whether the content of files is compared with the checksums that were written with it; `--no-verify` skips this.

Checks that keep a damaged file from crashing the program are not affected.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# An environment variable, as worker processes inherit it.
NO_VERIFY = "CIFM_NO_VERIFY"
SKIP_HINT = "or use it as it is with --no-verify"  # second half of the hints of errors about changed content


def verification_enabled() -> bool:
    """Whether the content of files is compared with their checksums."""
    return os.environ.get(NO_VERIFY, "") in {"", "0"}


@contextmanager
def verification_skipped() -> Iterator[None]:
    """Within the block, use changed files as they are."""
    before = os.environ.get(NO_VERIFY)
    os.environ[NO_VERIFY] = "1"
    try:
        yield
    finally:
        # A later command in the same process must verify again.
        if before is None:
            del os.environ[NO_VERIFY]
        else:
            os.environ[NO_VERIFY] = before
