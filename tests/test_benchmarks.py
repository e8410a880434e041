"""Every script of `benchmarks/` runs on small generated data; each test says what it omits."""

from __future__ import annotations

import csv
import importlib
import io
import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

import medhybrid
from medhybrid.config import StudyConfig
from medhybrid.data.phantom import Template
from medhybrid.inference.precision import Precision
from medhybrid.runs.prepared import prepared_folder
from medhybrid.scans.dicom.write import write_mr_series
from tests.brief import InThisProcess, blank_pictures, in_this_process, small_program
from tests.browser import needs_browser
from tests.inference.nnunet.recorded_model import write_recorded
from tests.synthetic import blob_case, save_nifti, small_values, write_study

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PARTS = BENCHMARKS / "speed_parts"
SCRIPTS = sorted(p.stem for p in BENCHMARKS.glob("*.py"))
LIBRARIES = {"nnunet", "race"}
"""Modules of `benchmarks/` that only other scripts use."""

SHAPE = (20, 24, 12)
CASES = [f"case_{n}" for n in range(6)]
VALIDATION = CASES[4:]
LABELS = {"right": 2, "left": 1}
"""The order differs from that of the values, so that a table of consecutive values changes them."""


@dataclass(frozen=True)
class Tiny:
    """Dataset of two channels, of which the second is optional, its config and a run of four steps."""

    root: Path
    file: Path
    config: StudyConfig
    run: Path

    @property
    def places(self) -> list[str]:
        """Return the overrides for a training of two steps."""
        return ["training.iterations=2", "training.max_minutes=null"]


def write_dataset(root: Path) -> None:
    """Write six cases in the layout of the Decathlon: images of two channels and labels of 1 and 2."""
    for n, name in enumerate(CASES):
        image, mask = blob_case(n, SHAPE)
        save_nifti(root / "imagesTr" / f"{name}.nii.gz", np.stack([image, image[::-1]], axis=-1))
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", np.where(mask == 4, 2, mask).astype(np.uint8))
    listed = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in CASES]
    about = {"modality": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "left", "2": "right"}}
    (root / "dataset.json").write_text(json.dumps(about | {"training": listed}))
    (root / "splits.json").write_text(json.dumps([{"train": CASES[:4], "validation": VALIDATION}]))


@pytest.fixture(scope="module", autouse=True)
def _fast() -> Iterator[None]:
    """Let scripts import each other, and omit figures, exports and worker processes in their trainings."""
    path, modules = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(BENCHMARKS), str(PARTS)]
    with blank_pictures(), small_program(), in_this_process():
        yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:  # names such as `report` or `datasets` are also those of libraries
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, _fast: None) -> Tiny:
    """Return a dataset, its config and a trained run. Do not write into them."""
    folder = tmp_path_factory.mktemp("tiny")
    write_dataset(folder / "data")
    values = small_values(folder)
    values["data"] |= {
        "channels": [{"name": "T1", "modality": "MR"}, {"name": "T2", "modality": "MR", "optional": True}],
        "labels": LABELS,
    }
    values["prepare"] |= {"patch_size": [16, 16, 8]}
    values["training"] |= {"iterations": 4, "n_validations": 1}
    values["tracking"] = {"kind": "none"}
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    config = medhybrid.load_config(file, [])
    medhybrid.preprocess(config)
    return Tiny(folder / "data", file, config, medhybrid.train(config).folder)


Load = Callable[[str], Any]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return the folder for the results of the scripts in a test."""
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def script(results: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Return a function that imports a script and directs its results to the folder of this test."""

    def load(name: str) -> ModuleType:
        module = importlib.import_module(name)
        for place in ("RESULTS", "RESULT"):
            if hasattr(module, place):
                kept = getattr(module, place).relative_to(BENCHMARKS / "results")
                monkeypatch.setattr(module, place, results / kept)
        return module

    return load


