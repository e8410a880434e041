"""Pretrained weights initialise a network as far as they fit, with a result for each weight, and files run no code."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

import medhybrid
from medhybrid.config import NetworkConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.errors import ConfigError, DataError, ModelError
from medhybrid.inference.weights_file import UNKNOWN, About, write_weights
from medhybrid.networks import Network, build_network
from medhybrid.runs.prepared import prepared_folder
from medhybrid.runs.resume import run_config
from medhybrid.starts import begin_with
from medhybrid.starts.files import read_weights
from medhybrid.starts.fit import Names, fit
from medhybrid.starts.layouts import to_our_names
from medhybrid.steps.train import resume
from medhybrid.training.checkpoint import save_checkpoint
from tests.synthetic import StudyFolder, make_test_plan, small_config

pytestmark = pytest.mark.usefixtures("blank_pictures", "in_this_process")

RESNET18 = NetworkConfig(kind="resnet", widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2))


def network(
    config: NetworkConfig | None = None, *, channels: int = 1, labels: int = 1, z: int = 2, **changes: object
) -> Network:
    config = config or NetworkConfig(widths=(16, 32), blocks=(1, 1), token_width=24, heads=2, depth=1)
    strides = ((2, 2, z),) * len(config.widths)
    return build_network(
        config.model_copy(update=changes),
        n_channels=channels,
        n_labels=labels,
        strides=strides,
        token_mm=(4.0, 4.0, 4.0),
    )


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in net.named_parameters()}


def resnet18() -> dict[str, Tensor]:
    """Return random weights with the names and shapes of ResNet-18 in torchvision and timm."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), "bn1.weight": (64,), "bn1.bias": (64,)}
    before = 64
    for layer, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            shapes |= {f"{name}.conv1.weight": (width, before, 3, 3), f"{name}.conv2.weight": (width, width, 3, 3)}
            shapes |= {f"{name}.{bn}.{what}": (width,) for bn in ("bn1", "bn2") for what in ("weight", "bias")}
            if before != width:
                shapes[f"{name}.downsample.0.weight"] = (width, before, 1, 1)
                shapes |= {f"{name}.downsample.1.{what}": (width,) for what in ("weight", "bias")}
            before = width
    return {name: torch.randn(shape) for name, shape in (shapes | {"fc.weight": (1000, 512)}).items()}


# --- fitting of weights -----------------------------------------------------------------------------------------------


def test_all_weights_of_an_equal_network_are_taken() -> None:
    source, target = network(), network()

    rows = fit(target, state(source), Names(("T1",), ("a",)), Names(("T1",), ("a",)))

    assert {row.what for row in rows} == {"taken"}
    assert all(torch.equal(x, y) for x, y in zip(source.parameters(), target.parameters(), strict=True))


def test_channels_are_matched_by_name_and_new_ones_get_the_mean() -> None:
    source, target = network(channels=2), network(channels=3)

    fit(target, state(source), Names(("T1", "FLAIR"), ("a",)), Names(("FLAIR", "T2", "T1"), ("a",)))

    theirs, ours = source.encoder.stem[0].weight, target.encoder.stem[0].weight  # type: ignore[index, union-attr]
    torch.testing.assert_close(ours[:, 0], theirs[:, 1])
    torch.testing.assert_close(ours[:, 1], theirs.mean(1))
    torch.testing.assert_close(ours[:, 2], theirs[:, 0])
    theirs, ours = source.decoder.detail[0].weight, target.decoder.detail[0].weight  # type: ignore[index, union-attr]
    torch.testing.assert_close(ours[:, :16], theirs[:, :16])
    torch.testing.assert_close(ours[:, 16], theirs[:, 17])


def test_labels_are_matched_by_name_and_new_ones_keep_their_initial_weights() -> None:
    source, target = network(labels=2), network(labels=2)
    began = target.decoder.logits.weight.detach().clone()

    fit(target, state(source), Names(("T1",), ("anterior", "posterior")), Names(("T1",), ("posterior", "lesion")))

    theirs, ours = source.decoder.logits.weight, target.decoder.logits.weight
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[2])
    assert torch.equal(ours[2], began[2])


