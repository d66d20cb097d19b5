"""The commands of docs/instruction-tuning.md, in order, on a tiny decoder and a file of a few prompts."""

import json
import re
import shlex
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import tiny
from fibecfed.cli.app import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "instruction-tuning.md").read_text(encoding="utf-8")
BLOCKS = re.compile(r"<!-- run by tests/tasks/test_instruction_page\.py -->\n```bash\n(.*?)```", re.DOTALL)


def test_its_commands_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [line for path in sorted((ROOT / "examples/instructions/sites").glob("*")) for line in path.open()][:40]
    Path("asked.jsonl").write_text("".join(rows))
    Path("questions.jsonl").write_text("".join(rows[:2]))
    commands = [line for block in BLOCKS.findall(PAGE) for line in block.replace("\\\n", "").splitlines()]
    assert len(commands) == 8
    for command in commands:
        asked, _, called = command.rpartition(" | ")
        given = shlex.split(asked)[1].replace("\\n", "\n") if asked else "Hello\n"
        _, *arguments = shlex.split(called)
        if arguments[0] == "run":
            decoder = tiny.folder("llama", auto=AutoModelForCausalLM)
            arguments = [word.replace("/models/a-decoder", str(decoder)) for word in arguments]
            arguments += ["federation.devices=3", "federation.rounds=1", "federation.sampled=3", "lora.rank=2"]
        elif arguments[0] in ("predict", "chat"):  # the tiny decoder has few places
            arguments = [word for word in arguments if word not in ("--max-new-tokens", "100")] + [
                "--max-new-tokens",
                "4",
            ]
        done = CliRunner().invoke(app, arguments, input=given, env={"COLUMNS": "120"})
        assert done.exit_code == 0, f"{command}\n{done.output}"
    assert len([json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]) == 2
    assert Path("models/asked/model.safetensors").is_file() and Path("models/of-device-0").is_dir()
