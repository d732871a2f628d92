"""What every page fulfils, read from its text without a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_EMPTY = frozenset({"img", "meta", "link", "br", "hr", "input", "source"})  # elements without an end


class _Page(HTMLParser):
    """The elements of a page in their order, and the text in each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in _EMPTY:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self.elements[self._open.pop()][0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for position in self._open:
            self.elements[position][2].append(data)

    def named(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        """Attributes and text of all elements of a name."""
        return [(attributes, "".join(text).strip()) for name, attributes, text in self.elements if name == tag]


def broken_laws(text: str) -> list[str]:
    """The laws that a page breaks.

    Args:
        text: The HTML.

    Returns:
        A line for each violation.
    """
    page = _Page(text)
    return [*_headings(page), *_answer(page), *_images(page), *_tables(page), *_addresses(page, text), *_links(page)]


def _headings(page: _Page) -> list[str]:
    broken = [] if len(page.named("h1")) == 1 else [f"{len(page.named('h1'))} headings h1 instead of one"]
    broken += [f"an empty {tag}" for tag in ("title", "h1", "h2") for _, text in page.named(tag) if not text]
    if page.named("html")[0][0].get("lang") != "en":
        broken.append("no language")
    return broken


def _answer(page: _Page) -> list[str]:
    """The first paragraph is the answer, a sentence."""
    paragraphs = page.named("p")
    if not paragraphs or paragraphs[0][0].get("class") != "answer":
        return ["the first paragraph is not the answer"]
    answer = paragraphs[0][1]
    return [] if answer.endswith(".") else [f"the answer is no sentence: {answer!r}"]


def _images(page: _Page) -> list[str]:
    broken = ["an image without alternative text" for attributes, _ in page.named("img") if not attributes.get("alt")]
    names = {"title", "aria-label"}
    return broken + ["a drawing without title" for attributes, _ in page.named("svg") if not names & set(attributes)]


def _tables(page: _Page) -> list[str]:
    broken = ["a header of a table without scope" for attributes, _ in page.named("th") if "scope" not in attributes]
    if len(page.named("caption")) != len(page.named("table")) or not all(text for _, text in page.named("caption")):
        broken.append("a table without caption")
    regions = [
        attributes
        for attributes, _ in page.named("div")
        if attributes.get("class") == "table" and attributes.get("tabindex") == "0" and attributes.get("aria-label")
    ]
    if len(regions) != len(page.named("table")):
        broken.append("a table that cannot be scrolled with the keyboard")
    return broken


def _addresses(page: _Page, text: str) -> list[str]:
    """Nothing is loaded: neither by an element nor by the style."""
    broken = [
        f"{tag} loads {value[:60]}"
        for tag, attributes, _ in page.elements
        for name in ("src", "srcset", "href", "action", "data")
        if (value := attributes.get(name)) and not value.startswith(("data:image/", "#"))
    ]
    broken += [f"an element {tag}" for tag in ("link", "iframe", "object", "embed", "form") if page.named(tag)]
    style = "".join(content for _, content in page.named("style"))
    broken += ["the style loads something"] if re.search(r"url\(|@import", style) else []
    if "Content-Security-Policy" not in text:
        broken.append("no content security policy")
    return broken


def _links(page: _Page) -> list[str]:
    """Links lead to a part of the page, and no two parts have one name."""
    names = [attributes["id"] for _, attributes, _ in page.elements if attributes.get("id")]
    broken = ["two parts of one name"] if len(set(names)) < len(names) else []
    targets = [str(attributes.get("href", ""))[1:] for attributes, _ in page.named("a")]
    return broken + [f"a link to {target!r}, which does not exist" for target in targets if target not in names]
