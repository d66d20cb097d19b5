"""Kill -9 of the run of a language model in its rounds, then resume: no bit differs."""

import os
import signal
import time
from pathlib import Path

import fibecfed
import forking
from fibecfed.config import to_yaml
from run_content import content
from tasks.instructions import records, settings, write


def test_a_killed_run_of_a_language_model_goes_on_bit_for_bit(tmp_path: Path) -> None:
    file = write(tmp_path / "asked.jsonl", records(40))
    config = settings(file, method="fibecfed", federation={"rounds": 8}, training={"keep_optimizer": True})
    fibecfed.run(config, tmp_path / "whole")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    cut = tmp_path / "cut"
    process = forking.Popen(
        ["-m", "fibecfed", "run", str(tmp_path / "config.yaml"), "--out", str(cut)],
        stdout=forking.PIPE, stderr=forking.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while process.poll() is None and not (cut / "checkpoint.safetensors").is_file():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, output
    assert not (cut / "summary.json").is_file()
    fibecfed.resume(cut)
    assert content(cut) == content(tmp_path / "whole")
