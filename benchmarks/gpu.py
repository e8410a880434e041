"""Measure one part of the work on a GPU, and print the result as a line of JSON.

    python benchmarks/gpu.py step /data/hippocampus
    python benchmarks/gpu.py ct /data/hippocampus --device cpu --tiny

`gpu_session.py` runs all parts, each with a limit of time. The parts:

ceilings   rates of the device: matrix product, 3-D convolution, copies
step       a training step: its parts in ms, plain and as CUDA graphs; steps per second, beside nnU-Net's network (DynUNet)
learn      Dice over time for both networks, and the seconds until it is above 0.88 and 0.89
windows    sliding windows over a volume, beside MONAI
folder     a folder of small scans: scans per second, seconds of each stage, share of the time that the network computes
precision  masks in each precision against those of the CPU in float32
ct         a folder of large CTs with 1 and 25 labels, as `folder`
memory     peak memory of a training and of a CT, with the memory of the GPU limited to `--gib`

The config is that of `medhybrid init`. With `--tiny`, small data and few steps show that each part runs; its numbers mean
nothing. On a CPU, what only a GPU has is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import torch

import medhybrid
from medhybrid.config import InferenceConfig, NetworkConfig, StudyConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.layouts import list_dataset
from medhybrid.data.plan import Normalisation, Plan
from medhybrid.data.sampling import Batch, Prefetcher
from medhybrid.inference import folder as prediction
from medhybrid.inference.model import Model
from medhybrid.inference.model_record import ModelRecord
from medhybrid.inference.network import network_for
from medhybrid.inference.precision import choose_precision
from medhybrid.inference.windows import predict_windows
from medhybrid.inference.worklist import make_worklist
from medhybrid.metrics import dice
from medhybrid.networks.logits import Logits
from medhybrid.scans import discover
from medhybrid.steps.init import init_study
from medhybrid.tracking.several import SeveralTrackers
from medhybrid.training import loop
from medhybrid.training.step import PlainStep, RecordedStep

sys.path.insert(0, str(Path(__file__).parent))
from accuracy import PEERS, train_one

ROUNDS, WARM_STEPS = 5, 6
PRECISIONS = ("bf16", "fp16", "tf32", "float32")
GOALS = (0.88, 0.89)


@dataclass(frozen=True)
class Bench:
    """Device, data and size of the measurements."""

    device: torch.device
    data: Path
    work: Path
    tiny: bool
    minutes: float
    gib: float | None

    @property
    def is_gpu(self) -> bool:
        """Return whether the device is a CUDA GPU."""
        return self.device.type == "cuda"

    def small(self, full: int, tiny: int) -> int:
        """Return the size of a measurement."""
        return tiny if self.tiny else full

    def config(self, *overrides: str) -> StudyConfig:
        """Return the config of `medhybrid init`, with its prepared dataset."""
        file = self.work / "gpu.yaml"
        if not file.exists():
            init_study(self.data, file, name="gpu", minutes=self.minutes)
        places = [f"prepare.folder={self.work}/prepared", f"runs={self.work}/runs", "tracking.kind=none"]
        small = ["prepare.patch_size=[16,16,16]", "training.workers=1"] if self.tiny else []
        config = medhybrid.load_config(str(file), [*places, *small, f"training.device={self.device.type}", *overrides])
        medhybrid.preprocess(config)
        return config

    def wait(self) -> None:
        """Wait for the device."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], calls: int = 10) -> float:
        """Return the seconds of a call: the median of some rounds, each of which ends when the device is idle."""
        work()
        found = []
        for _ in range(self.small(ROUNDS, 1)):
            self.wait()
            began = time.perf_counter()
            for _ in range(self.small(calls, 1)):
                work()
            self.wait()
            found.append((time.perf_counter() - began) / self.small(calls, 1))
        return statistics.median(found)

    def peak_mib(self) -> int | None:
        """Return the peak memory on the GPU since the last call."""
        if not self.is_gpu:
            return None
        peak = torch.cuda.max_memory_allocated() >> 20
        torch.cuda.reset_peak_memory_stats()
        return peak