def call_in_process(module: Any) -> SimpleNamespace:
    """Return a replacement of `subprocess`, which calls `main` of the script in this process."""

    def run(command: list[Any], **_: Any) -> CompletedProcess[str]:
        assert command[:2] == [sys.executable, module.__file__]
        with redirect_stdout(io.StringIO()) as out:
            module.main([str(part) for part in command[2:]])
        return CompletedProcess(command, 0, out.getvalue(), "")

    return SimpleNamespace(run=run)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def in_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs a browser."""
    for mark in needs_browser:
        test = mark(test)
    return test


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in LIBRARIES])
def test_every_script_describes_its_arguments(name: str, script: Load, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        script(name).main(["--help"])

    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_every_script_has_a_test_here() -> None:
    tests = Path(__file__).read_text()

    files = sorted(p.stem for p in BENCHMARKS.rglob("*.py"))
    assert [name for name in files if f'("{name}")' not in tests] == []


def test_accuracy_compares_networks_by_case(
    tiny: Tiny, script: Load, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The processes of single trainings are calls here.
    accuracy = script("accuracy")
    monkeypatch.setattr(accuracy, "subprocess", call_in_process(accuracy))

    accuracy.main([str(tiny.file), str(tiny.root), "--steps", "hybrid=1,segresnet=2"])

    records = {r["setting"]: r for r in read_json(results / "accuracy_blobs.json")}
    assert {name: r["steps"] for name, r in records.items()} == {"hybrid": 1, "segresnet": 2}
    assert all(sorted(r["cases"]) == VALIDATION and r["gflops_a_patch"] > 0 for r in records.values())
    assert "| segresnet |" in (results / "accuracy_blobs.md").read_text()
    assert (results / "accuracy_blobs.png").is_file()


NNUNET_COMMAND = """#!/bin/sh
folder="$nnUNet_results/Dataset900_data/nnUNetTrainerMinutes__nnUNetPlans__3d_fullres/fold_0/validation"
mkdir -p "$folder" "$nnUNet_preprocessed/Dataset900_data"
cp "$nnUNet_raw/Dataset900_data/labelsTr/"* "$folder"
echo '{"steps": 7, "seconds": 1.5, "parameters": 9}' > "$NNUNET_REPORT"
"""


def test_nnunet_gets_consecutive_labels_and_its_masks_are_scored_with_the_labels_of_the_dataset(
    tiny: Tiny, script: Load, tmp_path: Path
) -> None:
    # Instead of nnU-Net, a program returns the references that it was given: the Dice is 1.
    accuracy, nnunet = script("accuracy"), script("nnunet")
    for name in ("nnUNetv2_plan_and_preprocess", "nnUNetv2_train"):
        command = tmp_path / name
        command.write_text(NNUNET_COMMAND)
        command.chmod(0o755)
    folder = tmp_path / "prepared"
    shutil.copytree(prepared_folder(tiny.config), folder / tiny.config.name)
    config = medhybrid.load_config(tiny.file, [f"prepare.folder={folder}", "training.max_minutes=1"])

    record = accuracy.train_nnunet(config, "nnunet", tiny.root, tmp_path)

    raw = folder / "blobs-nnunet" / "nnUNet_raw" / f"Dataset{nnunet.DATASET_ID}_data"
    given = np.asarray(nib.load(raw / "labelsTr" / "case_4.nii.gz").dataobj)
    reference = np.asarray(nib.load(tiny.root / "labelsTr" / "case_4.nii.gz").dataobj)
    np.testing.assert_array_equal(given, np.array([0, 2, 1])[reference])
    assert read_json(raw / "dataset.json")["labels"] == {"background": 0, "right": 1, "left": 2}
    assert sorted(p.name for p in (raw / "imagesTr").glob("case_4*")) == ["case_4_0000.nii.gz", "case_4_0001.nii.gz"]
    assert record["cases"] == dict.fromkeys(VALIDATION, 1.0)
    assert (record["steps"], record["parameters"]) == (7, 9)


def test_busy_tests_counts_failed_rounds(script: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_two.py").write_text("def test_right():\n    assert True\n\ndef test_wrong():\n    assert False\n")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        code = script("busy_tests").main([str(tmp_path / "test_two.py"), "--rounds", "1", "--busy", "1"])
    finally:
        signal.signal(signal.SIGTERM, handler)

    shown = capsys.readouterr().out
    assert code == 1
    assert "1 of 1 rounds failed beside 1 busy processes" in shown
    assert "round 1: 1 failed, 1 passed" in shown
    assert "test_two.py::test_wrong" in shown


def test_datasets_trains_with_the_config_of_init(
    tiny: Tiny, script: Load, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The training, that of accuracy.py, is omitted: the planned network is for minutes.
    datasets = script("datasets")
    trained: list[StudyConfig] = []

    def train_one(config: StudyConfig, setting: str, minutes: float) -> dict[str, Any]:
        trained.append(config)
        record = {"setting": setting, "seed": 0, "minutes": minutes, "steps": 3}
        return record | {"curve": [(0.1, 0.4)], "summary": {"dice": 0.5}}

    monkeypatch.setattr(datasets, "train_one", train_one)

    page = results.parents[1] / "docs" / "results" / "accuracy.md"
    page.parent.mkdir(parents=True)
    page.write_text(f"before\n{datasets.BEGIN}\nold\n{datasets.END}\nafter\n")

    datasets.main([f"tiny={tiny.root}:0.1", "--settings", "hybrid", "--work", str(tmp_path / "work")])

    assert [c.name for c in trained[0].data.channels] == ["T1", "T2"]
    assert trained[0].data.labels == LABELS
    assert "| tiny | 0.1 | hybrid | 0 |" in (results / "datasets.md").read_text()
    assert page.read_text().split("\n")[::8] == ["before", "after"]
    assert "| tiny | 0.1 | hybrid | 0 |" in page.read_text()
    assert (results.parents[1] / "docs" / "images" / "datasets.png").is_file()


def test_dicom_measures_each_reader_and_the_listing(script: Load, tmp_path: Path) -> None:
    script("dicom").main(["--quick", "--out", str(tmp_path / "dicom.json")])

    found = read_json(tmp_path / "dicom.json")
    assert list(found["read 3 x 24 x 20"]) == ["medhybrid", "SimpleITK", "highdicom"]
    assert (found["list"]["series"], found["list"]["files"]) == (2, 4)


def test_dicom_readers_finds_a_plain_series_right_and_a_moved_volume_wrong(
    script: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = script("dicom_readers")
    values = np.arange(60).reshape(5, 4, 3).astype(np.uint16)
    write_mr_series(tmp_path / "in" / "plain", values, np.eye(4), description="T1", study="s", case="c")

    def moved(folder: Path) -> Any:
        (scan,) = readers.with_simpleitk(folder)
        affine = scan.affine.copy()
        affine[0, 3] += 1
        return [replace(scan, affine=affine)]

    monkeypatch.setattr(readers, "READERS", readers.READERS | {"moved": moved})

    readers.main([str(tmp_path / "in"), "--out", str(tmp_path / "page.md")])

    row = next(line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("| plain"))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells[:4] == ["right"] * 4
    assert cells[-1] == "**wrong**"


def test_far_context_counts_blobs_with_the_label_of_the_nearer_key(
    script: Load, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = script("far_context")
    monkeypatch.setattr(far, "SHAPE", (96, 96, 8))
    network = ["network.widths=[8,16]", "network.blocks=[1,1]", "network.depth=1", "prepare.patch_size=[16,16,8]"]
    length = ["training.iterations=1", "training.max_minutes=null", "training.n_validations=1"]

    far.main(
        ["--folder", str(tmp_path), "--scans", "2,1", "--seeds", "0", "--kinds", "hybrid,resnet", *network, *length]
    )

    assert {kind: shares["blobs"] for kind, shares in read_json(results / "far_context.json")["kinds"].items()} == {
        "hybrid": 8,
        "resnet": 8,
    }
    _, labels, blobs, (bright, dark) = far.make_scan(2)
    for blob in blobs:
        is_bright = np.linalg.norm(blob - bright) < np.linalg.norm(blob - dark)
        assert labels[tuple(blob)] == (1 if is_bright else 2)
    for right, prediction in ((True, labels), (False, (3 - labels) * (labels > 0))):
        save_nifti(tmp_path / "run" / "validation" / "far_002.nii.gz", prediction.astype(np.uint8))
        assert [r for _, r in far.right_by_distance(tmp_path / "run", ["far_002"])] == [right] * 8


def test_faults_sees_half_files_and_compares_losses_and_masks(script: Load, tmp_path: Path) -> None:
    # Not run: the kills themselves; tests/test_killed_trainings.py and tests/inference/test_engines.py kill processes.
    faults = script("faults")
    save_nifti(tmp_path / "masks" / "whole.nii.gz", np.ones((2, 2, 2), np.uint8))
    save_nifti(tmp_path / "masks" / "half.nii.gz", np.ones((20, 20, 20), np.uint8))
    whole = (tmp_path / "masks" / "half.nii.gz").read_bytes()
    assert faults.half_files(tmp_path) == []
    assert faults.masks_of(tmp_path)["whole.nii.gz"] != faults.masks_of(tmp_path)["half.nii.gz"]

    (tmp_path / "masks" / "half.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "record.json").write_text('{"a"')
    lines = [
        json.dumps({"step": step, "values": {"train/loss": loss}}) for step, loss in ((1, 3.0), (2, 2.0), (2, 1.5))
    ]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"step": 3, "val']))

    assert sorted(faults.half_files(tmp_path)) == ["masks/half.nii.gz", "record.json"]
    assert faults.losses_of(tmp_path) == {1: 3.0, 2: 1.5}


def test_fold_scores_the_validation_cases_of_a_run(tiny: Tiny, script: Load, results: Path) -> None:
    script("fold").main([str(tiny.file), str(tiny.root), "--run", str(tiny.run)])

    record = read_json(results / "blobs.json")
    with (results / "blobs_scores.csv").open(newline="") as file:
        scored = {row["case"] for row in csv.DictReader(file)}
    assert scored == set(VALIDATION)
    assert (record["run"], record["steps"]) == (tiny.run.name, 4)


def test_fuzz_starts_from_files_that_the_readers_accept(
    script: Load, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The search needs atheris; here a finding and the output of its library are written instead.
    fuzz = script("fuzz")
    for target, name in fuzz.NAMES.items():
        path = tmp_path / target / name
        path.parent.mkdir(parents=True)
        fuzz.example(target, path)
        fuzz.reader(target)(path)

    def run(command: list[str], **_: Any) -> CompletedProcess[str]:
        (Path(command[-1]) / "plan" / "finding-1").touch()
        return CompletedProcess(command, 77, "", "#1\tINITED\n#12\tDONE\n")

    monkeypatch.setattr(fuzz, "subprocess", SimpleNamespace(run=run))
    fuzz.main(["--only", "plan", "--seconds", "1", "--folder", str(tmp_path / "search")])

    assert read_json(results / "fuzz.json") == {"plan": {"seconds": 1, "inputs": 12, "findings": 1}}


GPU_PARTS = ("ceilings", "step", "windows", "folder", "precision", "ct", "memory", "learn")


@pytest.fixture(scope="module")
def gpu_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


@pytest.mark.parametrize("part", GPU_PARTS)
def test_each_gpu_measurement_runs_on_a_cpu(
    part: str, tiny: Tiny, script: Load, gpu_work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The numbers mean nothing: sizes are tiny.
    gpu = script("gpu")
    assert tuple(gpu.PARTS) == GPU_PARTS

    gpu.main([part, str(tiny.root), "--device", "cpu", "--tiny", "--work", str(gpu_work)])

    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["part"] == part
    expected = {
        "ceilings": lambda r: r["matrix_product_tflops"] > 0,
        "step": lambda r: set(r["steps_a_second"]) == {"hybrid", "dynunet"} and len(r["parts"][0]["ms"]) == 5,
        "windows": lambda r: min(r["ours_s"], r["monai_s"]) > 0,
        "folder": lambda r: r["scans"] == len(VALIDATION) and r["stages_s"]["infer"] > 0,
        "precision": lambda r: r["float32"]["dice_min"] == 1,
        "ct": lambda r: r["1 labels"]["scans"] == 2 and r["25 labels"]["stages_s"]["read"] > 0,
        "memory": lambda r: r["predicted_mib"] is None or r["predicted_mib"] > 0,
        "learn": lambda r: [r[n]["steps"] for n in ("hybrid", "dynunet")] == [2, 2],
    }
    assert expected[part](record), record


def test_a_gpu_session_keeps_the_result_of_each_part_and_how_others_failed(
    tiny: Tiny, script: Load, tmp_path: Path
) -> None:
    session, out = script("gpu_session"), tmp_path / "gpu.jsonl"
    options = ["--device", "cpu", "--tiny", "--parts", "ceilings,folder", "--out", str(out), "--minutes", "5"]

    session.main([str(tmp_path / "absent"), *options])

    ceilings, folder = (json.loads(line) for line in out.read_text().splitlines())
    assert (ceilings["part"], "failed" in ceilings, ceilings["is_tiny"]) == ("ceilings", False, True)
    assert folder["part"] == "folder"
    assert folder["failed"].startswith("exit 1: ")


def test_many_labels_measures_steps_preparation_and_prediction(
    script: Load, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_labels = script("many_labels")
    monkeypatch.setattr(many_labels, "subprocess", call_in_process(many_labels))

    many_labels.main(["--labels", "2,20", "--patch", "16", "--shape", "24x24x20", "--seconds", "0", "--turns", "1"])

    found = read_json(results / "many_labels.json")
    assert set(found["labels"]) == {"2", "20"}
    assert set(found["reached"]) == set(found["aims"])
    assert all(of["n_steps"] >= 3 and of["prediction_gib"] >= 0 for of in found["labels"].values())


def test_growth_measures_a_scan_and_several_scans(script: Load, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    growth = script("growth")
    monkeypatch.setattr(growth, "subprocess", call_in_process(growth))
    figure = results.parents[1] / "docs" / "images" / "growth.png"
    figure.parent.mkdir(parents=True)

    growth.main(["--sizes", "40x48x20", "--labels", "1", "--cases", "2"])

    points = read_json(results / "growth.json")["points"]
    assert [(p["cases"], p["windows"]) for p in points] == [(1, 1), (2, 2)]
    assert len((results / "growth.md").read_text().splitlines()) == 4
    assert figure.is_file()


@pytest.mark.slow
def test_listener_soak_answers_every_study_beside_hostile_connections(script: Load, results: Path) -> None:
    pytest.importorskip("pynetdicom")

    script("listener_soak").main(["--studies", "1", "--connections", "6", "--minutes", "0.02"])

    record = read_json(results / "listener_soak.json")
    assert record["answered_once"] == 1
    assert len(record["hostile_connections_made"]) >= 5


def test_nnunet_truth_writes_models_and_images_of_each_kind(script: Load, tmp_path: Path) -> None:
    # nnU-Net itself, which predicts the masks, is not installed here.
    truth = script("nnunet_truth")
    for kind, values in truth.KINDS.items():
        model, images = tmp_path / kind / "model", tmp_path / kind / "images"
        model.mkdir(parents=True)
        images.mkdir()
        truth.write_model(model, values, np.random.default_rng(0))
        truth.write_images(images, values, np.random.default_rng(0))
        imported = medhybrid.load_model(medhybrid.import_nnunet(model, out=tmp_path / kind / "imported"), device="cpu")
        assert len(list(images.iterdir())) == 2 * len(imported.plan.channels)


def test_serve_load_loses_and_doubles_no_job(script: Load, results: Path, tmp_path: Path) -> None:
    recorded = write_recorded("ct", tmp_path / "theirs")
    model = medhybrid.import_nnunet(recorded.folder, out=tmp_path / "model")
    scan = recorded.images / "case0_0000.nii.gz"
    script("serve_load").main(["--model", str(model), "--scan", str(scan), "--clients", "2", "--jobs", "2"])

    record = read_json(results / "serve_load.json")
    assert (record["jobs"], record["done"], record["lost"], record["doubled"]) == (4, 4, 0, 0)


def test_memory_records_the_memory_of_a_command(script: Load, results: Path) -> None:
    # `listen` differs from listener_soak.py only in what it records.
    memory = script("memory")
    block = 50 << 20

    memory.watch("block", [sys.executable, "-c", f"import time; b = b'x' * {block}; time.sleep(0.3)"], 0.05)

    record = read_json(results / "memory_block.json")
    assert record["returncode"] == 0
    assert record["most_mib"] > 50
    assert (results / "memory_block.png").is_file()


def test_missing_channels_changes_the_dice_of_the_optional_channel_only(
    tiny: Tiny, script: Load, results: Path
) -> None:
    script("missing_channels").main([str(tiny.run)])

    (rows,) = read_json(results / "missing_channels.json").values()
    assert list(rows) == ["none", "T2"]


def test_modalities_writes_two_studies_of_the_same_layout(
    script: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The template is a coarse ball, which needs neither nilearn nor seconds.
    modalities = script("modalities")
    near = sum(x**2 for x in np.meshgrid(*[np.linspace(-1, 1, 28)] * 3, indexing="ij"))
    grey, white, head = ((near < r).astype(np.float32) for r in (0.4, 0.3, 0.6))
    template = Template(grey - white, white, head, np.diag([2.0, 2.0, 2.0, 1.0]))
    monkeypatch.setattr(modalities, "load_template", lambda: template)
    monkeypatch.setattr(modalities, "N_TRAIN", 1)
    monkeypatch.setattr(modalities, "N_VALIDATION", 0)

    modalities.main([str(tmp_path)])

    for name in ("mr", "ct"):
        config = medhybrid.load_config(
            tmp_path / f"{name}.yaml", [f"data.root={tmp_path / name}", "training.iterations=1"]
        )
        assert config.data.channels[0].modality == name.upper()
    ct = np.asarray(nib.load(tmp_path / "ct" / "images" / "ct_00.nii.gz").dataobj)
    assert ct.min() == -1000  # air
    assert ct.max() > 500  # bone


def test_plan_choices_has_a_row_for_each_dataset_and_machine(
    tiny: Tiny, script: Load, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = script("plan_choices")
    monkeypatch.setattr(choices, "Processes", InThisProcess)
    monkeypatch.setattr(choices, "DESCRIBED", choices.DESCRIBED[:1])
    monkeypatch.setattr(choices, "MACHINES", choices.MACHINES[:2])

    choices.main([f"tiny={tiny.root}"])

    rows = (results / "plan_choices.md").read_text().splitlines()[2:]
    names = ["tiny", *(described.name for described in choices.DESCRIBED)]
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in names for _ in choices.MACHINES]


def test_planning_trials_records_a_training_of_the_inner_split(
    tiny: Tiny, script: Load, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = script("planning_trials")
    monkeypatch.setattr(trials, "LEAST_STEPS", 2)
    network = ["network.widths=[8,16]", "network.blocks=[1,1]", "network.depth=1", "prepare.patch_size=[16,16,8]"]
    length = ["--minutes", "0", "--seconds", "0.01", "--work", str(tmp_path)]

    trials.main([f"tiny={tiny.root}", "--trial", "small", *length, *network])

    (record,) = [json.loads(line) for line in (results / "planning_trials.jsonl").read_text().splitlines()]
    assert (record["steps"], record["patch_size"], record["inner"]) == (2, [16, 16, 8], 1)
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    with (run / "validation.csv").open(newline="") as file:
        validated = {row["case"] for row in csv.DictReader(file)}
    assert validated
    assert not validated & set(VALIDATION)


def test_label_next_compares_ranked_scans_with_scans_at_random(
    tiny: Tiny, script: Load, results: Path, tmp_path: Path
) -> None:
    network = ["network.widths=[8,16]", "network.blocks=[1,1]", "network.depth=1", "prepare.patch_size=[16,16,8]"]
    sizes = ["--first", "2", "--more", "2", "--steps", "2", "--seeds", "0", "--work", str(tmp_path)]

    script("label_next").main([f"tiny={tiny.root}", *sizes, *network])

    (record,) = [json.loads(line) for line in (results / "label_next.jsonl").read_text().splitlines()]
    assert set(record["dice"]) == {"few", "ranked", "random"}
    assert len(record["ranked"]) == len(record["random"]) == 2
    assert not set(record["first"]) & {*record["ranked"], *record["random"]}
    assert not set(VALIDATION) & {*record["first"], *record["ranked"], *record["random"]}


def test_scribbles_are_trained_alone_and_scored_against_the_masks(script: Load, results: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_study(root, n_cases=5)
    listed = read_json(root / "dataset.json")
    names = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "left", "4": "right"}}
    (root / "dataset.json").write_text(json.dumps(listed | names))
    for path in sorted((root / "labelsTr").iterdir()):
        image = nib.load(path)
        mask = np.asarray(image.dataobj)
        known = np.zeros(mask.shape, bool)
        known[::4, ::4] = True
        save_nifti(root / "scribblesTr" / path.name, np.where(known, mask, 9), image.affine)
    small = ["network.widths=[8,16]", "network.blocks=[1,1]", "network.depth=1", "prepare.patch_size=[16,16,8]"]
    length = ["training.iterations=2", "training.max_minutes=null"]

    script("scribbles").main([f"tiny={root}", "--work", str(tmp_path / "work"), *small, *length])

    (record,) = [json.loads(line) for line in (results / "scribbles.jsonl").read_text().splitlines()]
    assert (record["ignore_value"], record["beyond_scribbles"], record["cases"]) == (9, "background", 3)
    assert {"dice", "dice.left", "dice.right"} <= record["scores"].keys()
    linked = tmp_path / "work" / "dataset" / "labelsTr"
    assert linked.resolve() == root / "scribblesTr"


def test_practices_compares_settings_and_repeats_no_recorded_training(
    tiny: Tiny, script: Load, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    practices = script("practices")
    call = [str(tiny.file), str(tiny.root), "--other", str(tiny.file), str(tiny.root), "--work", str(tmp_path)]
    call += ["--steps", "2", "--other-steps", "2", "--masks", "", "--settings", "scratch,layer_decay", "--seeds", "0"]

    practices.main(call)

    table = (results / "practices_blobs.md").read_text()
    assert "| layer_decay |" in table
    monkeypatch.setattr(practices.medhybrid, "compare_settings", None)  # a training would fail
    practices.main(call)
    assert [r["setting"] for r in read_json(results / "practices_blobs.json")] == ["scratch", "layer_decay"]


def test_precision_compares_the_masks_of_the_fast_paths(
    tiny: Tiny, script: Load, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenVINO's paths are omitted: tests/inference/test_openvino.py compares its masks.
    precision = script("precision")
    monkeypatch.setattr(precision, "WAYS", {k: precision.WAYS[k] for k in ("float32", "bf16")})

    precision.main([str(tiny.root), str(tiny.run)])

    ways = read_json(results / "precision_blobs.json")["ways"]
    assert ways["float32"][0]["dice_to_float32"] == dict.fromkeys(VALIDATION, 1.0)
    assert set(ways["bf16"][0]["dice_to_float32"]) == set(VALIDATION)


def test_a_race_alternates_and_takes_the_time_that_a_program_reports(script: Load, tmp_path: Path) -> None:
    race = script("race")
    log = tmp_path / "log"

    def append(name: str) -> Callable[[], None]:
        return lambda: log.write_text((log.read_text() if log.exists() else "") + name)

    reports = ["/bin/sh", "-c", "echo start; echo '{\"seconds\": 42}'"]
    told = race.race(
        [race.Contender("a", reports, before=append("a")), race.Contender("b", ["true"], before=append("b"))], rounds=2
    )

    assert log.read_text() == "abba"
    assert race.median(told["a"]) == (42, 42, 42)
    assert all(t["seconds"] == t["wall_s"] < 42 for t in told["b"])
    with pytest.raises(SystemExit, match="b failed"):
        race.race([race.Contender("b", ["false"])], rounds=1)


@in_browser
def test_report_measures_the_pages_in_a_browser(
    tiny: Tiny, script: Load, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = script("report")
    monkeypatch.setattr(report, "ROUNDS", 1)
    medhybrid.predict(tiny.root / "imagesTr" / "case_4.nii.gz", model=tiny.run, out=tmp_path / "out")

    report.main([str(tmp_path / "out")])

    record = read_json(results / "report.json")
    assert record["n_cases"] == 1
    assert len(record["index_load_s"]) == len(record["largest_page_load_s"]) == 1


@pytest.mark.slow
def test_scale_predicts_a_folder_and_loses_no_case_of_a_list(
    script: Load, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other engines than one process are omitted: tests/inference/test_engines.py compares their masks.
    from medhybrid.inference.engines import pool

    scale = script("scale")
    monkeypatch.setattr(pool, "AGAIN_AFTER_S", pool.AGAIN_AFTER_S)  # the script sets it
    monkeypatch.setattr(scale, "WAYS", {"this process": []})

    scale.main(["folder", "--cases", "2"])
    scale.main(["list", "--cases", "40", "--deaths", "0.3"])

    found = read_json(results / "scale.json")
    assert (found["folder"][0]["masks"], found["folder"][0]["exit"]) == (2, 0)
    assert [(r["lost"], r["done"] + r["set_aside"]) for r in found["list"]] == [(0, 40), (0, 40)]
    assert found["list"][1]["deaths"] > 0


def test_speed_records_contenders_in_a_table(
    script: Load, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The programs are omitted: here are a command that ends at once, and an environment of nnU-Net that only names versions.
    speed = script("speed")
    (tmp_path / "python").write_text("#!/bin/sh\necho /packages 2.6 2.13\n")
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "scans-hippocampus").mkdir()
    (tmp_path / "scans-hippocampus" / "a_0000.nii.gz").touch()
    (tmp_path / f"hippocampus-{speed.N_STEPS}-steps.txt").write_text("a_run")
    monkeypatch.setattr(speed, "MEDHYBRID", ["true"])
    data = [
        "--hippocampus",
        str(tmp_path),
        "--glioma",
        str(tmp_path),
        "--nnunet",
        str(tmp_path),
        "--work",
        str(tmp_path),
    ]

    speed.main([*data, "--only", "start", "--rounds", "2"])

    record = read_json(results / "speed.json")["predict one small scan"]
    assert record["machine"]["nnunetv2"] == "2.6"
    assert len(record["told"]["ours"]) == 2
    assert "| medhybrid --help | ours |" in (results / "speed.md").read_text()


def test_parts_of_speed_read_the_same_array(script: Load, tmp_path: Path) -> None:
    reading = script("reading")
    path = save_nifti(tmp_path / "a.nii.gz", np.arange(24, dtype=np.int16).reshape(2, 3, 4))

    ours, theirs, itk = (reading.read(who, path) for who in ("ours", "nibabel", "simpleitk"))

    assert ours.squeeze().shape == theirs.shape
    np.testing.assert_array_equal(theirs, itk.transpose(2, 1, 0))
    assert sorted(ours.ravel()) == sorted(theirs.ravel())


@pytest.mark.parametrize("kind", ["everywhere", "lesion"])
def test_parts_of_speed_give_the_labels_of_the_plain_way(
    script: Load, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    to_scan = script("to_scan")
    counts = []
    for who in ("ours", "plain"):
        to_scan.main(who, kind, "60", "56", "48", "2")
        counts.append(json.loads(capsys.readouterr().out)["voxels"])

    np.testing.assert_allclose(counts[0], counts[1], atol=60 * 56 * 48 / 1000)
    assert min(counts[0]) > 0 or kind == "lesion"


def test_parts_of_speed_predict_the_same_windows(script: Load) -> None:
    windows = script("windows")
    torch.manual_seed(0)
    network = windows.build_network(
        windows.NetworkConfig(),
        n_channels=1,
        n_labels=2,
        strides=((2, 2, 2),) * 3,
        token_mm=(8.0, 8.0, 8.0),
    ).eval()
    image = windows.volume((16, 16, 16), 1, "tissue")  # one window: the programs blend windows with other weights

    plain, monai = (windows.way(who, network, (16, 16, 16), 3)(image) for who in ("plain", "monai"))

    torch.testing.assert_close(plain, monai, atol=1e-4, rtol=1e-4)


def test_parts_of_speed_train_ours(tiny: Tiny, script: Load) -> None:
    told = script("training").ours(prepared_folder(tiny.config), 0.01, "float32")

    assert told["steps"] >= 1
    assert told["samples_per_s"] == pytest.approx(1 / told["seconds"])


def test_parts_of_speed_measure_the_limits(script: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = script("limits")
    calls: list[Any] = []
    monkeypatch.setattr(limits, "best", lambda function, seconds=0.0: calls.append(function()) or 0.5)
    monkeypatch.setattr(limits, "BLOCK", 1 << 20)

    assert limits.matrix_rate(torch.float32) == pytest.approx(2 * 2048**3 / 0.5 / 1e9)
    network = limits.network_rate("hippocampus", Precision.FLOAT32)
    assert network["gflop_per_s"] == pytest.approx(2 * network["gflop"] / 0.5)
    assert min(limits.disk_rate()) > 0


def test_step_rates_prints_the_steps_for_equal_time(
    tiny: Tiny, script: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    script("step_rates").main(
        [
            str(tiny.file),
            str(tiny.root),
            "--minutes",
            "1",
            "--kinds",
            "hybrid,resnet",
            "--seconds",
            "0.05",
            "--turns",
            "1",
        ]
    )

    steps = dict(pair.split("=") for pair in capsys.readouterr().out.splitlines()[-1].split(","))
    assert list(steps) == ["hybrid", "resnet"]
    assert all(int(n) > 0 for n in steps.values())


def test_transformer_probe_measures_attention_and_thirds_by_volume(
    tiny: Tiny, script: Load, results: Path, tmp_path: Path
) -> None:
    probe = script("transformer_probe")

    probe.main([str(tiny.run)])

    (record,) = read_json(results / "transformer_probe.json").values()
    assert list(record["attended mm"]) == ["block 1", "even"]
    assert list(record["reach"]) == ["whole", "20 mm", "40 mm", "60 mm", "without the Transformer"]
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        rows = [(f"{kind}-seed0", case, dice) for kind, dice in (("hybrid", 0.9), ("resnet", 0.7)) for case in CASES]
        csv.writer(file).writerows([("training", "case", "dice"), *rows])
    thirds = probe.by_size(tmp_path / "cases.csv", {case: n + 1.0 for n, case in enumerate(CASES)})["resnet"]
    assert list(thirds) == ["small, below 2.0 ml", "middle, below 4.0 ml", "large, below 6.0 ml"]
    assert all(text.startswith("0.2") for text in thirds.values())


class FakeTrainer:
    """The parts of nnU-Net's trainer that `nnUNetTrainerMinutes` uses."""

    initial_lr = 0.01

    def __init__(self) -> None:
        self.network = torch.nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1.0)
        self.dataloader_train = iter(int, 1)
        self.configuration_manager = SimpleNamespace(batch_size=2, patch_size=(8, 8, 8))
        self.output_folder = ""
        self.calls: list[str] = []

    def train_step(self, _: int) -> None:
        self.calls.append("step")

    def on_train_start(self) -> None:
        self.calls.append("start")

    def on_train_end(self) -> None:
        self.calls.append("end")

    def save_checkpoint(self, path: str) -> None:
        Path(path).touch()


