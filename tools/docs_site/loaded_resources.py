"""What a browser loads from other servers when it opens a page. The site must load nothing."""

from __future__ import annotations

import re

# Links that a reader follows are not loaded, and neither are the addresses of this page and its neighbours.
TAGS = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*>")
NOT_LOADED = re.compile(r"""\brel="?(?:canonical|next|prev)\b""")
ADDRESS = re.compile(r"""\b(?:src|href)="?((?:https?:)?//[^"\s>]+)""")


def find_loaded(page: str) -> list[str]:
    """Return the addresses on other servers that a page of HTML loads."""
    tags = (tag for tag in TAGS.findall(page) if not NOT_LOADED.search(tag))
    return [address for tag in tags for address in ADDRESS.findall(tag)]
