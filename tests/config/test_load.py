"""Loading of configs: priorities, origins of values, and errors for all wrong keys at once."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medhybrid.cli import main
from medhybrid.config import ChannelRule, load_config, load_config_with_origins, packaged_configs, save_config
from medhybrid.config.load import packaged_searches
from medhybrid.errors import ConfigError


@pytest.mark.parametrize("name", ["brain.yaml", "hippocampus.yaml", "demo.yaml"])
def test_packaged_configs_load(name: str) -> None:
    assert load_config(name).name == name.removesuffix(".yaml")


def test_configs_of_the_repository_are_the_packaged_ones() -> None:
    repository = Path(__file__).parents[2] / "configs"

    assert {*packaged_configs(), *packaged_searches()} == {p.name for p in repository.glob("*.yaml")}
    assert set(packaged_searches()) == {p.name for p in repository.glob("search_*.yaml")}


def test_a_file_overrides_a_packaged_config_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = packaged_configs()["brain.yaml"].read_text().replace("name: brain", "name: mine")
    (tmp_path / "brain.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)

    assert load_config("brain.yaml").name == "mine"


def test_a_missing_config_names_the_packaged_ones() -> None:
    with pytest.raises(ConfigError, match=r"brain\.yaml.*hippocampus\.yaml"):
        load_config("brian.yaml")


def test_overrides_have_priority_and_exponents_are_numbers() -> None:
    config = load_config("brain.yaml", ["training.peak_rate=1e-4", "data.labels={tumour: 3}"])

    assert config.training.peak_rate == 1e-4
    assert config.data.labels["tumour"] == 3


def test_every_value_has_an_origin() -> None:
    _, origins = load_config_with_origins("brain.yaml", ["training.seed=7"])

    assert origins["training.seed"] == "command line"
    assert origins["training.foreground_share"] == "brain.yaml"
    assert origins["training.weight_decay"] == "default"


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"training\.peak_rat: unknown key; did you mean peak_rate"):
        load_config("brain.yaml", ["training.peak_rat=1"])


def test_all_errors_are_reported_at_once_with_file_and_key() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("brain.yaml", ["training.ema=2", "network.heads=0", "nettwork.depth=1"])

    message = str(caught.value)
    assert "3 errors" in message
    assert "command line: training.ema" in message
    assert "command line: network.heads" in message
    assert "did you mean network" in message


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1, 2", "\x00", "name: ${missing.key}\n"])
def test_a_file_that_is_not_a_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)

    with pytest.raises(ConfigError):
        load_config(tmp_path / "x.yaml")


def test_a_length_on_the_command_line_replaces_the_other_kind_of_length_in_the_file() -> None:
    config = load_config("brain.yaml", ["training.iterations=10"])

    assert config.training.iterations == 10
    assert config.training.max_minutes is None


def test_both_lengths_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="exactly one of max_minutes and iterations"):
        load_config("brain.yaml", ["training.iterations=10", "training.max_minutes=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.labels.abnormality=0", "positive"),
        ("data.labels.other=255", "have the same value"),
        ("network={token_width: 32, heads: 6}", "multiple of heads"),
        ("network={widths: [8, 16], blocks: [1]}", "one entry per stage"),
        ("data.channels=[{name: T1, optional: true}]", "must not be optional"),
        ("prepare.spacing_mm=[0,1,1]", "spacing_mm.0: Input should be greater than 0"),
        ("prepare.spacing_mm=[1,.nan,1]", "spacing_mm.1: Input should be a finite number"),
        ("prepare.patch_size=[16,16,0]", "patch_size.2: Input should be greater than or equal to 1"),
        ("training.max_minutes=.inf", "max_minutes: Input should be a finite number"),
        ("training.peak_rate=.inf", "peak_rate: Input should be a finite number"),
    ],
)
def test_contradictory_values_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("brain.yaml", [override])


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("data.root", "/data/set #2"),
        ("data.root", "0123"),
        ("data.mask_pattern", "*seg*"),
        ("data.subject_pattern", "[A-Z]+(\\d+)"),
        ("data.channel_map.T1", "*t1*"),
        ("name", "1e3"),
    ],
)
def test_text_on_the_command_line_is_taken_as_it_is_written(key: str, text: str) -> None:
    values = load_config("brain.yaml", [f"{key}={text}"]).model_dump()
    for part in key.split("."):
        values = values[part]

    assert values == text


@pytest.mark.parametrize("text", ["'a b'", "null", "{description: '*t1*'}"])
def test_quotes_null_and_braces_on_the_command_line_are_yaml(text: str) -> None:
    key = "data.channel_map.T1" if text.startswith("{") else "data.splits"
    data = load_config("brain.yaml", [f"{key}={text}"]).data

    expected: object = {"'a b'": "a b", "null": None}.get(text, ChannelRule(description="*t1*"))
    assert (data.channel_map["T1"] if text.startswith("{") else data.splits) == expected


@pytest.mark.parametrize(
    ("label", "message"), [("ON: 3", "data.labels: YAML reads a name as True"), ("1: 3", "YAML reads a name as 1")]
)
def test_a_name_that_yaml_reads_as_another_value_needs_quotes(tmp_path: Path, label: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(f"name: x\ndata: {{channels: [{{name: T1}}], labels: {{{label}}}}}\n")

    with pytest.raises(ConfigError, match=f"{message}: write it in quotes"):
        load_config(tmp_path / "c.yaml")


def test_configs_are_immutable() -> None:
    with pytest.raises(ValidationError):
        load_config("brain.yaml").training.seed = 3  # type: ignore[misc]


@settings(max_examples=25)  # each reads a config twice and writes it
@given(seed=st.integers(-(2**31), 2**31), rate=st.floats(1e-6, 1), share=st.floats(0, 1))
def test_saving_and_loading_is_identity(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rate: float, share: float
) -> None:
    config = load_config("brain.yaml", [f"training.seed={seed}"])
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"peak_rate": rate, "foreground_share": share})}
    )
    path = tmp_path_factory.mktemp("config") / "saved.yaml"

    save_config(config, path)

    assert load_config(path) == config


def test_a_printed_config_with_long_values_is_loaded_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = "/data/a folder with spaces in its name/and another long one here/and then some more of it, to the end"

    assert main(["config", "demo.yaml", f"data.root={place}"]) == 0

    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "mine.yaml").data.root == place


def test_component_rules_name_regions_where_there_are_some(tmp_path: Path) -> None:
    path = tmp_path / "nested.yaml"
    path.write_text("name: nested\ndata:\n  root: .\n  channels: [{name: T1}]\n  labels: {whole: [1, 2], core: [2]}\n")

    assert load_config(path, ["prepare.keep_largest=[whole]"]).prepare.keep_largest == ("whole",)
    with pytest.raises(ConfigError, match="unknown region: whole_rest; regions are whole, core"):
        load_config(path, ["prepare.keep_largest=[whole_rest]"])
