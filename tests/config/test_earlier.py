"""What version 0.1 wrote means what it meant: its `dirichlet` is `dirichlet-hsu`, and never the one of today."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import fibecfed
import tiny
from fibecfed import InputError, load_config
from fibecfed.comparison.records import same_settings
from fibecfed.config import WarmUpConfig, as_meant, dotted, to_dict, to_yaml

RESULTS = Path(__file__).resolve().parents[2] / "results"
SINCE = ("size_alpha", "habits")


def as_written(**data: Any) -> dict[str, Any]:
    """All settings as version 0.1 wrote them."""
    content = to_dict(load_config(data=data))
    content["data"]["partition"] = {k: v for k, v in content["data"]["partition"].items() if k not in SINCE}
    content["warm_up"]["accuracy"] = 0.6
    return content


@pytest.mark.parametrize(
    ("kind", "file", "expected"),
    [
        ("dirichlet", None, "dirichlet-hsu"),
        ("dirichlet", "sites/", "dirichlet-hsu"),
        (None, None, "dirichlet-hsu"),
        (None, "rows.csv", "dirichlet-hsu"),
        (None, "sites/", None),  # the files are the devices
        ("iid", None, "iid"),
        ("column", "sites/", "column"),
    ],
)
def test_settings_of_then(kind: Any, file: str | None, expected: str | None) -> None:
    written = as_written(file=file, partition={"kind": kind, "alpha": 0.3})
    found = as_meant(written)
    assert found["data"]["partition"] == {**written["data"]["partition"], "kind": expected}
    was = {key: value for key, value in dotted(load_config(data=written["data"])).items() if key[15:] not in SINCE}
    assert as_meant({**was, "warm_up.accuracy": 0.6}) == {**was, "data.partition.kind": expected}


def test_a_warm_ups_accuracy_means_something_else_now() -> None:
    written = as_written()
    assert as_meant(written)["warm_up"]["accuracy"] == WarmUpConfig().accuracy
    written["warm_up"]["accuracy"] = 0.8
    with pytest.raises(InputError, match=r"warm_up\.accuracy=0\.8 was written by version 0\.1"):
        as_meant(written)


@pytest.mark.parametrize("kind", [None, "dirichlet", "dirichlet-hsu"])
def test_settings_of_today_stay(kind: Any, tmp_path: Path) -> None:
    config = load_config(data={"partition": {"kind": kind}})
    assert as_meant(to_dict(config)) == to_dict(config)
    assert as_meant(dotted(config)) == dotted(config)
    (tmp_path / "whole.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "whole.yaml") == config
    (tmp_path / "by_hand.yaml").write_text(yaml.safe_dump({"data": {"partition": {"kind": kind, "alpha": 0.1}}}))
    assert load_config(tmp_path / "by_hand.yaml").data.partition.kind == kind


def test_committed_runs_are_what_they_were() -> None:
    found = sorted((RESULTS / "trec-spine").glob("*.yaml"))
    assert found
    assert {load_config(path).data.partition.kind for path in found} == {"dirichlet-hsu"}
    record = min((RESULTS / "trec" / "records").glob("*--seed-0.json"))
    stored = json.loads(record.read_text(encoding="utf-8"))["config"]
    assert stored["data"]["partition"]["kind"] == "dirichlet"
    today = as_meant(stored)
    assert same_settings(stored, load_config(**today))
    assert not same_settings(stored, load_config(**today, overrides=["data.partition.kind=dirichlet"]))


def test_a_run_of_then_goes_on_as_it_began_and_not_otherwise(tmp_path: Path) -> None:
    data = {"partition": {"kind": "dirichlet-hsu", "alpha": 0.3}, "train_examples": 60, "test_examples": 30}
    config = load_config(
        method="fedavg-lora",
        data={"max_length": 16, **data},
        federation={"devices": 5, "sampled": 2, "rounds": 2},
        model={"name": str(tiny.folder("bert", 2))},
        training={"schedule": "constant"},
    )
    whole = fibecfed.run(config, tmp_path / "whole").summary
    begun = tmp_path / "begun"
    fibecfed.run(load_config(**{**to_dict(config), "federation": {"devices": 5, "sampled": 2, "rounds": 1}}), begun)
    settings = yaml.safe_load((begun / "config.yaml").read_text())
    for key in SINCE:
        del settings["data"]["partition"][key]
    settings["data"]["partition"]["kind"], settings["warm_up"]["accuracy"] = "dirichlet", 0.6
    (begun / "config.yaml").write_text(yaml.safe_dump(settings))
    fingerprint = json.loads((begun / "fingerprint.json").read_text())
    for key in SINCE:
        del fingerprint["settings"][f"data.partition.{key}"]
    fingerprint["settings"] |= {"data.partition.kind": "dirichlet", "warm_up.accuracy": 0.6}
    (begun / "fingerprint.json").write_text(json.dumps(fingerprint))
    with pytest.raises(InputError, match=r'partition\.kind was "dirichlet-hsu", now "dirichlet"'):
        fibecfed.resume(begun, changes={"data": {"partition": {"kind": "dirichlet"}}})
    gone_on = fibecfed.resume(begun, changes={"federation": {"rounds": 2}}, report=lambda _: None).summary
    assert gone_on["accuracy"] == whole["accuracy"]
    assert gone_on["data_print"]["devices"] == whole["data_print"]["devices"]
    assert yaml.safe_load((begun / "config.yaml").read_text())["data"]["partition"]["kind"] == "dirichlet-hsu"
