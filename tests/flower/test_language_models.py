"""A language model over Flower's Grid trains the same adapters, bit for bit, as in one process."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

pytest.importorskip("flwr", reason="needs the extra `flower`")

import fibecfed
from fibecfed.config import COLUMNS, DeviceConfig, shared_settings
from fibecfed.doctor.machines import check_device
from fibecfed.errors import RunFailed
from fibecfed.flower.over_machines import serve
from fibecfed.flower.serving import DeviceServer
from fibecfed.methods import resolve
from fibecfed.results import RunDirectory
from flower_grid import Nodes
from flower_sites import NAMES, same_adapters, servers
from tasks.instructions import folder, records, settings, write

OWN_COLUMNS: dict[str, dict[str, str]] = {  # of each site
    "east": {},
    "north": {"prompt": "question", "response": "answer", "group": "kind"},
    "west": {"messages": "turns"},
}


def as_named(row: dict[str, str], columns: dict[str, str]) -> dict[str, Any]:
    """A row as a site writes it whose columns have names of their own."""
    if "messages" in columns:
        turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
        return {columns["messages"]: turns}
    return {columns.get(key, key): row[key] for key in ("prompt", "response")} | {columns.get("group", "topic"): "a"}


def written(where: Path, columns: dict[str, dict[str, str]]) -> Path:
    """sites/NAME.jsonl and tests/NAME.jsonl, each with its own columns."""
    rows = records(60)
    for part in ("sites", "tests"):
        (where / part).mkdir(parents=True)
    for number, name in enumerate(NAMES):
        mine = [as_named(row, columns.get(name, {})) for row in rows[number * 20 : number * 20 + 20]]
        write(where / "sites" / f"{name}.jsonl", mine[:12])
        write(where / "tests" / f"{name}.jsonl", mine[12:])
    return where


def device(where: Path, number: int, own: Path, report: list[str], model: Path | None = None) -> DeviceServer:
    name = NAMES[number]
    files = {key: str(where / part / f"{name}.jsonl") for key, part in (("file", "sites"), ("test_file", "tests"))}
    content: Any = {
        "data": {**files, **OWN_COLUMNS[name]},
        "model": {"name": str(model or folder("llama"))},
    }
    return DeviceServer(DeviceConfig(device=number, folder=str(own / name), **content), report.append)


@pytest.mark.parametrize("method", ["fedavg-lora", "fibecfed"])
def test_sites_with_columns_of_their_own_have_the_same_bits_as_in_one_process(tmp_path: Path, method: str) -> None:
    alike, differing = written(tmp_path / "alike", {}), written(tmp_path / "differing", OWN_COLUMNS)
    config = settings(
        alike / "sites",
        method=method,
        data={"test_file": str(alike / "tests"), "validation_fraction": 0.0, "partition": {"kind": "column"}},
        federation={"devices": 3, "sampled": 2, "rounds": 3},
        evaluation={"generate": ["exact_match", "final_number"], "generate_examples": 2, "generate_tokens": 1},
    )
    one = fibecfed.run(config, tmp_path / "one")
    said: list[str] = []
    nodes = Nodes({100 + number: device(differing, number, tmp_path / "own", said) for number in range(3)})
    RunDirectory.create(tmp_path / "grid", servers(config), "", force=False)
    state = serve(nodes, tmp_path / "grid", [], lambda line: None, poll_seconds=0.01).state
    same_adapters(tmp_path / "one", tmp_path / "grid", [tmp_path / "own" / name for name in NAMES])
    assert state.info == one.state.info
    for mine, theirs in zip(RunDirectory(tmp_path / "grid").metrics(), one.metrics, strict=True):
        assert mine["token_accuracy_personalized"] == pytest.approx(theirs["token_accuracy_personalized"], abs=1e-12)
        for name in ("exact_match_global", "exact_match_personalized", "final_number_global"):
            assert mine[name] == theirs[name]
        assert mine["perplexity_personalized"] == pytest.approx(theirs["perplexity_personalized"])
    assert sum("Note: The tokenizer has no chat template; this plain one" in line for line in said) == 3


def test_what_a_server_calls_its_columns_reads_no_column_of_a_site() -> None:
    config = settings(Path("x.jsonl"), data={"prompt": "secret", "response": "notes", "context": "more"})
    told = DeviceConfig(data={"file": "y.jsonl"}).apply(shared_settings(resolve(config)))  # type: ignore[arg-type]
    assert [told["data"][key] for key in COLUMNS] == [None] * len(COLUMNS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chat_template": "{% for turn in messages %}{{ turn['content'] + ' ' }}{% endfor %}"}, "The chat templates"),
        ({"eos_token": "thank"}, "The chat templates differ, or the special tokens"),
        ({"model_max_length": 63}, "The tokenizers differ"),
    ],
    ids=["template", "end token", "tokenizer"],
)
def test_a_site_that_would_read_other_tokens_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    where = written(tmp_path, OWN_COLUMNS)
    other = tmp_path / "model"
    shutil.copytree(folder("llama"), other)
    tokenizer = AutoTokenizer.from_pretrained(other)
    for key, value in change.items():
        setattr(tokenizer, key, value)
    tokenizer.save_pretrained(other)
    config = servers(settings(where / "sites", federation={"devices": 1, "sampled": 1, "deadline_seconds": 1.0}))
    RunDirectory.create(tmp_path / "grid", config, "", force=False)
    reported: list[str] = []
    nodes = Nodes({100: device(where, 0, tmp_path / "own", reported, other)})
    with pytest.raises(RunFailed):
        serve(nodes, tmp_path / "grid", [], lambda line: None, poll_seconds=0.01)
    assert any(said in line for line in reported), reported


def test_the_doctor_reads_a_sites_prompts(tmp_path: Path) -> None:
    file = write(tmp_path / "asked.jsonl", [{"prompt": "a", "response": "b"}] * 3)
    own = DeviceConfig(device=0, folder=str(tmp_path / "own"), data={"file": str(file)})  # type: ignore[arg-type]
    found = [finding for finding in check_device(own, tmp_path, []) if finding.subject == "data"]
    assert [(f.text.split(": ")[1], f.fix) for f in found] == [
        ("3 prompts with responses, for a server with task.kind=causal-lm", None)
    ]


def test_the_doctor_reads_the_columns_that_a_site_names(tmp_path: Path) -> None:
    file = write(tmp_path / "asked.jsonl", [{"q": "a", "a": "b"}, {"q": "a", "a": ""}, {"q": "", "a": "b"}])
    data: Any = {"file": str(file), "prompt": "q", "response": "a"}
    own = DeviceConfig(folder=str(tmp_path / "own"), data=data, model={"name": str(folder("llama"))})  # type: ignore[arg-type]
    found = {finding.subject: finding for finding in check_device(own, tmp_path, [])}
    assert found["columns"].text == "prompt 'q', response 'a'; responses are learned"
    assert found["data"].fix is not None and found["rows"].text.startswith("2 of the 3 rows")
    assert found["template"].text.startswith("The tokenizer has no chat template; this plain one")
