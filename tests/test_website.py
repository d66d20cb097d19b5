"""The documentation site builds strictly and asks no other host; its pages from the code are those of today's code."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SITE = ROOT / "build" / "site"
ELSEWHERE = re.compile(r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//|url\(["']?https?:""")
STYLE = re.compile(r"""<link\b(?=[^>]*rel=["']?(?:stylesheet|preconnect|icon))[^>]*href=["']?(?:https?:)?//""")


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def module(name: str) -> ModuleType:
    """A program of website/."""
    spec = importlib.util.spec_from_file_location(f"website_{name}", ROOT / "website" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_site_builds_strictly_and_asks_no_other_host() -> None:
    pytest.importorskip("zensical", reason="the extra `docs` is not installed")
    done = subprocess.run([sys.executable, "website/build.py"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.stem for path in DOCS.glob("*.md")}
    assert pages <= {path.stem for path in SITE.glob("*.html")}
    for name in pages:
        html = (SITE / f"{name}.html").read_text(encoding="utf-8")
        assert not ELSEWHERE.search(html) and not STYLE.search(html), name
    method = (SITE / "method.html").read_text(encoding="utf-8")
    assert method.count("<math ") > 50 and "math</code>" not in method and "wzxhzdk" not in method
    assert "\\frac" not in re.sub(r"<annotation.*?</annotation>", "", method)


def test_every_page_has_a_place_in_the_navigation() -> None:
    listed = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    assert [path.name for path in DOCS.glob("*.md") if f'"{path.name}"' not in listed] == []
    assert tomllib.loads(listed)["project"]["theme"]["font"] is False


@pytest.mark.parametrize("name", ["configuration", "api"])
def test_references_are_those_of_the_code(name: str) -> None:
    assert getattr(module("reference"), name)() == page(name), "python website/reference.py writes it anew"


def test_figures_are_what_the_program_draws() -> None:
    for name, drawn in module("figures").figures().items():
        assert drawn == (DOCS / "assets" / name).read_text(encoding="utf-8"), "python website/figures.py draws it anew"
        assert f"(assets/{name})" in page("method")


def test_every_method_has_its_paragraph() -> None:
    from fibecfed.methods import METHODS

    sections = re.findall(r"^### (\S+)\n\n(\S.*?)(?=\n#|\Z)", page("choosing-a-method"), re.MULTILINE | re.DOTALL)
    assert sorted(name for name, _ in sections) == sorted(METHODS)
    said = [re.search(r"Take\s+it", text) for _, text in sections]  # when; what stands before it is the cost
    assert [name for (name, _), found in zip(sections, said, strict=True) if not found] == []


def texts_of_the_source() -> Iterator[str]:
    """Every text in the code; what is filled in reads `…`."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_of_the_troubleshooting_are_those_of_the_code() -> None:
    messages = re.findall(r"^- `([^`]+)`$", page("troubleshooting"), re.MULTILINE)
    assert len(messages) > 30
    said = {re.sub(r"\s+", " ", text) for text in texts_of_the_source() if len(text) > 10}
    assert [message for message in messages if not any(message in text for text in said)] == []


def test_the_task_of_the_page_is_the_one_that_the_tests_run() -> None:
    assert f"```python\n{(ROOT / 'tests/tasks/text_length.py').read_text(encoding='utf-8')}```" in page(
        "writing-a-task"
    )


def test_licences_name_every_package_that_is_installed_for_users() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra, packages in project["optional-dependencies"].items():
        wanted += packages if extra != "dev" else []
    names = {re.split(r"[\[<>=!~ ]", package)[0] for package in wanted}
    listed = set(re.findall(r"^\| ([\w.-]+) \|", (ROOT / "THIRD_PARTY_LICENSES.md").read_text(), re.MULTILINE))
    assert names <= listed


def test_the_citation_is_of_this_version_and_the_paper() -> None:
    import yaml

    import fibecfed

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == fibecfed.__version__
    (paper,) = citation["references"]
    assert paper["title"].startswith("Fisher Information-based") and len(paper["authors"]) == 7
