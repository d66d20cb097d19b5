"""Build the documentation site into build/site, strictly: a warning is an error. Nothing is fetched.

python website/build.py
"""

from pathlib import Path

from zensical import build

if __name__ == "__main__":
    build(str(Path(__file__).resolve().parent.parent / "zensical.toml"), {"strict": True, "clean": True})
