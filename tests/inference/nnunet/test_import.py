"""The import reads nnU-Net's folders without running code in them, and refuses what it cannot compute."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medhybrid.cli.entry import main
from medhybrid.errors import ModelError, OutputError
from medhybrid.inference.ensemble import Ensemble
from medhybrid.inference.folder_job import fingerprint_of
from medhybrid.inference.model_record import read_record
from medhybrid.inference.nnunet.checkpoint import read_checkpoint
from medhybrid.inference.weights_file import UNKNOWN
from medhybrid.runs.models import load_model
from medhybrid.steps.export import export
from medhybrid.steps.import_nnunet import import_nnunet
from medhybrid.steps.models import models
from medhybrid.steps.predict import predict
from tests.inference.nnunet.recorded_model import Recorded, write_recorded

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return write_recorded("ct", tmp_path / "theirs")


class Canary:
    """Object whose pickle creates a file when it is read by a reader that runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    recorded = write_recorded("ct", tmp_path / "theirs", logging=Canary(canary))
    with pytest.raises(ModelError, match="could run any code"):
        import_nnunet(recorded.folder, out=tmp_path / "model")
    assert not canary.exists()
    assert not (tmp_path / "model").exists()


def test_a_type_that_is_not_allowed_is_named(tmp_path: Path) -> None:
    recorded = write_recorded("ct", tmp_path / "theirs", logging=Path("somewhere"))
    with pytest.raises(ModelError, match=r"pathlib"):
        import_nnunet(recorded.folder, out=tmp_path / "model")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(share: float, recorded: Recorded, tmp_path: Path) -> None:
    path = recorded.folder / "fold_0" / "checkpoint_final.pth"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match="damaged or not a checkpoint"):
        import_nnunet(recorded.folder, out=tmp_path / "model")


def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "checkpoint_final.pth")
    with pytest.raises(ModelError, match="not a checkpoint of nnU-Net") as caught:
        read_checkpoint(tmp_path / "checkpoint_final.pth")
    assert caught.value.found == "state_dict"


def change(path: Path, by: Change) -> None:
    values = json.loads(path.read_text())
    by(values)
    path.write_text(json.dumps(values))


def in_base(**changed: Any) -> Change:
    return lambda plans: plans["configurations"]["base"].update(changed)


def in_arguments(**changed: Any) -> Change:
    return lambda plans: plans["configurations"]["base"]["architecture"]["arch_kwargs"].update(changed)