def test_weights_that_are_absent_or_have_another_shape_are_unchanged_and_listed() -> None:
    target = network(widths=(16, 48), depth=2)
    before = state(target)

    rows = {r.weight: r for r in fit(target, state(network()), Names(("T1",), ("a",)), Names(("T1",), ("a",)))}

    wider = rows["encoder.stages.1.0.second.weight"]
    assert (wider.what, wider.how) == ("other shape", "(32, 32, 3, 3, 3) there, (48, 48, 3, 3, 3) here")
    absent = "bottleneck.transformer.blocks.1.mlp.0.weight"
    assert rows[absent].what == "not there"
    assert torch.equal(dict(target.named_parameters())[absent], before[absent])


@given(st.sampled_from([1, 3, 5]), st.integers(0, 2**31))
def test_an_inflated_kernel_gives_the_2d_features_for_equal_slices(depth: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(4, 2, 3, 3, generator=generator)
    holder = nn.Module()
    holder.conv = nn.Conv3d(2, 4, (3, 3, depth), bias=False)

    fit(holder, {"conv.weight": flat}, Names(), Names())

    picture = torch.randn(1, 2, 6, 7, generator=generator)
    volume = picture[..., None].expand(-1, -1, -1, -1, depth)
    torch.testing.assert_close(holder.conv(volume)[..., 0], nn.functional.conv2d(picture, flat), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("there", "here"), [(1, 2), (2, 1)])
def test_weights_of_a_model_with_other_strides_fit_and_upsample_equally(there: int, here: int) -> None:
    source, target = network(z=there), network(z=here)

    rows = fit(target, state(source), Names(("T1",), ("a",)), Names(("T1",), ("a",)))

    assert {row.what for row in rows} == {"taken", "adapted"}
    coarse = torch.randn(1, 32, 2, 2, 1)
    theirs, ours = (net.decoder.ups[0].up(coarse).mean(-1) for net in (source, target))  # type: ignore[union-attr]
    torch.testing.assert_close(theirs, ours)


def test_a_2d_resnet_initialises_a_3d_encoder() -> None:
    tensors = resnet18()
    target = network(RESNET18, z=1)

    layout, ours = to_our_names(tensors)
    rows = {r.weight: r for r in fit(target, ours, Names(), Names(("T1",), ("a",)))}

    assert layout == "ResNet"
    encoder = {name: row.what for name, row in rows.items() if name.startswith("encoder.")}
    assert {name for name, what in encoder.items() if what not in ("taken", "adapted")} == {"encoder.stem.0.weight"}
    inflated = dict(target.named_parameters())["encoder.stages.2.1.second.weight"]
    torch.testing.assert_close(inflated.sum(-1), tensors["layer3.1.conv2.weight"])


def test_3d_kernels_of_medicalnet_are_taken_unchanged() -> None:
    tensors = {n: x[..., None].expand(*x.shape, 3) if x.shape[2:] == (3, 3) else x for n, x in resnet18().items()}
    target = network(RESNET18, z=1)
    weight = "encoder.stages.0.0.second.weight"

    _, ours = to_our_names(tensors)
    rows = {r.weight: r for r in fit(target, ours, Names(), Names(("T1",), ("a",)))}

    assert rows[weight].what == "taken"
    assert torch.equal(dict(target.named_parameters())[weight], tensors["layer1.0.conv2.weight"])


def test_weights_of_a_residual_encoder_of_nnunet_with_equal_widths_are_taken() -> None:
    tensors = {
        "encoder.stem.convs.0.conv.weight": torch.randn(32, 1, 3, 3, 3),
        "encoder.stages.0.blocks.0.conv1.conv.weight": torch.randn(32, 32, 3, 3, 3),
        "encoder.stages.1.blocks.0.conv1.norm.weight": torch.randn(64),
        "encoder.stages.1.blocks.0.skip.1.conv.weight": torch.randn(64, 32, 1, 1, 1),
    }
    target = network(NetworkConfig(kind="resnet"))

    layout, ours = to_our_names(tensors)
    rows = fit(target, ours, Names(), Names(("T1",), ("a",)))

    assert layout == "nnU-Net's residual encoder"
    assert {r.weight for r in rows if r.what == "taken"} == {
        "encoder.stem.0.weight",
        "encoder.stages.0.0.first.0.weight",
        "encoder.stages.1.0.first.1.weight",
        "encoder.stages.1.0.shortcut.1.weight",
    }


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pth"])
def test_tensors_are_read_from_any_file_type_without_pickled_code(tmp_path: Path, suffix: str) -> None:
    tensors = resnet18()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(tensors, path)
    elif suffix == ".npz":
        np.savez(path, **{n: x.numpy() for n, x in tensors.items()})
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{n}": x for n, x in tensors.items()}}, path)

    read = read_weights(path)

    assert read.tensors.keys() == tensors.keys()
    assert all(torch.equal(read.tensors[n], x) for n, x in tensors.items())
    assert len(read.sha256) == 64


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path("/tmp/medhybrid_was_here").touch, ())


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    torch.save({"state_dict": {"x": torch.ones(1)}, "more": Evil()}, tmp_path / "bad.pt")

    with pytest.raises(ModelError, match=r"holds more than weights.*safetensors"):
        read_weights(tmp_path / "bad.pt")
    assert not Path("/tmp/medhybrid_was_here").exists()


