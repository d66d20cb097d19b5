"""What the code says about the documents holds: a cited document exists, and so does a cited section."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SELF = "tests/test_documents.py"
DOCUMENT = re.compile(r"\b(?:docs/[\w-]+|[A-Z]{2,})\.md\b")  # METHOD and its like lie outside the repository
GAP = r"[\s#]+"  # a citation may go on in the next line, also of a comment
CITED_SECTIONS = re.compile(rf"docs/method\.md,?{GAP}sections?{GAP}(\d+(?:(?:,{GAP}|{GAP}and{GAP})\d+)*)")


def written() -> Iterator[tuple[str, str]]:
    """Every text that may cite a document, by its path."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    for folder in ("src", "tests", "benchmarks", "experiments", "examples", "website"):
        files += [p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".md", ".yaml")]
    return ((str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")) for path in files)


def sections(text: str) -> set[int]:
    """The sections of docs/method.md that a text cites."""
    return {int(number) for found in CITED_SECTIONS.findall(text) for number in re.findall(r"\d+", found)}


def test_citations_are_seen_in_lists_and_across_lines() -> None:
    assert sections("as docs/method.md sections 3, 5 and\n    6. Then 7") == {3, 5, 6}
    assert sections("# (docs/method.md\n    # section 12 [D]), Platanios et al., section 3.1") == {12}


def test_cited_sections_of_the_method_are_there() -> None:
    headings = re.findall(r"^## (\d+)\. ", (ROOT / "docs/method.md").read_text(encoding="utf-8"), re.MULTILINE)
    numbers = [int(n) for n in headings]
    assert numbers == list(range(1, len(numbers) + 1))
    cited = [(path, number) for path, text in written() if path != SELF for number in sorted(sections(text))]
    assert cited
    assert [(path, number) for path, number in cited if number not in numbers] == []


def test_every_cited_document_is_in_the_repository() -> None:
    cited = [(path, name) for path, text in written() for name in DOCUMENT.findall(text) if name != "README.md"]
    assert cited
    assert [(path, name) for path, name in cited if not (ROOT / name).is_file()] == []


def test_the_architecture_names_every_folder_of_the_package_and_files_that_exist() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    package = ROOT / "src/fibecfed"
    folders = [path.parent.name for path in package.glob("*/__init__.py")]
    assert len(folders) > 15
    assert [name for name in folders if f"`{name}`" not in page] == []
    files = re.findall(r"[\w/]+\.py\b", page)
    assert len(files) > 10
    assert [name for name in files if not (package / name).is_file() and not (ROOT / name).is_file()] == []
    assert "docs/architecture.md" in (ROOT / "README.md").read_text(encoding="utf-8")
