"""What is written for readers can be read: no sentence is longer than forty words, and none speaks to the authors."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
MODULES = sorted((ROOT / "src").rglob("*.py"))
MOST = 40  # words
END = re.compile(r"(?<!et al\.)(?<!e\.g\.)(?<!i\.e\.)(?<=[.!?])[\"'`*)]*\s+")
ITEM = re.compile(r"^\s*(?:[-*]|\d+\.) ")
TO_AUTHORS = re.compile(r"\b(?:TODO|FIXME|XXX|WIP|reviewers?|(?:dear|the|for|note to) authors?)\b", re.IGNORECASE)


def paragraphs(text: str) -> Iterator[str]:
    """Running text and list items; no fenced or indented block, no heading, no row of a table."""
    text = re.sub(r"^ *```.*?^ *```|^<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        apart = not line.strip() or line.lstrip().startswith(("|", "#")) or (line.startswith("    ") and not block)
        if (apart or ITEM.match(line)) and block:
            yield " ".join(block)
            block = []
        if not apart:
            block.append(ITEM.sub("", line).strip())


def written_in(source: str) -> Iterator[str]:
    """The docstrings of a module, and its comments that have lines of their own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from paragraphs(ast.get_docstring(node) or "")
    block: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip():
            if token.start[0] != last + 1 and block:
                yield " ".join(block)
                block = []
            block.append(token.string.lstrip("# "))
            last = token.start[0]
    yield " ".join(block)


def texts(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return list(written_in(text) if path.suffix == ".py" else paragraphs(text))


def too_long(text: str) -> list[str]:
    """The sentences of a paragraph that have too many words."""
    return [part for part in END.split(text) if sum(bool(re.search(r"\w", word)) for word in part.split()) > MOST]


@pytest.mark.parametrize("words", [MOST, MOST + 1])
def test_long_sentences_are_seen(words: int) -> None:
    sentence = " ".join(["word"] * words) + "."
    source = f'"""Short.\n\n{sentence}\n"""\n\n# {sentence}\n'
    found = [part for text in written_in(source) for part in too_long(text)]
    assert len(found) == (2 if words > MOST else 0)
    assert len(too_long(next(paragraphs(f"- {sentence}")))) == (words > MOST)


@pytest.mark.parametrize("path", [*PAGES, ROOT / "src"], ids=lambda path: path.name)
def test_no_sentence_is_too_long(path: Path) -> None:
    found = [(p.name, part) for p in (MODULES if path.is_dir() else [path]) for t in texts(p) for part in too_long(t)]
    assert found == []


def test_no_sentence_speaks_to_the_authors() -> None:
    found = [(p.name, text) for p in (*PAGES, *MODULES) for text in texts(p) if TO_AUTHORS.search(text)]
    assert found == []