def test_an_npz_with_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", x=np.array([Evil()], dtype=object))

    with pytest.raises(ModelError, match="damaged or not a weights file"):
        read_weights(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pt", None, "no weights found"),
        ("weights.h5", b"x", "not a known type of weights file"),
        ("cut.safetensors", b"x" * 20, "damaged"),
        ("cut.pt", b"PK\x03\x04 cut", "damaged"),
    ],
)
def test_other_files_are_refused_with_the_reason(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(ModelError, match=message):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
def test_a_damaged_file_is_read_or_refused_as_damaged(suffix: str, flips: list[tuple[float, int]]) -> None:
    content = bytearray(whole_file(suffix))
    for place, change in flips:
        content[int(place * len(content))] ^= change
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"w{suffix}")
        path.write_bytes(content)
        with suppress(ModelError):
            read_weights(path)


@cache
def whole_file(suffix: str) -> bytes:
    tensors = {"a.weight": torch.ones(3, 4), "b": torch.arange(5.0)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"w{suffix}")
        if suffix == ".npz":
            np.savez_compressed(path, **{n: x.numpy() for n, x in tensors.items()})
        elif suffix == ".pt":
            torch.save(tensors, path)
        else:
            save_file(tensors, path)
        return path.read_bytes()


def test_an_npz_without_all_arrays_or_without_numbers_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "vit.npz", **{"conv_root/kernel": np.zeros((7, 7, 3, 64), np.float32)})
    with pytest.raises(ModelError, match=r"vit\.npz is incomplete.*gn_root/scale"):
        begin_with(network(), tmp_path / "vit.npz", make_test_plan())
    np.savez(tmp_path / "text.npz", a=np.zeros(2), note=np.array("by whom"))
    with pytest.raises(ModelError, match="damaged or not a weights file"):
        read_weights(tmp_path / "text.npz")


def test_weights_with_nan_or_infinite_values_are_refused_with_their_names(tmp_path: Path) -> None:
    weights = {name: torch.full_like(weight, torch.nan) for name, weight in state(network()).items()}
    save_file(weights, tmp_path / "nan.safetensors")

    with pytest.raises(ModelError, match=r"weights with NaN or infinite values.*encoder\.stem"):
        begin_with(network(), tmp_path / "nan.safetensors", make_test_plan())


def test_weights_are_read_from_the_folder_of_a_killed_run_but_not_from_other_folders(tmp_path: Path) -> None:
    save_checkpoint(
        tmp_path / "run" / "checkpoint", {"network": {}, "average": network().state_dict(), "optimiser": {}}
    )
    (tmp_path / "runs").mkdir()

    assert {row.what for row in begin_with(network(), tmp_path / "run", make_test_plan()).rows} == {"taken"}
    with pytest.raises(
        ModelError, match=r"runs cannot be used as pretrained weights.*docs/how-to/training-options\.md"
    ):
        read_weights(tmp_path / "runs")


def test_weights_that_would_get_the_same_name_are_not_taken() -> None:
    """A Swin Transformer numbers its blocks from 0 in each stage."""
    swin = {f"layers.{n}.blocks.0.attn.qkv.weight": torch.ones(72, 24) for n in range(2)}

    assert to_our_names(swin) == ("", {})


