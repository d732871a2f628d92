"""Pages with the source of single modules, to which the documentation links by function, class or equation."""

from __future__ import annotations

import ast
import html
import re
from typing import TYPE_CHECKING

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename

if TYPE_CHECKING:
    from pathlib import PurePosixPath

EQUATIONS = re.compile(r"#.*?\bEqs?\.? ?(\d+)(?:[-–](\d+))?")


def find_anchors(text: str) -> dict[str, int]:
    """Find what a link into a Python module can point to.

    Args:
        text: Source of the module.

    Returns:
        The line of each anchor: `function`, `Class`, `Class.method`, and `eq-N` for the first comment that cites Eq. N.
    """
    anchors: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if cited := EQUATIONS.search(line):
            first, last = int(cited[1]), int(cited[2] or cited[1])
            for equation in range(first, last + 1):
                anchors.setdefault(f"eq-{equation}", number)
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            anchors[node.name] = node.lineno
        if isinstance(node, ast.ClassDef):
            inner = (method for method in node.body if isinstance(method, ast.FunctionDef))
            anchors.update({f"{node.name}.{method.name}": method.lineno for method in inner})
    return anchors


def render_source(path: PurePosixPath, text: str) -> str:
    """Return a page with the highlighted text of a file, its lines numbered and its anchors set.

    Args:
        path: Path from the root of the repository.
        text: Content of the file.
    """
    anchors: dict[int, list[str]] = {}
    if path.suffix == ".py":
        for name, number in find_anchors(text).items():
            anchors.setdefault(number, []).append(name)
    lexer = get_lexer_for_filename(path.name)
    lines = highlight(text, lexer, HtmlFormatter(nowrap=True)).rstrip("\n").split("\n")
    width = len(str(len(lines)))
    body = "\n".join(
        "".join(f'<a id="{html.escape(name)}"></a>' for name in anchors.get(number, []))
        + f'<span class="linenos" data-linenos="{number:>{width}} "></span>{line}'
        for number, line in enumerate(lines, start=1)
    )
    title = f"---\nsearch:\n  exclude: true\n---\n\n# {path.name}\n\n`{path}`\n\n"
    return f'{title}<div class="highlight"><pre><code>{body}\n</code></pre></div>\n'
