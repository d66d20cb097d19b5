"""Who knows of labels: the task, the configuration, the data, and the few modules where a user reads of them."""

import re
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "fibecfed"
OWNERS = ("tasks", "config", "data")
MOST = 25  # modules outside their owners that may name a label, a class count or accuracy
WORDS = re.compile(r"\b(\w*_)?(labels?|labelled|accuracy|accuracies|class_count)(_\w*)?\b", re.IGNORECASE)
OF_LIBRARIES = re.compile(r"""\blabel=(?!label)|set_[xy]?label\b|get_legend_handles_labels|["']?num_labels\b""")


def test_few_modules_name_a_label() -> None:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        module = path.relative_to(SOURCE)
        if module.parts[0] not in OWNERS and WORDS.search(OF_LIBRARIES.sub("", path.read_text(encoding="utf-8"))):
            found.append(str(module))
    assert len(found) <= MOST, "\n".join([f"{len(found)} modules name a label, a class count or accuracy:", *found])
