"""Keys of earlier versions: a warning for a user's file, none for records, and the same hashes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml

from medhybrid.config import InferenceConfig, load_config, with_values
from medhybrid.config.load import config_from_dict, load_search, packaged_configs
from medhybrid.config.renamed import rename_sections, renamed_keys
from medhybrid.errors import ConfigError
from medhybrid.steps.pretrain import for_scans
from tests.synthetic import small_values

VALUES = {
    "training.start": "weights.pt",
    "training.start_parts": ["encoder"],
    "training.inner": 1,
    "pretrain.hidden_share": 0.4,
    "inference.mirror": False,
}


def value_of(config: object, key: str) -> object:
    for part in key.split("."):
        config = getattr(config, part)
    return list(config) if isinstance(config, tuple) else config


def test_every_earlier_key_is_tested_here() -> None:
    assert renamed_keys().keys() == VALUES.keys()


@pytest.mark.parametrize("old", VALUES)
def test_an_earlier_key_of_a_user_sets_the_new_one_and_warns(
    old: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    section, key = old.split(".")
    values = small_values(tmp_path)
    values.setdefault(section, {}).pop(renamed_keys()[old].split(".")[1], None)
    values[section][key] = VALUES[old]
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values))

    assert value_of(load_config(path), renamed_keys()[old]) == VALUES[old]
    assert f"study.yaml: the key {old} is now {renamed_keys()[old]}" in caplog.text


def test_an_earlier_key_on_the_command_line_overrides_the_new_one_in_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = small_values(tmp_path)
    values["training"]["pretrained"] = "a.pt"
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))

    config = load_config(tmp_path / "study.yaml", ["training.start=b.pt"])

    assert config.training.pretrained == "b.pt"
    assert "command line: the key training.start is now training.pretrained" in caplog.text
    assert with_values(config, {"training.start": "c.pt"}, source="test").training.pretrained == "c.pt"


def test_both_names_of_a_key_in_one_file_are_refused(tmp_path: Path) -> None:
    values = small_values(tmp_path)
    values["training"] |= {"pretrained": "a.pt", "start": "b.pt"}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"training\.start and training\.pretrained are names of the same key"):
        load_config(tmp_path / "study.yaml")


def test_a_record_with_earlier_keys_is_loaded_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    values = small_values(tmp_path)
    values["training"]["start"] = "a.pt"
    assert config_from_dict(values, source="config.yaml").training.pretrained == "a.pt"
    assert not caplog.records


def test_the_hash_of_a_config_stays_the_same_when_a_key_is_renamed(tmp_path: Path) -> None:
    assert InferenceConfig().text_for_hash() == (
        '{"overlap":0.5,"window_batch":2,"mirror":true,"skip_air":true,"precision":"auto"}'
    )
    values = {"training": {"start": "a.pt", "fold": 1}, "name": "x", "inference": {"mirror": True}}
    assert rename_sections(rename_sections(values), to_first=True) == values


def test_keys_of_a_search_are_renamed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "s.yaml").write_text("name: s\nspace: {pretrain.hidden_share: {low: 0.2, high: 0.8}}\n")
    assert list(load_search(tmp_path / "s.yaml").space) == ["pretrain.mask_ratio"]
    assert "pretrain.mask_ratio" in caplog.text


@pytest.mark.parametrize("name", sorted(packaged_configs()))
def test_packaged_configs_use_the_present_keys(name: str, caplog: pytest.LogCaptureFixture) -> None:
    load_config(name)
    assert "is now" not in caplog.text


def test_pretraining_takes_no_pretrained_weights(tmp_path: Path) -> None:
    values = small_values(tmp_path)
    values["training"]["pretrained"] = "a.pt"
    assert for_scans(config_from_dict(values, source="test")).training.pretrained is None
