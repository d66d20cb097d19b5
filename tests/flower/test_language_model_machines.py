"""A language model with a server and two devices, each a process of its own, over TLS: the bits of one process."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("flwr", reason="needs the extra `flower`")

import fibecfed
from fibecfed.config import build_config, merge, to_dict, to_yaml
from fibecfed.flower.processes import free_port
from flower.test_deployment import PATIENCE, device_words, logs, run_words, server_words, started, wait_for
from flower_sites import same_adapters
from tasks.instructions import folder, records, settings, write

COLUMNS = ({"prompt": "prompt", "response": "response"}, {"prompt": "question", "response": "answer"})


def written(where: Path, names: tuple[dict[str, str], ...]) -> Path:
    """sites/N.jsonl and tests/N.jsonl, each site with its own names of columns."""
    rows = records(40)
    for number, columns in enumerate(names):
        mine = [{columns[key]: row[key] for key in columns} for row in rows[number * 20 : number * 20 + 20]]
        for part, some in (("sites", mine[:12]), ("tests", mine[12:])):
            (where / part).mkdir(parents=True, exist_ok=True)
            write(where / part / f"{number}.jsonl", some)
    return where


@pytest.mark.long
@pytest.mark.timeout(300 * PATIENCE)
def test_two_devices_over_tls_have_the_bits_of_one_process(tmp_path: Path) -> None:
    alike, own = written(tmp_path / "alike", (COLUMNS[0],) * 2), written(tmp_path / "own", COLUMNS)
    config = settings(
        alike / "sites",
        method="fibecfed",
        data={"test_file": str(alike / "tests"), "validation_fraction": 0.0, "partition": {"kind": "column"}},
        federation={"devices": 2, "sampled": 2, "rounds": 2},
    )
    fibecfed.run(config, tmp_path / "one")
    textless: dict[str, Any] = {
        "task": {"kind": "causal-lm"},
        "data": {"file": None, "test_file": None, "prompt": None, "partition": {"kind": None}},
        "federation": {"deadline_seconds": 60.0 * PATIENCE},
    }
    (tmp_path / "run.yaml").write_text(to_yaml(build_config(merge(to_dict(config), textless)), ""))
    with started(
        tmp_path / "made.log", "certificates", "localhost", "--devices", "2", "--server", str(tmp_path / "server")
    ) as made:
        assert made.wait(60) == 0, made.said()
    for number, columns in enumerate(COLUMNS):
        files = {"file": str(own / "sites" / f"{number}.jsonl"), "test_file": str(own / "tests" / f"{number}.jsonl")}
        content = {"device": number, "data": {**files, **columns}, "model": {"name": str(folder("llama"))}}
        (tmp_path / "server" / "devices" / str(number) / "device.yaml").write_text(yaml.safe_dump(content))
    port = free_port()
    with ExitStack() as stack:
        server = stack.enter_context(started(tmp_path / "server.log", *server_words(tmp_path, port)))
        wait_for("listening", lambda: "Listening" in server.said(), 60, server)
        devices = [
            stack.enter_context(started(tmp_path / f"{number}.log", *device_words(tmp_path, number, port)))
            for number in range(2)
        ]
        words = run_words(tmp_path, str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run"))
        run = stack.enter_context(started(tmp_path / "run.log", *words))
        assert run.wait(200) == 0, logs(server, run, *devices)
    folders = [tmp_path / "server" / "devices" / str(number) / "device" for number in range(2)]
    same_adapters(tmp_path / "one", tmp_path / "run", folders)
    assert all("Note: The tokenizer has no chat template" in device.said() for device in devices)
