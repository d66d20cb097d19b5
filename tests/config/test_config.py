"""Settings: bounds, defaults, YAML and back, overrides, and what is said about a wrong one."""

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given, settings
from hypothesis import strategies as st

import fibecfed
from fibecfed.config import Config, build_config, config_hash, keys, load_config, merge, nearest_hint, to_dict, to_yaml
from fibecfed.config.loading import parse_overrides
from fibecfed.errors import InputError

SOME = settings(max_examples=60, deadline=None, derandomize=True)


def leaves(cls: type, prefix: str = "") -> Iterator[tuple[str, type, str]]:
    """Dotted name, owning class and field name of every setting, from the dataclasses alone."""
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.type):
            yield from leaves(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, cls, field.name


LEAVES = list(leaves(Config))


def value_of(config: Config, name: str) -> Any:
    found: Any = config
    for part in name.split("."):
        found = getattr(found, part)
    return found


def nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


# Listing


def test_every_field_is_listed_once_with_default_and_meaning() -> None:
    listed = list(keys())
    assert [k.name for k in listed] == [name for name, _, _ in LEAVES]
    for key in listed:
        assert key.default == value_of(Config(), key.name), key.name
        assert len(key.meaning) > 15 and key.meaning.endswith((".", "].")), key.name


def test_choices_are_listed_also_where_none_or_a_number_is_allowed() -> None:
    choices = {k.name: k.choices for k in keys()}
    assert choices["data.partition.kind"] == "dirichlet | dirichlet-hsu | iid | shards | quantity | column"
    assert choices["sharing.count"] == "functional | lossless | plateau | sites"
    assert choices["sharing.rows"] == "fisher | random | dense | none"
    assert choices["seed"] == ""


def test_every_listed_choice_is_accepted_and_no_other() -> None:
    for key in keys():
        for word in filter(None, key.choices.split(" | ")):
            given: Any = [word] if key.name in LISTS else word
            values = merge(nested(key.name, given), needed_by(key.name, word))
            assert value_of(build_config(values), key.name) == given
        if key.name in LISTS:
            with pytest.raises(InputError, match="elephant"):
                build_config(nested(key.name, ["elephant"]))
        elif key.choices:
            with pytest.raises(InputError, match=rf"Key '{re.escape(key.name)}' cannot be 'elephant'"):
                build_config(nested(key.name, "elephant"))


LISTS = ("evaluation.generate",)  # keys that take several of their choices


def needed_by(name: str, word: str) -> dict[str, Any]:
    if name == "evaluation.generate" or (name, word) == ("data.train_on", "all"):
        return {"task": {"kind": "causal-lm"}, "data": {"name": "gsm8k"}}
    if (name, word) == ("model.quantization", "4bit"):
        return {"runtime": {"device": "cuda"}, "task": {"kind": "causal-lm"}, "data": {"name": "gsm8k"}}
    return {"data": {"validation_fraction": 0.1}} if (name, word) == ("evaluation.split", "validation") else {}


def test_every_key_is_read_outside_the_schema() -> None:
    """There is no setting that does nothing."""
    source = Path(fibecfed.__file__).parent
    code = "\n".join(p.read_text() for p in source.rglob("*.py") if p.parent.name != "config")
    unread = [name for name, _, field in LEAVES if not re.search(rf"\.{field}\b", code)]
    assert not unread


# Bounds


def bounds() -> Iterator[tuple[str, Any]]:
    """Every bounded key with a value just outside each of its bounds."""
    for name, cls, field in LEAVES:
        info = cls.__pydantic_fields__[field]  # type: ignore[attr-defined]
        whole = info.annotation in (int, int | None)
        for limit in info.metadata:
            if isinstance(limit, Ge):
                yield name, limit.ge - 1 if whole else math.nextafter(limit.ge, -math.inf)
            elif isinstance(limit, Gt | Lt):
                yield name, limit.gt if isinstance(limit, Gt) else limit.lt
            elif isinstance(limit, Le):
                yield name, math.nextafter(limit.le, math.inf)


def test_values_out_of_bounds_are_refused_by_name() -> None:
    found = list(bounds())
    assert len(found) > 40
    for name, value in found:
        with pytest.raises(InputError, match=rf"Key '{re.escape(name)}' cannot be {re.escape(repr(value))}"):
            build_config(nested(name, value))


def test_not_a_number_is_no_number() -> None:
    for name, value in bounds():
        if isinstance(value, float):
            with pytest.raises(InputError, match=re.escape(name)):
                build_config(nested(name, math.nan))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"data": {"partition": {"alpha": -1}}}, "Key 'data.partition.alpha' cannot be -1"),
        ({"federation": {"rounds": "many"}}, "Key 'federation.rounds' cannot be 'many': Input should be"),
        ({"federation": {"rounds": 2.5}}, "Key 'federation.rounds' cannot be 2.5"),
        ({"federation": {"rounds": None}}, "Key 'federation.rounds' cannot be None"),
        ({"federation": 3}, "Key 'federation' is a section with keys of its own, not the value 3."),
        ({"federation": {"rounds": {"x": 1}}}, "Key 'federation.rounds' cannot be {'x': 1}"),
        ({"lora": {"targets": 3}}, "Key 'lora.targets' cannot be 3"),
        ({"data": {"text": 3}}, "Key 'data.text' cannot be 3: Input should be a valid string."),
        ({"data": {"separator": ", "}}, "Key 'data.separator' cannot be ', '"),
        ({"federation": {"sampled": 6, "devices": 5}}, "federation.sampled is 6 but there are only 5 devices"),
        ({"federation": {"minimum_replies": 6}}, "federation.minimum_replies is 6 but only 5 devices are asked"),
        (
            {"training": {"momentum": 0.9, "optimizer": "adamw"}},
            "training.momentum only applies to training.optimizer=sgd",
        ),
        (
            {"evaluation": {"split": "validation"}, "data": {"validation_fraction": 0}},
            "evaluation.split=validation needs data.validation_fraction above 0",
        ),
    ],
)  # fmt: skip
def test_wrong_values(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        build_config(values)


# Unknown keys


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("federation.round", "Did you mean 'federation.rounds'?"),
        ("fedration.rounds", "Did you mean 'federation.rounds'?"),
        ("data.partition.alhpa", "Did you mean 'data.partition.alpha'?"),
        ("seeed", "Did you mean 'seed'?"),
        ("rank", "Did you mean 'lora.rank'?"),
        ("training.rank", "Did you mean 'lora.rank'?"),
        ("data.alpha", "Did you mean 'data.partition.alpha' or 'lora.alpha'?"),
        ("lora.kind", "Did you mean 'task.kind' or 'data.partition.kind'?"),
        ("training.namee", "Did you mean"),
        ("qqqqqqqqq", ""),
    ],
)
def test_unknown_keys_name_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(InputError) as raised:
        build_config(nested(name, 1))
    unknown = name.split(".")[0] if name.startswith("fedration") else name
    assert str(raised.value).startswith(f"Unknown key '{unknown}'.")
    assert hint in str(raised.value)
    assert bool(hint) == ("Did you mean" in str(raised.value))


