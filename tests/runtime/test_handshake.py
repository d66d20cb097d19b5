"""A site that differs from the server is told in what, and what to do."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

import tiny
from fibecfed import Config
from fibecfed.config import build_config, merge, to_dict
from fibecfed.runtime import Description, assemble, describe, differences
from fibecfed.runtime.handshake import tokenizer_sha256


def changed(config: Config, **values: object) -> Config:
    return build_config(merge(to_dict(config), values))


def description(config: Config) -> Description:
    experiment = assemble(config)
    return describe(experiment, experiment.data.task.labels)


@pytest.fixture
def server(small: Config) -> Description:
    return description(small)


def test_a_site_with_files_and_hardware_of_its_own_can_join(
    small: Config, server: Description, rows_file: Path, bert: Path, tmp_path: Path
) -> None:
    own, model = tmp_path / "own.csv", tmp_path / "model"
    own.write_text(rows_file.read_text().replace("text,label", "message,kind"))
    model.symlink_to(bert)
    data = {"file": str(own), "text": "message", "label": "kind"}
    site = description(changed(small, data=data, model={"name": str(model)}, runtime={"threads": 2}))
    assert differences(server, site) == []
    assert site.config_hash == server.config_hash


def test_it_travels_as_json_and_holds_no_text(server: Description) -> None:
    wire = json.dumps(server.to_content())
    assert Description.of(json.loads(wire)) == server
    assert differences(server, Description.of(json.loads(wire))) == []
    assert "parcel" not in wire  # a word of the training texts
    for wrong in ({}, {**server.to_content(), "parameters": [1]}, {**server.to_content(), "settings": 3}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Description.of(wrong)


def test_what_a_call_pads_and_cuts_does_not_change_the_tokenizer() -> None:
    tokenizer = tiny.tokenizer(decoder=False)
    before = tokenizer_sha256(tokenizer)
    tokenizer(["a", "the blue kettle"], padding=True, truncation=True, max_length=3)
    assert tokenizer_sha256(tokenizer) == before
    assert tokenizer_sha256(tiny.tokenizer(decoder=True)) != before


DIFFERENT = [
    ({"version": "0.0.1"}, r"runs fibecfed .*, this site 0\.0\.1; install the server's version here"),
    ({"base_sha256": "0" * 64}, r"base model's weights differ \(sha256 .* here\); let model\.name be a copy"),
    ({"tokenizer_sha256": "0" * 64}, r"tokenizers differ .* copy the server's tokenizer files"),
    ({"outputs": ("billing", "praise")}, r"lacks the labels 'delivery', which the server has"),
    (
        {"outputs": ("anger", "billing", "delivery", "praise")},
        r"has the labels 'anger', which the server does not",
    ),
    ({"outputs": ("delivery", "billing", "praise")}, r"another order: number 1 is 'billing' at the server"),
    ({"parameters": ()}, r"parameters that train differ: '.*' of shape \(.*\) at the server, none more here"),
]


@pytest.mark.parametrize(("change", "sentence"), DIFFERENT)
def test_each_difference_is_a_sentence_that_says_what_to_do(
    server: Description, change: dict[str, object], sentence: str
) -> None:
    (found,) = differences(server, dataclasses.replace(server, **change))  # type: ignore[arg-type]
    assert re.search(sentence, found), found
    assert found.endswith(".")


def test_settings_are_named_with_both_values(small: Config, server: Description) -> None:
    site = description(changed(small, seed=7, lora={"rank": 4}))
    assert differences(server, site) == [
        "lora.rank is 2 at the server and 4 here; set lora.rank=2 in this site's configuration.",
        "seed is 0 at the server and 7 here; set seed=0 in this site's configuration.",
    ]
    assert site.config_hash != server.config_hash


def test_another_model_is_found_though_the_settings_agree(small: Config, server: Description, llama: Path) -> None:
    found = differences(server, description(changed(small, model={"name": str(llama)})))
    assert [line.split()[1] for line in found] == ["base", "tokenizers"]


def test_no_more_than_a_handful_is_shown(server: Description) -> None:
    site = dataclasses.replace(server, settings={**server.settings, **{f"key.{i}": i for i in range(9)}})
    found = differences(server, site)
    assert len(found) == 6
    assert found[-1].startswith("4 further differences")