REFUSED: dict[str, tuple[str, Change, str]] = {
    "another network": (
        "plans.json",
        lambda p: p["configurations"]["base"]["architecture"].update(network_class_name="some.where.Primus"),
        "Primus",
    ),
    "an unknown argument": ("plans.json", in_arguments(squeeze_excitation=True), "squeeze_excitation"),
    "other widths": ("plans.json", in_arguments(features_per_stage=[4, 6, 9]), "do not fit the network"),
    "another norm": ("plans.json", in_arguments(norm_op="torch.nn.GroupNorm"), "GroupNorm"),
    "another preprocessor": ("plans.json", in_base(preprocessor_name="MyPreprocessor"), "MyPreprocessor"),
    "another resampling": ("plans.json", in_base(resampling_fn_data="my_resampling"), "my_resampling"),
    "another normalisation": ("plans.json", in_base(normalization_schemes=["Mine"]), "Mine"),
    "too few normalisations": ("plans.json", in_base(normalization_schemes=[]), "normalization_schemes"),
    "no CT intensities": (
        "plans.json",
        lambda p: p.update(foreground_intensity_properties_per_channel={}),
        "intensities of channel 0",
    ),
    "a second stage": ("plans.json", in_base(previous_stage="3d_lowres"), "second stage of a cascade"),
    "cubic logits": ("plans.json", in_base(resampling_fn_probabilities_kwargs={"order": 3}), "order"),
    "wrong axes": ("plans.json", lambda p: p.update(transpose_forward=[0, 0, 1]), "transpose_forward"),
    "another number of labels": (
        "dataset.json",
        lambda d: d.update(labels={"background": 0, "one": 1}),
        "weights do not fit dataset.json",
    ),
    "another number of channels": (
        "dataset.json",
        lambda d: d.update(channel_names={"0": "a", "1": "b"}),
        "normalization_schemes",
    ),
    "labels with gaps": ("dataset.json", lambda d: d.update(labels={"background": 0, "a": 1, "b": 5}), "without gaps"),
    "regions without an order": (
        "dataset.json",
        lambda d: d.update(labels={"background": 0, "a": [1, 2], "b": 2, "c": 3}),
        "regions_class_order",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_model_that_is_not_of_nnunet_itself_is_refused(what: str, recorded: Recorded, tmp_path: Path) -> None:
    name, by, said = REFUSED[what]
    change(recorded.folder / name, by)
    with pytest.raises(ModelError) as caught:
        import_nnunet(recorded.folder, out=tmp_path / "model")
    assert said in str(caught.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["unknown", "void", "unlabeled_voxels"])
def test_a_label_has_any_name_except_ignore(name: str, recorded: Recorded, tmp_path: Path) -> None:
    labels = {"background": 0, "one": 1, name: 2, "ignore": 3}
    change(recorded.folder / "dataset.json", lambda d: d.update(labels=labels))
    _, record = read_record(import_nnunet(recorded.folder, out=tmp_path / "model"))
    assert record.plan.labels == {"one": 1, name: 2}


def in_checkpoint(recorded: Recorded, by: Change) -> None:
    path = recorded.folder / "fold_0" / "checkpoint_final.pth"
    values = torch.load(path, weights_only=False)
    by(values)
    torch.save(values, path)


def test_a_dropout_that_shifts_the_numbers_of_layers_does_not_matter(recorded: Recorded, tmp_path: Path) -> None:
    def shift(values: dict[str, Any]) -> None:
        found = values["network_weights"].items()
        values["network_weights"] = {n.replace("all_modules.1.", "all_modules.2."): t for n, t in found}

    in_checkpoint(recorded, shift)
    change(recorded.folder / "plans.json", in_arguments(dropout_op="torch.nn.Dropout3d", dropout_op_kwargs={"p": 0.1}))
    assert import_nnunet(recorded.folder, out=tmp_path / "model").is_dir()


def test_more_labels_than_a_mask_can_hold_are_refused(recorded: Recorded, tmp_path: Path) -> None:
    def widen(values: dict[str, Any]) -> None:
        for name, tensor in values["network_weights"].items():
            if "seg_layers" in name:
                values["network_weights"][name] = torch.zeros((300, *tensor.shape[1:]))

    in_checkpoint(recorded, widen)
    labels = {"background": 0, **{f"l{i}": i for i in range(1, 300)}}
    change(recorded.folder / "dataset.json", lambda d: d.update(labels=labels))
    with pytest.raises(ModelError, match="at most 255 labels"):
        import_nnunet(recorded.folder, out=tmp_path / "model")


@pytest.mark.parametrize("name", ["spacing", "patch_size", "n_stages"])
def test_a_missing_value_of_the_plans_is_named(name: str, recorded: Recorded, tmp_path: Path) -> None:
    def remove(plans: dict[str, Any]) -> None:
        base = plans["configurations"]["base"]
        base.pop(name, None)
        base["architecture"]["arch_kwargs"].pop(name, None)

    change(recorded.folder / "plans.json", remove)
    with pytest.raises(ModelError, match=name):
        import_nnunet(recorded.folder, out=tmp_path / "model")


def test_a_model_that_could_not_be_loaded_is_not_written(recorded: Recorded, tmp_path: Path) -> None:
    change(recorded.folder / "plans.json", in_base(spacing=[5000.0, 1.0, 1.0]))
    with pytest.raises(ModelError, match="spacing_mm"):
        import_nnunet(recorded.folder, out=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_masks_of_another_import_of_the_same_weights_are_not_kept(recorded: Recorded, tmp_path: Path) -> None:
    place = import_nnunet(recorded.folder, out=tmp_path / "model", orientation="stored")
    before = fingerprint_of(load_model(place, device="cpu"))
    import_nnunet(recorded.folder, out=place, orientation="RAS")
    assert fingerprint_of(load_model(place, device="cpu")) != before


@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "fold_0"])
def test_a_missing_part_is_named(name: str, recorded: Recorded, tmp_path: Path) -> None:
    (recorded.folder / name).rename(recorded.folder.parent / f"moved-{name}")
    with pytest.raises(ModelError, match=name.removesuffix("_0")):
        import_nnunet(recorded.folder, out=tmp_path / "model")


def test_a_missing_fold_is_named_with_those_that_are_there(recorded: Recorded, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fold 3") as caught:
        import_nnunet(recorded.folder, out=tmp_path / "model", folds=["0", "3"])
    assert "folds 0" in str(caught.value.expected)


def test_the_folder_of_a_dataset_with_one_model_is_enough(recorded: Recorded, tmp_path: Path) -> None:
    assert import_nnunet(recorded.folder.parent, out=tmp_path / "model").is_dir()
    other = recorded.folder.parent / "nnUNetTrainer__nnUNetPlans__2d"
    (other / "fold_0").mkdir(parents=True)
    (other / "plans.json").write_text("{}")
    with pytest.raises(ModelError, match="several models"):
        import_nnunet(recorded.folder.parent, out=tmp_path / "second")


def test_the_weights_of_the_best_epoch_can_be_imported(recorded: Recorded, tmp_path: Path) -> None:
    fold = recorded.folder / "fold_0"
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_best.pth")
    with pytest.raises(ModelError, match=r"no fold with checkpoint_final.pth"):
        import_nnunet(recorded.folder, out=tmp_path / "model")
    assert import_nnunet(recorded.folder, out=tmp_path / "model", checkpoint="best").is_dir()


def test_plans_of_early_versions_are_read(recorded: Recorded, tmp_path: Path) -> None:
    def as_early(plans: dict[str, Any]) -> None:
        base = plans["configurations"]["base"]
        arguments = base.pop("architecture")["arch_kwargs"]
        base |= {
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 4,
            "unet_max_num_features": 8,
            "n_conv_per_stage_encoder": arguments["n_conv_per_stage"],
            "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
            "conv_kernel_sizes": arguments["kernel_sizes"],
            "pool_op_kernel_sizes": arguments["strides"],
        }

    change(recorded.folder / "plans.json", as_early)
    with pytest.raises(ModelError, match="do not fit"):  # widths 4, 8, 8 in place of 4, 6, 8: the weights decide
        import_nnunet(recorded.folder, out=tmp_path / "model")


def test_files_of_the_user_are_not_overwritten(recorded: Recorded, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("mine")
    with pytest.raises(OutputError):
        import_nnunet(recorded.folder, out=tmp_path / "model")
    assert (tmp_path / "model" / "model.json").read_text() == "mine"


def test_the_record_says_that_the_training_data_are_not_known(recorded: Recorded, tmp_path: Path) -> None:
    place = import_nnunet(recorded.folder, out=tmp_path / "model")
    _, record = read_record(place)
    assert record.training_images == (UNKNOWN,)
    assert "training data are not known either" in (place / "card.md").read_text()


def test_an_ensemble_with_other_models_is_refused(recorded: Recorded, tmp_path: Path) -> None:
    model = load_model(import_nnunet(recorded.folder, out=tmp_path / "model"), device="cpu")
    with pytest.raises(ModelError, match="cannot be averaged"):
        Ensemble([model, model])


def test_an_exported_program_gives_the_logits_of_the_model(recorded: Recorded, tmp_path: Path) -> None:
    place = import_nnunet(recorded.folder, out=tmp_path / "model")
    program = export(place, out=tmp_path / "program", format_="pt2")
    description = json.loads((program.parent / "description.json").read_text())
    assert [s["step"] for s in description["before"]] == ["orient", "crop", "normalise", "resample", "windows"]
    assert description["largest_difference"] < 1e-3


def test_an_imported_model_is_listed(recorded: Recorded, tmp_path: Path) -> None:
    place = import_nnunet(recorded.folder, out=tmp_path / "model")
    (listed,) = models([place]).models
    assert (listed.network, listed.labels) == ("plain_conv_unet", {"one": 1, "two": 2})
    assert [c.normalisation for c in listed.channels] == ["nnunet"]


def test_the_command_imports_and_names_the_next_one(
    recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "nnunet", str(recorded.folder), "--out", str(tmp_path / "model"), "--folds", "0"]) == 0
    assert f"--model {tmp_path / 'model'}" in capsys.readouterr().out.replace("\n", "")
    assert main(["import", "monai", str(recorded.folder), "--out", str(tmp_path / "other")]) == 2
    assert "nnunet" in capsys.readouterr().err


def test_the_next_command_can_be_pasted_whatever_the_folder_is_called(
    recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "o'ü $(touch x)"
    assert main(["import", "nnunet", str(recorded.folder), "--out", str(place)]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    words = shlex.split(said[said.index("medhybrid predict") :])
    assert words[words.index("--model") + 1].replace(" ", "") == str(place).replace(" ", "")


def test_a_reader_of_others_needs_the_orientation(recorded: Recorded, tmp_path: Path) -> None:
    change(recorded.folder / "plans.json", lambda plans: plans.update({"image_reader_writer": "ReaderThatFlips"}))
    with pytest.raises(ModelError, match=r"image reader 'ReaderThatFlips'.*--orientation stored"):
        import_nnunet(recorded.folder, out=tmp_path / "model")
    assert import_nnunet(recorded.folder, out=tmp_path / "model", orientation="stored").is_dir()


def test_an_edited_record_of_an_imported_model_is_refused(recorded: Recorded, tmp_path: Path) -> None:
    place = import_nnunet(recorded.folder, out=tmp_path / "model")
    for by in (
        lambda record: record.update(nnunet=None),
        lambda record: record["network"].update(widths=[10**9, 4, 4]),
        lambda record: record["nnunet"].update(regions=[9, 9, 9]),
    ):
        content = (place / "model.json").read_text()
        change(place / "model.json", by)
        with pytest.raises(ModelError):
            load_model(place, device="cpu")
        (place / "model.json").write_text(content)


def test_evaluating_a_model_of_unknown_training_data_says_so(
    recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = import_nnunet(recorded.folder, out=tmp_path / "model")
    predict(recorded.images, model=place, out=tmp_path / "out", device="cpu")
    (tmp_path / "references").mkdir()
    for mask in (tmp_path / "out" / "masks").iterdir():
        shutil.copy(mask, tmp_path / "references" / mask.name)
    assert main(["evaluate", str(tmp_path / "references"), str(tmp_path / "out")]) == 0
    assert "scans that trained this model are not known" in " ".join(capsys.readouterr().out.split())
