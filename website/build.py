"""Build the documentation site into build/site, strictly: a warning is an error. Nothing is fetched.

    python website/build.py
"""

import sys
from pathlib import Path

from zensical import build

if __name__ == "__main__":
    build(str(Path(__file__).resolve().parent.parent / "zensical.toml"), {"strict": "--draft" not in sys.argv, "clean": True})