def test_the_checkpoint_of_a_run_gives_the_averaged_weights(tmp_path: Path) -> None:
    ours = network()
    save_checkpoint(tmp_path, {"network": {}, "average": ours.state_dict(), "optimiser": {}})

    start = begin_with(network(), tmp_path / "last.pt", make_test_plan())

    assert {row.what for row in start.rows} == {"taken"}
    torch.save({"version": 1, "average": ours.state_dict()}, tmp_path / "old.pt")
    with pytest.raises(ModelError, match=r"^(?!.*damaged).*another version of medhybrid"):
        begin_with(network(), tmp_path / "old.pt", make_test_plan())


def test_the_checkpoint_of_a_pretraining_initialises_a_network(tmp_path: Path) -> None:
    ours = network()
    taught = {f"network.{name}": weight for name, weight in ours.state_dict().items()}
    average = {**taught, "hidden_token": torch.zeros(4), "to_voxels.weight": torch.zeros(2, 2)}
    save_checkpoint(tmp_path, {"network": {}, "average": average, "optimiser": {}})

    start = begin_with(network(), tmp_path / "last.pt", make_test_plan())

    assert {row.what for row in start.rows} == {"taken"}


def test_resnets_with_three_convolutions_per_block_are_refused(tmp_path: Path) -> None:
    of_three = {**resnet18(), "layer1.0.conv3.weight": torch.ones(256, 64, 1, 1)}
    save_file(of_three, tmp_path / "resnet50.safetensors")

    with pytest.raises(ModelError, match=r"no weight in .* fits this network"):
        begin_with(network(), tmp_path / "resnet50.safetensors", make_test_plan())


def test_attention_with_another_number_of_heads_is_not_taken(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "start.safetensors", state(network(heads=2)), About(channels=("T1",), heads=2))

    start = begin_with(network(heads=4), path, make_test_plan())

    left = {row.weight for row in start.rows if row.what == "other shape"}
    assert left
    assert all(".attention." in weight for weight in left)
    assert all(row.how == "2 heads there" for row in start.rows if row.weight in left)


def test_statistics_of_batch_norm_are_taken_with_its_weights() -> None:
    there, here = (nn.Sequential(nn.BatchNorm3d(2)) for _ in range(2))
    nn.init.constant_(there[0].running_mean, 3.0)

    rows = fit(here, there.state_dict(), Names(), Names())

    assert {row.weight for row in rows if row.what == "taken"} >= {"0.weight", "0.running_mean", "0.running_var"}
    assert torch.equal(here[0].running_mean, there[0].running_mean)


def test_a_file_without_fitting_weights_is_refused_with_its_names(tmp_path: Path) -> None:
    save_file({"blocks.0.attn.qkv.weight": torch.ones(3, 1), "cls_token": torch.ones(1)}, tmp_path / "w.safetensors")
    plan = make_test_plan()

    with pytest.raises(ModelError, match=r"no weight in .* fits this network.*cls_token.*\(3, 1\) there"):
        begin_with(network(), tmp_path / "w.safetensors", plan)


def fold_of(run: Path) -> dict[str, list[str]]:
    """Return the cases of a run of the test study, whose dataset has one fold."""
    config = run_config(run)
    fold = PreparedDataset(prepared_folder(config)).fold_for(config)
    return {"train": list(fold.train), "validation": list(fold.validation)}


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_the_initialisation_may_be_limited_to_parts(trained: tuple[StudyFolder, Path]) -> None:
    _, run = trained
    model = medhybrid.load_model(run)
    target = build_network(
        model.record.network, n_channels=1, n_labels=2, strides=model.plan.strides, token_mm=model.plan.token_mm
    )

    start = begin_with(target, run, model.plan, parts=["encoder"])

    assert {row.what for row in start.rows if row.weight.startswith("encoder.")} == {"taken"}
    assert {row.what for row in start.rows if not row.weight.startswith("encoder.")} == {"not asked for"}
    with pytest.raises(ConfigError, match=r"training\.pretrained_parts: decodr selects no weight"):
        begin_with(target, run, model.plan, parts=["decodr"])


