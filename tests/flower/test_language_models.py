"""A language model over Flower's Grid trains the same adapters, bit for bit, as in one process."""

from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

import fibecfed
from fibecfed.config import DeviceConfig
from fibecfed.doctor.machines import check_device
from fibecfed.flower.over_machines import serve
from fibecfed.flower.serving import DeviceServer
from fibecfed.results import RunDirectory
from flower_grid import Nodes
from flower_sites import NAMES, same_adapters, servers
from tasks.instructions import folder, records, settings, write


@pytest.mark.parametrize("method", ["fedavg-lora", "fibecfed"])
def test_same_bits_as_in_one_process(tmp_path: Path, method: str) -> None:
    rows = records(60)
    for part in ("sites", "tests"):
        (tmp_path / part).mkdir()
    for number, name in enumerate(NAMES):
        write(tmp_path / "sites" / f"{name}.jsonl", rows[number * 20 : number * 20 + 12])
        write(tmp_path / "tests" / f"{name}.jsonl", rows[number * 20 + 12 : number * 20 + 20])
    config = settings(
        tmp_path / "sites",
        method=method,
        data={"test_file": str(tmp_path / "tests"), "validation_fraction": 0.0, "partition": {"kind": "column"}},
        federation={"devices": 3, "sampled": 2, "rounds": 3},
        evaluation={"generate": ["exact_match", "final_number"], "generate_examples": 2, "generate_tokens": 1},
    )
    one = fibecfed.run(config, tmp_path / "one")
    nodes = Nodes(
        {
            100 + number: DeviceServer(
                DeviceConfig(
                    device=number,
                    folder=str(tmp_path / "own" / name),
                    data={  # type: ignore[arg-type]
                        "file": str(tmp_path / "sites" / f"{name}.jsonl"),
                        "test_file": str(tmp_path / "tests" / f"{name}.jsonl"),
                    },
                    model={"name": str(folder("llama"))},  # type: ignore[arg-type]
                ),
                lambda line: None,
            )
            for number, name in enumerate(NAMES)
        }
    )
    RunDirectory.create(tmp_path / "grid", servers(config), "", force=False)
    state = serve(nodes, tmp_path / "grid", [], lambda line: None, poll_seconds=0.01).state
    same_adapters(tmp_path / "one", tmp_path / "grid", [tmp_path / "own" / name for name in NAMES])
    assert state.info == one.state.info
    for mine, theirs in zip(RunDirectory(tmp_path / "grid").metrics(), one.metrics, strict=True):
        assert mine["token_accuracy_personalized"] == pytest.approx(theirs["token_accuracy_personalized"], abs=1e-12)
        for name in ("exact_match_global", "exact_match_personalized", "final_number_global"):
            assert mine[name] == theirs[name]
        assert mine["perplexity_personalized"] == pytest.approx(theirs["perplexity_personalized"])


def test_the_doctor_reads_a_sites_prompts(tmp_path: Path) -> None:
    file = write(tmp_path / "asked.jsonl", [{"prompt": "a", "response": "b"}] * 3)
    own = DeviceConfig(device=0, folder=str(tmp_path / "own"), data={"file": str(file)})  # type: ignore[arg-type]
    found = [finding for finding in check_device(own, tmp_path, []) if finding.subject == "data"]
    assert [(f.text.split(": ")[1], f.fix) for f in found] == [
        ("3 prompts with responses, for a server with task.kind=causal-lm", None)
    ]
