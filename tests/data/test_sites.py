"""Sites that the data names are the devices without a word, or it is said aloud; what is not read is named."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fibecfed
from fibecfed.cli.app import app
from fibecfed.config import Config, config_hash, load_config, settle
from fibecfed.data import load_splits, partition_rows, read_rows
from fibecfed.data.columns import Columns
from fibecfed.errors import InputError

PLAIN = Columns("text", None, "label")


def site(path: Path, rows: int = 20, site: str | None = None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    name = site or path.stem
    path.write_text("text,label,site\n" + "".join(f"{name} {i},{'ab'[i % 2]},{name}\n" for i in range(rows)))
    return str(path)


def folder(path: Path, sites: int) -> str:
    for number in range(sites):
        site(path / f"site{number}.csv")
    return str(path)


def settled(*overrides: str, sites: int | None = None, **values: Any) -> tuple[str | None, int | None, int | None]:
    config = settle(load_config(overrides=overrides, **values), sites)
    return config.data.partition.kind, config.federation.devices, config.federation.sampled


@pytest.mark.parametrize(
    ("overrides", "sites", "expected"),
    [
        ([], None, ("dirichlet", 20, 5)),
        ([], 6, ("dirichlet", 20, 5)),  # the shipped messages, dealt to devices
        (["data.partition.kind=column"], 6, ("column", 6, 5)),
        (["data.partition.kind=column"], 3, ("column", 3, 3)),
        (["data.file=x.csv"], None, ("dirichlet", 20, 5)),
        (["data.file=x"], 2, ("column", 2, 2)),
        (["data.file=x", "federation.devices=2"], 2, ("column", 2, 2)),
        (["data.file=x", "federation.sampled=1"], 9, ("column", 9, 1)),
        (["data.file=x"], 1, ("dirichlet", 20, 5)),  # one file in a folder is no federation
        (["data.file=x", "data.partition.kind=iid"], 2, ("iid", 20, 5)),
        (["federation.devices=3"], None, ("dirichlet", 3, 3)),
    ],
)
def test_what_is_left_alone_follows_the_data(overrides: list[str], sites: int | None, expected: tuple[Any]) -> None:
    assert settled(*overrides, sites=sites) == expected
    once = settle(load_config(overrides=overrides), sites)
    assert settle(once, sites) is once


def test_settings_that_contradict_the_number_of_sites() -> None:
    with pytest.raises(InputError, match=r"federation\.sampled is 4 but there are only 2 devices"):
        settled("data.file=x", "federation.sampled=4", sites=2)
    with pytest.raises(InputError, match="minimum_replies is 3 but only 2 devices"):
        settled("data.file=x", "federation.minimum_replies=3", sites=2)
    with pytest.raises(InputError, match="minimum_replies is 6 but only 5 devices"):
        load_config(federation={"minimum_replies": 6})


def test_settings_that_were_said_before_are_the_same_run() -> None:
    """Records of runs hold the numbers; a comparison that leaves them out goes on with them."""
    said = {"partition": {"kind": "dirichlet"}}
    numbers = {"devices": 20, "sampled": 5}
    assert config_hash(load_config()) == config_hash(load_config(data=said, federation=numbers))
    one = {"file": "x.csv"}
    assert config_hash(load_config(data=one)) == config_hash(load_config(data=one | said, federation=numbers))
    many = {"file": "sites"}
    assert config_hash(load_config(data=many)) != config_hash(load_config(data=many | said, federation=numbers))


@pytest.mark.parametrize("sites", [2, 7])
def test_a_folder_of_sites_needs_no_more_words(tmp_path: Path, sites: int) -> None:
    config = load_config(data={"file": folder(tmp_path, sites)})
    splits = load_splits(config)
    owned, owners = partition_rows(config, splits.train, splits.test)
    names = tuple(f"site{number}" for number in range(sites))
    assert owned.names == owners.names == names and owners.sizes.min() > 0
    assert splits.train.devices is not None
    assert all(set(splits.train.devices[owned.indices(k)]) == {name} for k, name in enumerate(names))
    assert splits.notes == ()


def test_a_device_column_needs_no_more_words(tmp_path: Path) -> None:
    lines = [f"t {i},{'ab'[i % 2]},{'north' if i % 3 else 'south'}" for i in range(60)]
    (tmp_path / "x.csv").write_text("\n".join(["text,label,site", *lines]))
    config = load_config(data={"file": str(tmp_path / "x.csv"), "device": "site"})
    splits = load_splits(config)
    assert partition_rows(config, splits.train, splits.test)[0].names == ("north", "south")


def test_another_number_of_devices_than_sites_is_refused(tmp_path: Path) -> None:
    config = load_config(data={"file": folder(tmp_path, 3)}, federation={"devices": 20})
    splits = load_splits(config)
    with pytest.raises(InputError, match=r"names 3 devices, but federation\.devices=20: .* data\.partition\.kind=dir"):
        partition_rows(config, splits.train, splits.test)


def test_one_site_is_dealt_aloud(tmp_path: Path) -> None:
    config = load_config(data={"file": folder(tmp_path, 1)}, federation={"devices": 4})
    splits = load_splits(config)
    assert partition_rows(config, splits.train, splits.test)[0].devices == 4
    assert splits.notes[0].startswith("The data names one device, but its rows are dealt anew to 4")


def test_a_draw_that_loses_sites_is_refused(tmp_path: Path) -> None:
    config = load_config(data={"file": folder(tmp_path, 5), "train_examples": 3})
    with pytest.raises(InputError, match="train_examples=3 leaves training examples to 3 of the 5 devices only"):
        load_splits(config)


def test_the_readmes_line_trains(bert: Path, tmp_path: Path) -> None:
    config: Config = load_config(
        overrides=["data.partition.kind=column", "federation.devices=2"],
        data={"file": folder(tmp_path / "sites", 2), "max_length": 16},
        model={"name": str(bert)}, lora={"rank": 2}, federation={"rounds": 1},
    )  # fmt: skip
    result = fibecfed.run(config, tmp_path / "out")
    assert result.summary["data"]["notes"] == []
    assert fibecfed.load_config(tmp_path / "out" / "config.yaml").federation.devices == 2
    assert "over 2 devices,\n2 a round" in (tmp_path / "out" / "README.md").read_text()


# What is not read


def test_what_is_skipped_in_a_folder_is_named(tmp_path: Path) -> None:
    location = folder(tmp_path, 2)
    (tmp_path / "._site0.csv").write_bytes(b"\0\5\x16\7")  # what macOS leaves on other disks
    (tmp_path / ".site9.csv").write_text("text,label\nx,c\n")
    (tmp_path / "~$site0.csv").write_text("lock")
    (tmp_path / "sheet.xlsx").write_text("PK")
    site(tmp_path / "older" / "site0.csv")
    splits = load_splits(load_config(data={"file": location}))
    assert splits.notes == (
        f"Not read in '{location}': ._site0.csv (hidden), .site9.csv (hidden), older (a folder), sheet.xlsx (no .csv, "
        ".tsv, .jsonl, .parquet), ~$site0.csv (hidden).",
    )
    assert splits.train.label_names == ("a", "b")
    result = CliRunner().invoke(app, ["partition", f"data.file={location}"], env={"COLUMNS": "200"})
    assert splits.notes[0] in result.output
    assert "sheet.xlsx" in load_splits(load_config(data={"file": f"{location}/*"})).notes[0]


def test_a_folder_with_nothing_but_sub_folders_says_how_to_name_their_files(tmp_path: Path) -> None:
    for name in ("north", "south"):
        site(tmp_path / name / "data.csv", site=name)
    with pytest.raises(InputError) as raised:
        read_rows(str(tmp_path), PLAIN)
    assert "; it holds north (a folder), south (a folder). " in str(raised.value)
    assert str(raised.value).endswith(f"as data.file='{tmp_path}/*/*.csv'.")
    named = read_rows(f"{tmp_path}/*/*.csv", PLAIN)
    assert named.devices is not None and set(named.devices) == {"north/data", "south/data"}


# Excel's files


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;", "\ufeffsep=;", "\n\nsep=;\r"])
def test_the_separator_that_excel_names_is_used(tmp_path: Path, first: str) -> None:
    (tmp_path / "x.csv").write_text(f'{first}\ntext;label\n"one, two; three";a\nfour, five;b\n;c\n', encoding="utf-8")
    line = 5 + first.count("\n")
    with pytest.raises(InputError, match=rf"row 3 \(line {line}\) has an empty or missing 'text'"):
        read_rows(str(tmp_path / "x.csv"), PLAIN)
    (tmp_path / "x.csv").write_text(f'{first}\ntext;label\n"one, two; three";a\nfour, five;b\n', encoding="utf-8")
    assert list(read_rows(str(tmp_path / "x.csv"), PLAIN).texts) == ["one, two; three", "four, five"]


@pytest.mark.parametrize(("name", "separator"), [("x.tsv", "\t"), ("x.tsv", ";"), ("x.csv", "\t"), ("x.csv", "|")])
def test_any_separator_can_be_named(tmp_path: Path, name: str, separator: str) -> None:
    lines = [f"sep={separator}", *(separator.join(row) for row in (("text", "label"), ("one, 2", "a"), ("b", "c")))]
    (tmp_path / name).write_text("\n".join(lines))
    assert list(read_rows(str(tmp_path / name), PLAIN).texts) == ["one, 2", "b"]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("word", ["plain", "über 文本"])
def test_utf_16_without_its_mark_is_recognised(tmp_path: Path, name: str, encoding: str, word: str) -> None:
    rows = {
        "x.csv": f"text,label\n{word},a\n",
        "x.tsv": f"text\tlabel\n{word}\ta\n",
        "x.jsonl": f'{{"text": "{word}"}}',
    }
    (tmp_path / name).write_bytes(rows[name].encode(encoding))
    with pytest.raises(InputError) as raised:
        read_rows(str(tmp_path / name), PLAIN)
    assert "seems to be UTF-16 text" in str(raised.value) and str(raised.value).isprintable()
    assert str(raised.value).endswith('save it as UTF-8, in Excel as "CSV UTF-8".')


# Before torch

_SAYS = """
import sys
from typer.testing import CliRunner
from fibecfed.cli.app import app
for arguments in {arguments!r}:
    result = CliRunner().invoke(app, arguments)
    heavy = [name for name in ("torch", "transformers", "peft") if name in sys.modules]
    print(result.exit_code, heavy, result.output.strip())
"""


def test_a_mistake_in_the_data_is_said_before_torch_is_imported(tmp_path: Path) -> None:
    file = site(tmp_path / "x.csv")
    empty = tmp_path / "empty.csv"
    empty.write_text("text,label\na,x\nb,\n")
    out = str(tmp_path / "out")
    mistakes = [
        (["run", f"data.file={file}", "data.text=body", "--out", out], "has no column 'body'"),
        (["run", "data.file=nowhere.csv", "--dry-run"], "does not exist"),
        (["run", f"data.file={empty}", "--out", out], "row 2 (line 3) has an empty or missing 'label'"),
        (["run", "data.name=trek", "--out", out], "Unknown data set 'trek'"),
        (["partition", f"data.file={file}", "data.label=topic"], "has no column 'topic'"),
    ]
    program = _SAYS.format(arguments=[arguments for arguments, _ in mistakes])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    lines = done.stdout.splitlines()
    assert len(lines) == len(mistakes), done
    for line, (_, sentence) in zip(lines, mistakes, strict=True):
        assert line.startswith("2 [] Error: ") and sentence in line
    assert not (tmp_path / "out").exists()
