"""Equations: blocks of LaTeX in Markdown (```math), which browsers show as MathML, without any script."""

from __future__ import annotations

import re

from latex2mathml.converter import convert

BLOCKS = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def render_equations(markdown: str) -> str:
    """Replace each block of LaTeX by MathML."""
    return BLOCKS.sub(
        lambda block: f'<div class="equation">{convert(block[1].strip(), display="block")}</div>', markdown
    )
