"""Log files of runs over machines hold no colour codes."""

import subprocess
import sys

SCRIPT = r"""
import os, subprocess, sys, time
from fibecfed.cli.plain_output import plain_output
print("before")
with plain_output():
    print("\033[92mINFO\033[0m : here", flush=True)
    os.write(1, b"cut \033[9"); time.sleep(0.05); os.write(1, b"2m" b"in two\033[0m\n")
    for stream, said in (("stdout", r"\033[91mERROR\033[0m : a child\n"), ("stderr", r"\033[1;31mtold\033[m\n")):
        subprocess.run([sys.executable, "-c", f"import sys; sys.{stream}.write('{said}')"], check=True)
print("\033[1mafter\033[0m")
"""


def test_codes_of_this_process_and_its_children_are_left_out() -> None:
    done = subprocess.run([sys.executable, "-u", "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == "before\nINFO : here\ncut in two\nERROR : a child\n\x1b[1mafter\x1b[0m\n"
    assert done.stderr == "told\n"