def test_the_section_that_was_named_comes_first() -> None:
    names = [name for name, _, _ in LEAVES]
    assert nearest_hint("lora.more.alpha", names) == " Did you mean 'lora.alpha' or 'data.partition.alpha'?"


def test_every_key_is_found_again_from_one_wrong_letter() -> None:
    names = [name for name, _, _ in LEAVES]
    wrong = 0
    for name in names:
        broken = name[:-2] + "x" + name[-1]
        wrong += f"'{name}'" not in nearest_hint(broken, names)
    assert wrong <= len(names) // 10  # a few short names are nearer to another


# Overrides


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("federation.rounds=3", {"federation": {"rounds": 3}}),
        (" federation.rounds = 3", {"federation": {"rounds": 3}}),
        ("training.learning_rate=1e-3", {"training": {"learning_rate": "1e-3"}}),
        ("data.allow_download=true", {"data": {"allow_download": True}}),
        ("lora.targets=[query, value]", {"lora": {"targets": ["query", "value"]}}),
        ("data.partition={kind: shards, shards_per_device: 3}",
         {"data": {"partition": {"kind": "shards", "shards_per_device": 3}}}),
        ("data.file=None", {"data": {"file": None}}),
        ("data.file=null", {"data": {"file": None}}),
        ("data.file=~", {"data": {"file": None}}),
        ("data.file=", {"data": {"file": None}}),
        ("data.file='None'", {"data": {"file": "None"}}),
        ("data.file=a=b.csv", {"data": {"file": "a=b.csv"}}),
        ("data.text=my column", {"data": {"text": "my column"}}),
        ("data.text=0", {"data": {"text": "0"}}),
        ("data.label=yes", {"data": {"label": "yes"}}),
        ("data.label=2024-01-01", {"data": {"label": "2024-01-01"}}),
        ("data.separator=;", {"data": {"separator": ";"}}),
        ("data.separator=|", {"data": {"separator": "|"}}),
        ("data.separator=#", {"data": {"separator": "#"}}),
        ("data.separator=\t", {"data": {"separator": "\t"}}),
        ('data.separator="\\t"', {"data": {"separator": "\t"}}),
        ("data.text=[unclosed", {"data": {"text": "[unclosed"}}),
    ],
)  # fmt: skip
def test_overrides_are_dotted_yaml(text: str, expected: dict[str, Any]) -> None:
    assert parse_overrides([text]) == expected