# --- rates and steps ----------------------------------------------------------------------------------------------


def ceilings(bench: Bench) -> dict[str, Any]:
    """Measure the peak rates of the device."""
    n, m = bench.small(8192, 64), bench.small(128, 8)
    square = torch.randn(n, n, device=bench.device, dtype=torch.bfloat16)
    image = torch.randn(2, 32, m, m, m, device=bench.device, dtype=torch.bfloat16)
    image = image.contiguous(memory_format=torch.channels_last_3d)
    weight = torch.randn(32, 32, 3, 3, 3, device=bench.device, dtype=torch.bfloat16)
    block = torch.empty(bench.small(1 << 28, 1 << 12), device=bench.device)
    host = torch.empty(block.numel() // 4, pin_memory=bench.is_gpu)
    target = torch.empty_like(host, device=bench.device)
    with torch.inference_mode():
        product = bench.seconds(lambda: square @ square)
        convolution = bench.seconds(lambda: torch.nn.functional.conv3d(image, weight, padding=1))
        copy = bench.seconds(lambda: block.clone())
        upload = bench.seconds(lambda: target.copy_(host, non_blocking=True))
    return {
        "matrix_product_tflops": 2 * n**3 / product * 1e-12,
        "convolution_tflops": 2 * 27 * 32 * image.numel() / convolution * 1e-12,
        "copy_gb_s": 2 * 4 * block.numel() / copy * 1e-9,
        "upload_gb_s": 4 * host.numel() / upload * 1e-9,
    }


def step_parts(trainer: loop.Trainer, batch: Batch) -> dict[str, Callable[[], object]]:
    """Return the parts of a training step as calls."""
    inputs = trainer.inputs(batch)
    return {
        "inputs": lambda: trainer.inputs(batch),
        "gradients": lambda: trainer.maker.gradients(*inputs),
        "update": trainer.maker.update,
        "average": lambda: trainer.average.update(trainer.network, trainer.step),
        "whole": lambda: trainer.train_step(batch),
    }


def step(bench: Bench) -> dict[str, Any]:
    """Measure the parts of a step with one batch, and steps per second with reading."""
    config = bench.config("training.iterations=100000", "training.max_minutes=null")
    dataset = PreparedDataset(medhybrid.preprocess(config).folder)
    cases = dataset.open(dataset.fold_for(config).train)
    rows = []
    ways = [(PlainStep, False), *([(RecordedStep, False), (PlainStep, True), (RecordedStep, True)] * bench.is_gpu)]
    for made, measures in ways:
        with _trainer(config, dataset, cases, made, measures) as trainer:
            batch = trainer.sampler.batch(0)
            _steps(trainer, [batch] * WARM_STEPS)
            bench.peak_mib()
            milliseconds = {k: round(bench.seconds(w) * 1e3, 3) for k, w in step_parts(trainer, batch).items()}
        way = "recorded" if made is RecordedStep else "plain"
        rows.append({"step": way, "cudnn_benchmark": measures, "ms": milliseconds, "peak_mib": bench.peak_mib()})
    plan = dataset.plan_for(config)
    rates = {
        name: _rate(bench, config, dataset, cases, PEERS[name](plan) if name in PEERS else None)
        for name in ("hybrid", "dynunet")
    }
    return {"patch": plan.patch_size, "batch": plan.batch_size, "parts": rows, "steps_a_second": rates}


@contextmanager
def _trainer(
    config: StudyConfig,
    dataset: PreparedDataset,
    cases: Sequence[Any],
    made: Any,
    measures: bool,
    network: torch.nn.Module | None = None,
) -> Iterator[loop.Trainer]:
    with tempfile.TemporaryDirectory() as folder, patch.object(loop, "RecordedStep", made):
        plan, tracker = dataset.plan_for(config), SeveralTrackers([])
        trainer = loop.Trainer(config, plan, cases, [], folder=Path(folder), tracker=tracker, network=network)
        torch.backends.cudnn.benchmark = measures
        trainer.network.train()
        yield trainer


def _steps(trainer: loop.Trainer, batches: Sequence[Batch]) -> None:
    for batch in batches:
        trainer.train_step(batch)
        trainer.step += 1


def _rate(
    bench: Bench, config: StudyConfig, dataset: PreparedDataset, cases: Sequence[Any], network: torch.nn.Module | None
) -> float:
    """Return steps per second with reading and augmentation."""
    n = bench.small(300, 2)
    with _trainer(config, dataset, cases, RecordedStep, bench.is_gpu, network) as trainer:
        source = Prefetcher(trainer.sampler, trainer.training.workers)
        _steps(trainer, [source.batch(i) for i in range(WARM_STEPS)])
        bench.wait()
        began = time.perf_counter()
        for _ in range(n):
            _steps(trainer, [source.batch(trainer.step)])
        bench.wait()
        rate = n / (time.perf_counter() - began)
        source.close()
    return round(rate, 2)


def learn(bench: Bench) -> dict[str, Any]:
    """Train our network and nnU-Net's for equal time."""
    found: dict[str, Any] = {}
    length = ["training.iterations=2", "training.max_minutes=null"] if bench.tiny else []
    for name in ("hybrid", "dynunet"):
        record = train_one(bench.config(*length), name, bench.minutes)
        until = {g: next((round(60 * m) for m, d in record["curve"] if d >= g), None) for g in GOALS}
        kept = ("steps", "seconds", "parameters", "curve")
        found[name] = {k: record[k] for k in kept} | {"dice": record["summary"]["dice"], "seconds_until": until}
    return found


# --- inference ----------------------------------------------------------------------------------------------------


def large_model(bench: Bench, n_labels: int) -> Model:
    """Return an untrained CT model whose logits are replaced by a smooth field, so that its masks are like those of organs."""
    window = (bench.small(96, 16),) * 3
    plan = Plan(
        study="ct", spacing_mm=(1.5,) * 3, patch_size=window, strides=((2, 2, 2),) * 3, batch_size=2,
        normalisation=(Normalisation(channel="CT", rule="clip_and_scale", low=-1000, high=1000, deviation=400),),
        labels={f"label{i}": i for i in range(1, n_labels + 1)}, mirror_axes=(), keep_largest=(), min_component_ml=0.5,
        blank_copied_channels=False,
    )  # fmt: skip
    tiny = {"widths": (8, 16, 32), "token_width": 24, "depth": 1, "heads": 2, "head_width": 8} if bench.tiny else {}
    config = NetworkConfig(**tiny)
    record = ModelRecord(
        medhybrid_version="0", network=config, inference=InferenceConfig(), channel_map={}, plan=plan, fold=0,
        data_hash="", weights_sha256="", metrics={},
    )  # fmt: skip
    model = Model(network_for(config, plan), record, bench.device)
    coarse = torch.randn((1, n_labels + 1, 4, 4, 4), generator=torch.Generator().manual_seed(0)).to(bench.device)
    field = torch.nn.functional.interpolate(coarse, size=window, mode="trilinear")
    compute = model.run

    def run(image: torch.Tensor) -> Logits:
        compute(image)
        logits = field.expand(len(image), -1, -1, -1, -1)
        return Logits(logits, logits)

    model.run = run
    return model


def write_cts(bench: Bench, folder: Path, n: int) -> None:
    """Write copies of a noisy CT of 512 x 512 x 400 voxels."""
    x, z = bench.small(512, 24), bench.small(400, 20)
    array = np.empty((x, x, z), np.int16)
    rng = np.random.default_rng(0)
    for k in range(z):
        array[:, :, k] = rng.normal(0, 200, (x, x))
    pending = folder.with_suffix(".part")  # a process that is stopped leaves no half of the data
    shutil.rmtree(pending, ignore_errors=True)
    pending.mkdir(parents=True)
    first = pending / "ct0.nii.gz"
    nib.Nifti1Image(array, np.diag([0.8, 0.8, 1.0, 1.0])).to_filename(first)
    for i in range(1, n):
        (pending / f"ct{i}.nii.gz").write_bytes(first.read_bytes())
    pending.rename(folder)


@contextmanager
def stages(bench: Bench) -> Iterator[dict[str, float]]:
    """Add up the seconds of reading, computing and writing; stages of different scans overlap on a GPU."""
    spent = {"read": 0.0, "infer": 0.0, "conclude": 0.0}

    def timed(name: str) -> Any:
        step = getattr(prediction, f"_{name}")

        def run(job: Any, case: Any) -> None:
            began = time.perf_counter()
            try:
                step(job, case)
                if name == "infer":
                    bench.wait()
            finally:
                spent[name] += time.perf_counter() - began

        return patch.object(prediction, f"_{name}", run)

    with contextlib.ExitStack() as stack:
        for name in spent:
            stack.enter_context(timed(name))
        yield spent


def _folder_record(n: int, seconds: float, spent: dict[str, float], bench: Bench) -> dict[str, Any]:
    return {
        "scans": n,
        "seconds": round(seconds, 3),
        "scans_a_second": round(n / seconds, 3),
        "stages_s": {k: round(v, 3) for k, v in spent.items()},
        "network_share": round(spent["infer"] / seconds, 3),
        "peak_mib": bench.peak_mib(),
    }


def ct(bench: Bench) -> dict[str, Any]:
    """Predict a folder of large CTs."""
    found = {}
    scans, n = bench.work / "cts", bench.small(4, 2)
    if not scans.exists():
        write_cts(bench, scans, n)
    for n_labels in (1, 25):
        model = large_model(bench, n_labels)
        work = make_worklist(discover(scans), [("CT", False)], {})
        with tempfile.TemporaryDirectory() as out, stages(bench) as spent:
            began = time.perf_counter()
            done = prediction.predict_worklist(model, work, Path(out))
            seconds = time.perf_counter() - began
        if failed := [p.message for p in done if p.status != "done"]:
            raise SystemExit(failed[0])
        found[f"{n_labels} labels"] = _folder_record(n, seconds, spent, bench)
    return found


def _trained(bench: Bench) -> tuple[Path, Path, list[str]]:
    """Return the folder of a short run, that of its validation scans, and their names."""
    config = bench.config(f"training.iterations={bench.small(300, 2)}", "training.max_minutes=null")
    scans = bench.work / "scans"
    fold = PreparedDataset(medhybrid.preprocess(config).folder).fold_for(config)
    if not scans.exists():
        pending = scans.with_suffix(".part")
        shutil.rmtree(pending, ignore_errors=True)
        pending.mkdir()
        files = {c.name: c.images[0].paths[0] for c in list_dataset(config.data).cases if c.images and c.images[0]}
        for name in fold.validation:
            (pending / files[name].name).write_bytes(files[name].read_bytes())
        pending.rename(scans)
    kept = bench.work / "model"
    if not kept.exists():
        kept.symlink_to(medhybrid.train(config).folder.resolve(), target_is_directory=True)
    return kept, scans, sorted(p.name for p in scans.iterdir())


def folder(bench: Bench) -> dict[str, Any]:
    """Predict a folder of small scans twice; the second time counts."""
    run, scans, names = _trained(bench)
    model = medhybrid.load_model(run, device=str(bench.device))
    for _ in range(2):
        with tempfile.TemporaryDirectory() as out, stages(bench) as spent:
            began = time.perf_counter()
            medhybrid.predict(scans, model=model, out=Path(out) / "out")
            seconds = time.perf_counter() - began
    return _folder_record(len(names), seconds, spent, bench)


def precision(bench: Bench) -> dict[str, Any]:
    """Compare masks in each precision with those of the CPU in float32."""
    run, scans, _ = _trained(bench)
    with tempfile.TemporaryDirectory() as place:
        plain = medhybrid.predict(scans, model=run, out=Path(place) / "cpu", device="cpu", precision="float32")
        expected = {p.name: np.asarray(nib.load(p).dataobj) for p in (plain.out / "masks").iterdir()}
        found = {}
        for name in PRECISIONS:
            out = Path(place) / name
            made = medhybrid.predict(scans, model=run, out=out, device=str(bench.device), precision=name)
            masks = {p.name: np.asarray(nib.load(p).dataobj) for p in (made.out / "masks").iterdir()}
            same = [dice(masks[n] > 0, expected[n] > 0) for n in sorted(expected)]
            found[name] = {"dice_mean": round(float(np.mean(same)), 5), "dice_min": round(float(np.min(same)), 5)}
    return found


def windows(bench: Bench) -> dict[str, Any]:
    """Measure sliding windows of our code and of MONAI with the same network and precision."""
    from monai.inferers import sliding_window_inference

    model = large_model(bench, 2)
    image = torch.rand((1, *(bench.small(256, 24),) * 3), device=bench.device) + 0.5
    chosen, size = choose_precision(bench.device, "auto"), model.plan.patch_size
    batch = bench.small(4, 2)

    def predictor(x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model.network(x).full
        return logits

    def ours() -> torch.Tensor:
        return predict_windows(
            image, predictor, window=size, n_classes=3, overlap=0.5, window_batch=batch, precision=chosen
        )

    def monai() -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(bench.device.type, chosen.dtype, enabled=chosen.value != "float32"):
            made: torch.Tensor = sliding_window_inference(
                image[None], size, batch, predictor, overlap=0.5, mode="gaussian"
            )
            return made

    return {"precision": str(chosen), "ours_s": bench.seconds(ours, 2), "monai_s": bench.seconds(monai, 2)}


def memory(bench: Bench) -> dict[str, Any]:
    """Train the largest network that the plan chooses, and predict a CT, in limited memory of the GPU."""
    if bench.is_gpu and bench.gib is not None:
        total = torch.cuda.get_device_properties(bench.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, bench.gib * 2**30 / total))
    config = bench.config(f"training.iterations={bench.small(30, 2)}", "training.max_minutes=null")
    plan = PreparedDataset(medhybrid.preprocess(config).folder).plan_for(config)
    medhybrid.train(config)
    predicted = plan.prediction.memory_bytes >> 20 if plan.prediction else None
    return {"gib": bench.gib, "predicted_mib": predicted, "training_mib": bench.peak_mib(), "ct": ct(bench)}


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "ceilings": ceilings,
    "step": step,
    "windows": windows,
    "folder": folder,
    "precision": precision,
    "ct": ct,
    "memory": memory,
    "learn": learn,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("data", type=Path, help="folder of a dataset with masks")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument(
        "--minutes", type=float, default=1.0, help="length of each training of `learn`, and of the plan"
    )
    parser.add_argument("--gib", type=float, help="limit of the memory on the GPU, for `memory`")
    parser.add_argument("--work", type=Path, help="folder for prepared data and runs, which parts share")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA GPU found; --device cpu --tiny shows that the parts run")
    with contextlib.ExitStack() as stack:
        work = chosen.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(torch.device(chosen.device), chosen.data, work.resolve(), chosen.tiny, chosen.minutes, chosen.gib)
        print(json.dumps({"part": chosen.part, **PARTS[chosen.part](bench)}), flush=True)


if __name__ == "__main__":  # workers import this file
    main()
