"""A comparison's file: what it expands to, and every mistake that is found before the first run."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fibecfed import InputError
from fibecfed.comparison import load_spec
from fibecfed.comparison.spec import Setting, final_runs, tuning_runs

SPECS = sorted((Path(__file__).resolve().parents[2] / "experiments").glob("*.yaml"))
ALIAS = {"name": "x", "method": "fibecfed", "settings": {"curriculum": {"score": "fisher"}}}  # which is the default
GOOD: dict[str, Any] = {"methods": ["fibecfed", "fedavg-lora"], "data_sets": ["support"], "seeds": [0, 1]}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "spec.yaml"
    content = {key: value for key, value in (GOOD | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_every_combination_is_one_run(tmp_path: Path) -> None:
    partitions = [
        {"name": "skewed", "settings": {"data": {"partition": {"alpha": 0.1}}}},
        {"name": "iid", "settings": {"data": {"partition": {"kind": "iid"}}}},
    ]
    spec = load_spec(written(tmp_path, data_sets=["trec", "mr"], partitions=partitions))
    runs = final_runs(spec, {})
    assert len({run.name for run in runs}) == len(runs) == 2 * 2 * 2 * 2
    run = next(r for r in runs if r.name == "mr--skewed--fedavg-lora--seed-1")
    config = run.config
    assert (config.data.name, config.data.partition.alpha, config.method, config.seed) == ("mr", 0.1, "fedavg-lora", 1)
    assert config.evaluation.split == "test"


def test_settings_of_a_method_win_over_those_of_the_base(tmp_path: Path) -> None:
    methods = ["fibecfed", {"name": "wide", "method": "fibecfed", "settings": {"lora": {"rank": 32}}}]
    spec = load_spec(written(tmp_path, methods=methods, base={"lora": {"rank": 4, "alpha": 2}}))
    ranks = {run.entry: (run.config.lora.rank, run.config.lora.alpha) for run in final_runs(spec, {})}
    assert ranks == {"fibecfed": (4, 2.0), "wide": (32, 2.0)}


def test_rates_are_tuned_on_validation_with_one_seed_and_then_given_to_every_seed(tmp_path: Path) -> None:
    spec = load_spec(written(tmp_path, learning_rates=[0.001, 0.01], tuning_seed=7))
    tuning = tuning_runs(spec)
    assert len(tuning) == 2 * 2
    assert {(r.config.evaluation.split, r.seed) for r in tuning} == {("validation", 7)}
    assert {r.config.training.learning_rate for r in tuning} == {0.001, 0.01}
    final = final_runs(spec, {(Setting("support", "base"), "fibecfed"): {"global": 0.01, "personalized": 0.01}})
    assert {(r.entry, r.config.training.learning_rate, r.config.evaluation.split) for r in final} == {
        ("fibecfed", 0.01, "test")
    }


def test_overrides_change_the_base(tmp_path: Path) -> None:
    spec = load_spec(written(tmp_path, base={"federation": {"rounds": 9}}), ["federation.rounds=3", "lora.rank=2"])
    assert {(r.config.federation.rounds, r.config.lora.rank) for r in final_runs(spec, {})} == {(3, 2)}


def test_overrides_change_the_comparisons_own_keys(tmp_path: Path) -> None:
    path = written(tmp_path, target={"support": 0.5})
    spec = load_spec(path, ["seeds=[0,1,2]", "methods=[local-only]", "target.support=0.75", "base.lora.rank=2"])
    assert (spec.seeds, [entry.name for entry in spec.methods]) == ([0, 1, 2], ["local-only"])
    assert (spec.target_of("support"), spec.base["lora"]["rank"]) == (0.75, 2)
    spec = load_spec(path, ["learning_rates=[0.001,0.01]", "tuning_seed=4", "chosen_by=personalized"])
    assert (spec.learning_rates, spec.tuning_seed, spec.chosen_by) == ([0.001, 0.01], 4, "personalized")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds=3", r"Key 'seeds' cannot be 3: .*on the command line seeds=\[0,1,2\]"),
        ("seeds=[a]", r"Key 'seeds.0' cannot be 'a'"),
        ("methods=local-only", r"Key 'methods' must be a list.*on the command line methods=\[ONE,ANOTHER\]"),
        ("target_rate=1", "Unknown key 'target_rate'. Did you mean 'target'"),
        ("rank=2", "Unknown key 'rank'. Did you mean 'lora.rank'"),
        ("metods=[x]", "Unknown key 'metods'. Did you mean 'methods'"),
        ("seed=3", "Key 'seed' in base is set by the comparison itself; use seeds"),
        ("federation.round=3", "Unknown key 'federation.round'. Did you mean 'federation.rounds'"),
        ("privacy.epsilon=3", "Unknown key 'privacy'. fibecfed adds no differential privacy"),
    ],
)
def test_a_wrong_override_is_one_sentence(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_spec(written(tmp_path), [override])


def test_the_page_shows_an_own_file_as_a_data_set(tmp_path: Path) -> None:
    page = (SPECS[0].parents[1] / "docs" / "comparing.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "data_sets:" in b]
    (tmp_path / "own.yaml").write_text(block)
    data = {run.setting.data_set: run.config.data for run in final_runs(load_spec(tmp_path / "own.yaml"), {})}
    assert (data["mine"].file, data["mine"].text, data["mine"].label) == ("messages.csv", "body", "topic")
    assert (data["support"].file, data["support"].name) == (None, "support")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["fibecfd"]}, "Unknown method 'fibecfd'.* Did you mean 'fibecfed'"),
        ({"metods": ["fibecfed"]}, "Unknown key 'metods'. Did you mean 'methods'"),
        ({"methods": []}, "'methods' must be a list with at least one method"),
        ({"data_sets": "support"}, "'data_sets' must be a list"),
        ({"seeds": []}, "'seeds' is empty"),
        ({"seeds": None}, "'seeds' is missing"),
        ({"seeds": [0, 0]}, "Duplicate run: seed 0 is listed twice"),
        ({"methods": ["fibecfed", "fibecfed"]}, "Duplicate run: method 'fibecfed' is listed twice"),
        (
            {"methods": ["fibecfed", ALIAS]},
            "Duplicate run: 'support--base--x--seed-0' has the same settings as 'support--base--fibecfed--seed-0'",
        ),
        ({"learning_rates": []}, "'learning_rates' is an empty grid"),
        ({"learning_rates": [0.1, 0.1]}, "Duplicate run: learning rate '0.1'"),
        ({"learning_rates": [-1]}, "'learning_rates.0' cannot be -1"),
        (
            {"methods": ["fibecfed", {"name": "fedavg-lora", "learning_rates": [0.1]}], "learning_rates": [0.1, 0.2]},
            "'fedavg-lora' has a grid of 1 learning rates and the others have 2",
        ),
        ({"methods": [{"name": "fibecfed", "setings": {}}]}, "Unknown key 'methods.setings'. Did you mean 'settings'"),
        ({"methods": [{"method": "fibecfed"}]}, "has no name"),
        ({"methods": ["a b"]}, "part of file names"),
        ({"base": {"federation": {"round": 3}}}, "Unknown key 'federation.round'. Did you mean 'federation.rounds'"),
        ({"base": {"seed": 3}}, "Key 'seed' in base is set by the comparison itself; use seeds"),
        ({"base": {"evaluation": {"split": "test"}}}, "Key 'evaluation.split' in base"),
        ({"base": {"training": {"learning_rate": 1}}, "learning_rates": [0.1]}, "Key 'training.learning_rate' in base"),
        ({"target": "final accuracy of fedavg"}, "Key 'target' cannot be .* Did you mean 'fedavg-lora'"),
        ({"target": 80}, "Key 'target' cannot be 80"),
        ({"target": {"trec": 0.8}}, "'target.trec' names no data set"),
        ({"base": {"federation": {"devices": 3, "sampled": 5}}}, "federation.sampled is 5 but there are only 3 dev"),
    ],
)  # fmt: skip
def test_mistake_is_one_sentence(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_spec(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_spec(tmp_path / "none.yaml")


def test_there_are_specs() -> None:
    assert {p.stem for p in SPECS} >= {"smoke", "trec", "ablation", "heterogeneity", "network", "paper"}


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_spec_of_the_repository_is_valid_and_says_how_to_run_it(path: Path) -> None:
    spec = load_spec(path)
    assert spec.settings()
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    assert f"fibecfed compare experiments/{path.name} --out " in first