def test_the_last_override_wins_and_the_others_stay() -> None:
    given = ["federation.rounds=3", "federation.devices=9", "federation.rounds=4"]
    assert parse_overrides(given) == {"federation": {"rounds": 4, "devices": 9}}
    config = load_config(overrides=given, federation={"devices": 8, "sampled": 2})
    assert (config.federation.rounds, config.federation.devices, config.federation.sampled) == (4, 9, 2)


@pytest.mark.parametrize("text", ["federation.rounds", "=3", " =3"])
def test_an_override_without_name_or_equals_sign(text: str) -> None:
    with pytest.raises(InputError, match=r"must have the form KEY=VALUE, such as federation\.rounds=10"):
        parse_overrides([text])


@pytest.mark.parametrize("text", ["data={text: a, text: b}", "data={1: a}"])
def test_an_override_is_read_as_strictly_as_a_file(text: str) -> None:
    with pytest.raises(InputError, match=r"given twice|is no name"):
        parse_overrides([text])


# YAML


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**63),
        "data": st.fixed_dictionaries(
            {},
            optional={
                "text": TEXTS | st.sampled_from(["None", "null", "~", "yes", "1", "1e3", "- a", "a: b", "#", "|"]),
                "file": st.none() | TEXTS,
                "device": st.none() | TEXTS,
                "separator": st.sampled_from([",", ";", "\t", "|", "#", ":"]),
                "label_noise": st.floats(0, 1),
                "train_examples": st.none() | st.integers(1),
                "partition": st.fixed_dictionaries({"alpha": st.floats(0, exclude_min=True, allow_nan=False)}),
            },
        ),
        "lora": st.fixed_dictionaries({"targets": TEXTS | st.lists(TEXTS)}),
        "training": st.fixed_dictionaries({"max_grad_norm": st.none() | st.floats(1e-9, 1e9)}),
        "sharing": st.fixed_dictionaries({"count": st.integers(1, 9) | st.floats(0.1, 1) | st.just("lossless")}),
    },
)


