"""Formulas of the pages as MathML, which browsers show without a script: `$...$` in a line, ```` ```math ```` blocks.

A Markdown extension. GitHub shows the same two notations as formulas, so a page reads well in both places.
"""

import re
from typing import Any

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor

BLOCK = re.compile(r"^(?P<indent> *)```math\n(?P<formula>.*?)^ *```$", re.MULTILINE | re.DOTALL)
IN_A_LINE = r"(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<!\s)\$(?![\w$])"


class Blocks(Preprocessor):
    """Replaces a fenced formula by its MathML, before anything else reads the fence."""

    def run(self, lines: list[str]) -> list[str]:
        def shown(found: re.Match[str]) -> str:
            formula = convert(" ".join(found["formula"].split()), display="block")
            block = f'<div class="formula">{formula}</div>'
            return f"{found['indent']}{self.md.htmlStash.store(block)}"

        return BLOCK.sub(shown, "\n".join(lines)).split("\n")


class InALine(InlineProcessor):
    """Replaces `$...$` by its MathML."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:  # type: ignore[override]
        return self.md.htmlStash.store(convert(m[1])), m.start(0), m.end(0)


class MathML(Extension):
    """Registers both notations; code in backticks is not read for formulas."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(
            Blocks(md), "formula-blocks", 28
        )  # after white space is put right (30), before fences are read (25)
        md.inlinePatterns.register(InALine(IN_A_LINE, md), "formulas", 185)


def makeExtension(**settings: Any) -> MathML:  # the name that Markdown asks for
    return MathML(**settings)
