"""Makes the modules of this folder importable without a prefix, as the runner imports them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