@SOME
@given(values=VALUES)
def test_yaml_and_back(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    config = build_config(values)
    path = tmp_path_factory.mktemp("yaml") / "config.yaml"
    path.write_text(to_yaml(config, "one line\nanother: line"), encoding="utf-8")
    assert path.read_text(encoding="utf-8").startswith("# one line\n# another: line\n")
    again = load_config(path)
    assert again == config
    assert config_hash(again) == config_hash(config)
    assert type(again.sharing.count) is type(config.sharing.count)  # 1 layer is not all of them
    assert build_config(to_dict(config)) == config


def written(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_then_values_then_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, "seed: 1\nfederation: {rounds: 2, devices: 7}\n")
    config = load_config(path, ["seed=3"], seed=2, federation={"rounds": 5})
    assert (config.seed, config.federation.rounds, config.federation.devices) == (3, 5, 7)


def test_none_in_a_file_is_no_value(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "data: {file: None, text: 'None', train_examples: null}\n"))
    assert (config.data.file, config.data.text, config.data.train_examples) == (None, "None", None)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "# nothing yet\n")) == Config()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: 1\nlora:\n  rank: 2\n  rank: 3\n", "Key 'rank' is given twice (line 4); remove one."),
        ("seed: 1\nseed: 1\n", "Key 'seed' is given twice (line 2)"),
        ("1: 2\n", "Key 1 (line 1) is no name"),
        ("[1]: 2\n", "Key [1] (line 1) is no name"),
        ("a: [1\n", "is not valid YAML: while parsing a flow sequence"),
        ("- seed\n", "must hold keys and values at the top level, not a list."),
        ("hello\n", "must hold keys and values at the top level, not a str."),
        ("lora: !!python/object:os.system x\n", "is not valid YAML: could not determine a constructor"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, sentence: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=re.escape(sentence)) as raised:
        load_config(path)
    assert f"'{path}'" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_and_undecodable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Configuration file '.*no\.yaml' does not exist"):
        load_config(tmp_path / "no.yaml")
    path = tmp_path / "latin.yaml"
    path.write_bytes("method: caf\xe9".encode("latin-1"))
    with pytest.raises(InputError, match="is not valid YAML"):
        load_config(path)


# What a run is


def test_the_hash_is_of_what_changes_a_result() -> None:
    base = config_hash(load_config())
    assert re.fullmatch("[0-9a-f]{16}", base)
    for same in ("data.dir=/elsewhere", "runtime.device_states=memory"):
        assert config_hash(load_config(overrides=[same])) == base
    changed = ["data.partition.alpha=0.6", "seed=1", "data.label_noise=0.1", "method=local-only", "lora.rank=4",
               "runtime.threads=2", "data.test_fraction=0.3", "federation.rounds=21", "model.head=native"]  # fmt: skip
    hashes = [config_hash(load_config(overrides=[change])) for change in changed]
    assert len({base, *hashes}) == 1 + len(changed)
    assert config_hash(load_config(overrides=["data.partition.alpha=1"])) == config_hash(
        load_config(overrides=["data.partition.alpha=1.0"])
    )


def test_every_other_key_is_in_the_hash() -> None:
    base = config_hash(Config())
    tried = 0
    for name, default in ((k.name, k.default) for k in keys()):
        other = {bool: not default, int: default, float: default}.get(type(default))
        if other is None:
            continue
        other = {int: lambda v: v + 1, float: lambda v: v / 2 or 0.25, bool: lambda v: v}[type(default)](other)
        if name == "federation.minimum_replies":
            other = 2
        try:
            changed = build_config(nested(name, other))
        except InputError:  # needs another setting beside it
            continue
        assert config_hash(changed) != base, name
        tried += 1
    assert tried > 30


def test_the_data_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIBECFED_DATA_DIR", "/somewhere")
    assert Config().data.dir == "/somewhere"
    monkeypatch.delenv("FIBECFED_DATA_DIR")
    assert Config().data.dir == "data"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (None, "support"),
        ("mail/messages.csv", "messages"),
        ("mail/sites", "sites"),
        ("mail/sites/*.csv", "sites"),
        ("mail/sites/*/train.jsonl", "sites"),
        ("*.csv", "files"),
    ],
)
def test_the_name_results_are_filed_under(file: str | None, name: str) -> None:
    assert load_config(data={"file": file}).dataset == name


def test_settings_cannot_be_changed_in_place() -> None:
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 3  # type: ignore[misc]
