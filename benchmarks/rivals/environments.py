"""A virtual environment for each rival, made by `python -m venv` and pip from the requirements beside it."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SHARED = HERE / "shared" / "requirements.txt"  # torch and the like, the same everywhere
PACKAGES = ("fibecfed", "flwr", "ray", "pfl", "nvflare", "torch", "transformers", "peft", "numpy")


def environment(rival: str, folder: Path) -> Path:
    """The Python of a rival's environment, which is made where it is not there or its requirements have changed.

    fibecfed's own is tied to this checkout, whose sources it runs.
    """
    place = folder / rival
    python, mark = place / "bin" / "python", place / "made"
    wanted = HERE / rival / "requirements.txt"
    tied = str(HERE) if "-e " in wanted.read_text() else ""
    content = hashlib.sha256(wanted.read_bytes() + SHARED.read_bytes() + tied.encode()).hexdigest()
    if not mark.is_file() or mark.read_text() != content:
        print(f"making the environment of {rival} in {place}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(wanted)]
        subprocess.run(install, check=True, cwd=wanted.parent)
        mark.write_text(content)
    return python


def versions(python: Path) -> dict[str, str]:
    """Of the packages that matter, as far as they are in the environment."""
    code = (
        "import importlib.metadata as m, json, platform\n"
        f"found = {{d.name.lower(): d.version for d in m.distributions() if d.name.lower() in {PACKAGES!r}}}\n"
        "print(json.dumps({'python': platform.python_version(), **dict(sorted(found.items()))}))"
    )
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
