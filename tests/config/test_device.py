"""A device's own settings: what the server cannot change, and what is wrong in one sentence."""

from pathlib import Path

import pytest

from fibecfed import Config, InputError
from fibecfed.config import build_config, load_device_config, merge, shared_settings, to_dict


def written(folder: Path, text: str) -> Path:
    (folder / "device.yaml").write_text(text)
    return folder / "device.yaml"


def test_files_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    config = load_device_config(written(tmp_path, "device: 2\ndata: {file: a.csv, test_file: /else/b.csv}"))
    assert (config.device, config.data.file, config.data.test_file) == (2, str(tmp_path / "a.csv"), "/else/b.csv")
    assert config.folder == str(tmp_path / "device")


def test_overrides_win(tmp_path: Path) -> None:
    path = written(tmp_path, "data: {file: a.csv}")
    config = load_device_config(path, ["data.file=/other.csv", "runtime.threads=3", "data.label=1"])
    assert (config.data.file, config.runtime.threads, config.data.label) == ("/other.csv", 3, "1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("device: 1", "set data.file"),
        ("device: -1\ndata: {file: a}", "'device' cannot be -1"),
        ("devise: 1", "Unknown key 'devise'. Did you mean 'device'"),
        ("data: {fil: a}", "Did you mean 'data.file'"),
        ("method: fibecfed", "Unknown key 'method'"),
        ("data: a.csv", "is a section"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_device_config(written(tmp_path, text))
    assert message in str(error.value)


def test_the_server_decides_nothing_about_files_folders_or_the_network(tmp_path: Path) -> None:
    own = load_device_config(written(tmp_path, "data: {file: mine.csv}\nmodel: {name: /models/bert}"))
    evil = to_dict(Config())
    evil["data"] |= {
        "file": "/etc/passwd", "test_file": "/etc/shadow", "dir": "/root", "name": "trec", "allow_download": True,
        "text": "secret", "device": "x",
    }  # fmt: skip
    evil["model"] |= {"name": "evil/model", "allow_download": True}
    evil["runtime"] |= {"threads": 99}
    config = build_config(own.apply(evil))
    assert (config.data.file, config.data.test_file, config.data.text) == (str(tmp_path / "mine.csv"), None, "text")
    assert not config.data.allow_download and not config.model.allow_download
    assert (config.model.name, config.data.dir) == ("/models/bert", "")
    assert (config.data.device, config.runtime.threads) == (None, 1)


def test_what_is_shared_names_no_place_on_the_server_and_keeps_the_rest() -> None:
    server = build_config(merge(to_dict(Config()), {"method": "fibecfed", "training": {"learning_rate": 0.5}}))
    shared = shared_settings(server)
    assert not {"file", "test_file", "dir", "text", "label"} & shared["data"].keys()
    assert (shared["method"], shared["training"]["learning_rate"]) == ("fibecfed", 0.5)