def test_programs_for_the_environment_of_nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # nnU-Net is not installed here; a small class has the names that the programs use.
    trainer = FakeTrainer()
    trainer.output_folder = str(tmp_path)
    parts = ["nnunetv2", "nnunetv2.training", "nnunetv2.training.nnUNetTrainer", "nnunetv2.run"]
    for name in parts:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, values in {
        "nnunetv2.training.nnUNetTrainer.nnUNetTrainer": {"nnUNetTrainer": FakeTrainer},
        "nnunetv2.run.run_training": {"get_trainer_from_args": lambda *_, **__: trainer},
    }.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**values))
    monkeypatch.syspath_prepend(BENCHMARKS / "nnunet_trainer")
    monkeypatch.setenv("NNUNET_MINUTES", "0.0002")
    monkeypatch.setenv("NNUNET_REPORT", str(tmp_path / "report.json"))

    importlib.import_module("untrained_nnunet")
    made = importlib.import_module("minutes").nnUNetTrainerMinutes()
    made.run_training()

    assert (tmp_path / "checkpoint_final.pth").is_file()
    assert trainer.calls == ["start", "end"]
    report = read_json(tmp_path / "report.json")
    assert made.calls == ["start", *["step"] * report["steps"], "end"]
    assert report["parameters"] == 3
