"""One rule for what is written in a YAML file and as KEY=VALUE: numbers, texts, lists of texts, merges, paths."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from fibecfed.cli.comparison_command import read_spec_arguments
from fibecfed.cli.explaining import read_arguments
from fibecfed.config import Config, keys, load_config, load_device_config, read_yaml, split_arguments, to_yaml
from fibecfed.errors import InputError


def in_a_file(folder: Path, name: str, value: str) -> Path:
    """A file with one setting."""
    path = folder / "one.yaml"
    lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(name.split("."))]
    path.write_text("\n".join(lines) + f" {value}\n", encoding="utf-8")
    return path


def both_ways(folder: Path, name: str, value: str) -> list[Any]:
    """What the key is, given in a file and on the command line; or the sentences that refuse it."""
    found = []
    for path, overrides in ((in_a_file(folder, name, value), []), (None, [f"{name}={value}"])):
        try:
            config: Any = load_config(path, overrides)
            for part in name.split("."):
                config = getattr(config, part)
            found.append(config)
        except InputError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("federation.rounds", "2e1", 20),
        ("federation.rounds", "1_000", 1000),
        ("federation.rounds", "'7'", 7),
        ("federation.rounds", "0x10", 16),
        ("federation.rounds", "20.0", 20),
        ("training.learning_rate", "2e1", 20.0),
        ("training.learning_rate", "1e-3", 0.001),
        ("training.learning_rate", "5", 5.0),
        ("federation.maximum_norm", ".inf", float("inf")),
        ("federation.maximum_norm", "inf", float("inf")),
        ("fedalt.layers", "2e0", 2),
        ("sharing.count", "lossless", "lossless"),
        ("sharing.count", "0.5", 0.5),
        ("training.local_steps", "null", None),
        ("data.label", "no", "no"),
        ("data.label", "010", "010"),
        ("data.label", "2024-01-01", "2024-01-01"),
        ("data.label", "1e3", "1e3"),
        ("data.label", "1:30", "1:30"),
        ("method", "'fibecfed'", "fibecfed"),
        ("training.keep_optimizer", "yes", True),
        ("training.keep_optimizer", "off", False),
        ("data.labels", '["no", "yes"]', ["no", "yes"]),
        ("data.labels", "[010, 1:30]", ["010", "1:30"]),
    ],
)
def test_a_value_means_the_same_in_a_file_and_on_the_command_line(
    name: str, written: str, value: Any, tmp_path: Path
) -> None:
    found = both_ways(tmp_path, name, written)
    assert found == [value, value]
    assert type(found[0]) is type(found[1]) is type(value)


@pytest.mark.parametrize("written", ["010", "yes", "true", "off", "1:30", "1e999", "ten", "2024-01-01", "'010'", "1 0"])
def test_what_is_no_number_in_decimal_digits_is_refused_with_the_rule(written: str, tmp_path: Path) -> None:
    numbers = [k.name for k in keys() if k.is_number]
    assert len(numbers) > 50
    for name, sentence in ((n, said) for n in numbers for said in both_ways(tmp_path, n, written)):
        assert re.search(rf"Key '{re.escape(name)}' cannot be \S.*: Input should be ", str(sentence)), sentence
        assert "a number in decimal digits, such as 20, 0.5 or 2e1" in sentence
        assert "010 would be eight or ten" in sentence


def test_a_truth_is_no_number_in_python_either() -> None:
    with pytest.raises(InputError, match=r"Key 'federation.rounds' cannot be True"):
        load_config(federation={"rounds": True})


@pytest.mark.parametrize("listed", ["[no, yes]", "[0, 1]", "[true, b]", "[a, ~]", "[1.0, 2.0]", "[a, 0x1F]"])
@pytest.mark.parametrize("name", ["data.labels", "lora.targets", "attempt.sources"])
def test_a_list_of_texts_says_to_quote_what_is_none(name: str, listed: str, tmp_path: Path) -> None:
    for sentence in both_ways(tmp_path, name, listed):
        assert f"Key '{name}' holds " in sentence
        quoted = '["' + '", "'.join(listed[1:-1].split(", ")) + '"]'
        assert f"put it into quotation marks: {quoted}" in sentence


def test_merges_are_merged_and_own_keys_win(tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text("lora: &small {rank: 4}\nadapter:\n  <<: {width: 8}\n")
    assert (load_config(path).lora.rank, load_config(path).adapter.width) == (4, 8)
    path.write_text("lora: &a {rank: 4, alpha: 2}\nadapter: {<<: [{width: 8}, {width: 9}]}\n")
    assert load_config(path).adapter.width == 8
    path.write_text("lora: {rank: 3, <<: {rank: 4, alpha: 2}}\n")
    assert (load_config(path).lora.rank, load_config(path).lora.alpha) == (3, 2)
    path.write_text("data: {<<: {label: no}}\n")
    assert load_config(path).data.label == "no"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lora: {<<: 3}\n", "'<<' (line 1) merges keys and values, not 3."),
        ("lora: {<<: [{rank: 3}, 4]}\n", "'<<' (line 1) merges keys and values"),
        ("lora: {<<: {rank: 3}, rank: 4, rank: 5}\n", "Key 'rank' is given twice (line 1)"),
        ("lora: &a {rank: 3, <<: *a}\n", "is not valid YAML"),
        ("lora: &a [*a]\n", "is not valid YAML"),
    ],
)
def test_merges_that_cannot_be_are_named(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(sentence)):
        load_config(path)


def test_settings_further_down_in_a_comparison_are_read_by_the_same_rule(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("base: {data: {label: no}}\ndata_sets: [{name: x, settings: {data: {text: 1}}}]\n")
    assert read_yaml(path) == {
        "base": {"data": {"label": "no"}},
        "data_sets": [{"name": "x", "settings": {"data": {"text": "1"}}}],
    }


def test_a_file_in_a_folder_with_an_equals_sign_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runs" / "lr=0.1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(Config(seed=5)))
    monkeypatch.chdir(folder.parent)
    assert read_arguments(["lr=0.1/config.yaml"]).seed == 5
    assert read_arguments(["./lr=0.1/config.yaml", "seed=6"]).seed == 6
    assert read_arguments([str(folder / "config.yaml"), "data.file=a/b=c.csv"]).data.file == "a/b=c.csv"
    assert read_spec_arguments(["lr=0.1/config.yaml", "seed=6"]) == (Path("lr=0.1/config.yaml"), ["seed=6"])
    (folder.parent / "seed=7").write_text("seed: 8\n")
    assert read_arguments(["seed=7"]).seed == 7
    assert split_arguments(["runs/no=1/such.yaml", "lorra.rank=3", "=3", "data={text: a}"]) == (
        ["runs/no=1/such.yaml"],
        ["lorra.rank=3", "=3", "data={text: a}"],
    )


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; name a YAML file"):
        load_config(tmp_path)


def test_a_byte_order_mark_is_no_key_and_a_latin_byte_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_text("seed: 3\n", encoding="utf-8-sig")
    assert load_config(path).seed == 3
    path.write_bytes("seed: 3\nmethod: caf\xe9\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"the byte 0xe9 in line 2 is no UTF-8; save the file as UTF-8"):
        load_config(path)


@pytest.mark.parametrize("name", ["data.dir", "data.file", "data.test_file", "model.name"])
def test_the_home_folder_is_found_in_every_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in both_ways(tmp_path, name, "~/my/x"):
        assert value == str(tmp_path / "my" / "x")
    assert both_ways(tmp_path, name, "org/model~x")[0] == "org/model~x"


def test_the_home_folder_is_found_by_devices_and_lists_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config(attempt={"sources": ["~/a", "b"]}).attempt.sources == [str(tmp_path / "a"), "b"]
    monkeypatch.setenv("FIBECFED_DATA_DIR", "~/sets")
    assert load_config().data.dir == str(tmp_path / "sets")
    path = tmp_path / "site" / "device.yaml"
    path.parent.mkdir()
    path.write_text("folder: ~/state\ndata: {file: ~/my.csv, test_file: ~/t.csv}\nmodel: {name: ~/m}\ndevice: 1\n")
    own = load_device_config(path)
    found = (own.folder, own.data.file, own.data.test_file, own.model.name)
    assert found == tuple(os.path.join(tmp_path, name) for name in ("state", "my.csv", "t.csv", "m"))
    assert load_device_config(path, ["data.file=~/other.csv"]).data.file == str(tmp_path / "other.csv")
    path.write_text("device: 010\ndata: {file: x.csv}\n")
    with pytest.raises(InputError, match=r"'device' cannot be '010'.*a number in decimal digits"):
        load_device_config(path)
