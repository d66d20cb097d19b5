"""Links and anchors of every document resolve, and numbers name a committed result."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
    ROOT / "results" / "README.md",
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
MEASURED = re.compile(r"^\|.*\| *\**[+-]?\d+\.\d+\**( / .*)? *\|", re.MULTILINE)  # a cell that is a number, or two
RESULT = re.compile(r"\bresults/[\w*{},./-]*\w")


def plain(path: Path) -> str:
    """A page without what stands in code."""
    return CODE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_anchors_resolve(path: Path) -> None:
    lost = []
    for link in LINK.findall(plain(path)):
        if re.match(r"https://[\w.-]+(/|$)", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_links_are_seen() -> None:
    assert sum(len(LINK.findall(plain(path))) for path in PAGES) > 60
    assert "9-cost" in anchors(ROOT / "docs" / "method.md")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_results_that_are_named_are_committed(path: Path) -> None:
    named = {name.split("{")[0] for name in RESULT.findall(path.read_text(encoding="utf-8"))}
    assert [name for name in sorted(named) if not list(ROOT.glob(name))] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_of_measurements_name_their_result(path: Path) -> None:
    """The section of a table with decimal numbers names a committed result, or says that a dry run computes it."""
    if path.name == "configuration.md" or path.parent.name == "results":  # defaults; and the results' own page
        return
    sections = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    tables = [section for section in sections if MEASURED.search(section)]
    said = [bool(RESULT.search(section)) or "computed by `--dry-run`" in section for section in tables]
    assert [section.splitlines()[0] for section, named in zip(tables, said, strict=True) if not named] == []
    assert tables or path != ROOT / "README.md"