def test_the_weights_file_of_a_model_has_the_record_of_its_folder(
    trained: tuple[StudyFolder, Path], tmp_path: Path
) -> None:
    _, run = trained
    alone = tmp_path / "model.safetensors"
    alone.write_bytes((run / "model" / "model.safetensors").read_bytes())

    whole = read_weights(run).about
    assert whole is not None
    assert len(whole.training_images) == len(fold_of(run)["train"])
    assert read_weights(alone).about == whole
    model = medhybrid.load_model(run)
    start = begin_with(model.network, alone, model.plan)
    assert {row.what for row in start.rows} == {"taken"}
    assert "training scans are unknown" not in str(start)


def test_a_checkpoint_has_the_record_of_its_model_in_any_folder(
    trained: tuple[StudyFolder, Path], tmp_path: Path
) -> None:
    _, run = trained
    elsewhere = Path(shutil.copy(run / "checkpoint" / "last.pt", tmp_path / "weights.pt"))

    assert read_weights(elsewhere).about == read_weights(run).about


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "newer.safetensors"
    save_file(state(network()), path, metadata={"medhybrid": '{"format_version": 99, "what_is_new": 1}'})

    with pytest.raises(ModelError, match=r"another version of medhybrid.*99"):
        read_weights(path)


def test_unknown_training_scans_of_pretrained_weights_are_reported(tmp_path: Path) -> None:
    save_file(state(network()), tmp_path / "theirs.safetensors")

    start = begin_with(network(), tmp_path / "theirs.safetensors", make_test_plan())

    assert "training scans are unknown" in str(start)
    assert UNKNOWN in start.training_images, "a model initialised from them has unknown training scans, too"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_pretrained_weights_trained_on_validation_cases_are_refused(
    trained: tuple[StudyFolder, Path], tmp_path: Path
) -> None:
    study, run = trained
    data = Path(shutil.copytree(study.folder / "data", tmp_path / "data"))
    fold = json.loads((data / "splits.json").read_text())[0]
    moved = {"train": [*fold["train"][1:], *fold["validation"]], "validation": fold["train"][:1]}
    (data / "splits.json").write_text(json.dumps([fold, moved]))
    places = f"data.root={data}", f"prepare.folder={tmp_path / 'prepared'}", f"runs={tmp_path / 'runs'}"
    places += ("tracking.kind=none",)
    config = small_config(study.folder, "training.iterations=1", *places)
    medhybrid.preprocess(config)

    with pytest.raises(DataError, match=rf"data leakage: 1 of the 1 validation cases.*{fold['train'][0]}"):
        medhybrid.train(small_config(study.folder, "training.fold=1", f"training.pretrained={run}", *places))

    first = medhybrid.train(small_config(study.folder, "training.iterations=1", f"training.pretrained={run}", *places))
    # the weights of a pretrained model keep the record of its training cases
    with pytest.raises(DataError, match="data leakage: 1 of the 1 validation cases"):
        medhybrid.train(small_config(study.folder, "training.fold=1", f"training.pretrained={first.folder}", *places))

    (data / "splits.json").write_text(json.dumps([moved]))
    medhybrid.preprocess(config)
    before = (first.folder / "config.yaml").read_text()
    with pytest.raises(
        DataError, match=rf"the data have changed since the run {first.folder.name} started.*another fold"
    ):
        resume(first.folder, ["training.iterations=+1"])
    (first.folder / "data.json").unlink()  # as of a version that did not write it
    with pytest.raises(
        DataError, match=rf"1 of the 1 validation cases were used to train the run {first.folder.name}.*new run"
    ):
        resume(first.folder, ["training.iterations=+1"])
    assert (first.folder / "config.yaml").read_text() == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_is_initialised_from_a_model_and_stores_the_table(
    trained: tuple[StudyFolder, Path], tmp_path: Path
) -> None:
    study, run = trained
    changes = f"training.pretrained={run}", "training.iterations=1", f"runs={tmp_path}", "tracking.kind=none"
    config = small_config(study.folder, *changes)

    started = medhybrid.train(config)

    with (started.folder / "start.csv").open() as file:
        source, *rows = csv.DictReader(file)
    assert {row["what"] for row in rows} == {"taken"}
    assert source["how"] == f"sha256 {medhybrid.load_model(run).record.weights_sha256}"
    before, after = (medhybrid.load_model(folder).record.metrics["val/dice"] for folder in (run, started.folder))
    assert after == pytest.approx(before, abs=0.05)
