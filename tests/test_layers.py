"""That import-linter's layers hold for every file, also for the two that Flower loads by their own names."""

from pathlib import Path

import grimp

import fibecfed


def test_the_layers_see_every_file() -> None:
    root = Path(fibecfed.__file__).parent
    files = {
        ".".join(("fibecfed", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        for path in root.rglob("*.py")
    }
    seen = grimp.build_graph("fibecfed", cache_dir=None)
    assert files == seen.modules
    assert "fibecfed.flower.over_machines" in seen.find_modules_directly_imported_by(
        "fibecfed.flower.app.fibecfed_server_app"
    )
