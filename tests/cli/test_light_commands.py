"""What takes no model is answered without the libraries that take seconds to import."""

import gc
import json
import subprocess
import sys
from contextlib import suppress

import pytest

from fibecfed.importing import uncollected

SCRIPT = """
import contextlib, io, json, sys
from fibecfed.__main__ import main
found = {}
for line in sys.argv[1:]:
    sys.argv = ["fibecfed", *line.split()]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    heavy = {"torch", "transformers", "peft", "datasets", "flwr", "matplotlib", "pandas", "scipy"} & set(sys.modules)
    found[line] = [code, sorted(heavy)]
print(json.dumps(found))
"""
CODES = {
    "--help": 0,
    "--version": 0,
    "run --help": 0,
    "flower --help": 0,
    "config": 0,
    "config lora": 0,
    "run seeed=3 --out x": 2,
    "run data.file=no-such-file.csv --out x": 2,
    "run federation.devices=0 --out x": 2,
}


def test_light_commands_import_no_heavy_library() -> None:
    """All in one process, each after those before it, so that whoever imports one is named with all after it."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *CODES], capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(done.stdout) == {line: [code, []] for line, code in CODES.items()}


@pytest.mark.parametrize("collecting", [True, False])
def test_imports_leave_the_garbage_collector_as_it_was(collecting: bool) -> None:
    before = gc.isenabled()
    try:
        gc.enable() if collecting else gc.disable()
        with suppress(ImportError), uncollected():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == collecting
    finally:
        gc.enable() if before else gc.disable()
