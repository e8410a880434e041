"""Analyse the Transformer of a trained hybrid: its attention distances, and the Dice without distant attention.

    python benchmarks/transformer_probe.py runs/brain/<run>
    python benchmarks/transformer_probe.py runs/brain/<run> --cases runs/brain/compare-networks/cases.csv

Measured on the validation cases of the run, without further training:

- **attention distance**: mean distance in mm between a token and the tokens it attends to, by block, and for uniform attention;
- **reach**: Dice with attention masked beyond some distance, and without the Transformer;
- with `--cases`, the difference between the hybrid and each other kind of a comparison, in thirds of cases by reference volume.

"Far" is the predicted volume more than 20 mm away from the reference. Adds a record to results/transformer_probe.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

import medhybrid
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.store import PreparedCase
from medhybrid.inference.model import Model
from medhybrid.inference.to_grid import labels_on_scan
from medhybrid.inference.windows import to_tensor
from medhybrid.metrics import dice, mean_interval, paired_difference
from medhybrid.networks import transformer
from medhybrid.runs.prepared import prepared_folder
from medhybrid.runs.resume import run_config

RESULTS = Path(__file__).parent / "results" / "transformer_probe.json"

REACHES_MM = (20.0, 40.0, 60.0)

FAR_MM = 20.0


@dataclass
class Watch:
    """Token distances (T, T) of the current map, and mean attention distances of each block for all calls so far."""

    n_blocks: int
    reach_mm: float
    distance: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    n_calls: int = 0
    attended_mm: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    even_mm: list[float] = field(default_factory=list)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute `transformer.attend` with attention masked beyond the reach, except for metadata tokens without position."""
        n = self.distance.shape[0]
        scores = (q.float() @ k.float().transpose(-1, -2)) * q.shape[-1] ** -0.5  # (B, H, T, T)
        scores = scores if bias is None else scores + bias
        scores[..., :n, :n].masked_fill_(self.distance > self.reach_mm, -math.inf)
        weights = scores.softmax(dim=-1)
        among = weights[..., :n, :n]
        attended = (among * self.distance).sum(-1) / among.sum(-1).clamp_min(1e-9)
        self.attended_mm[self.n_calls % self.n_blocks].append(float(attended.mean()))
        self.even_mm.append(float(self.distance.mean()))
        self.n_calls += 1
        out: Tensor = (weights @ v.float()).to(v.dtype)
        return out


@contextmanager
def watched(model: Model, reach_mm: float) -> Iterator[Watch]:
    """Record the attention of the model's Transformer, and mask it beyond a reach, inside the context."""
    bottleneck = model.run.bottleneck  # type: ignore[attr-defined]  # the network with cast weights, which predicts
    assert bottleneck is not None
    trained = bottleneck.transformer
    watch = Watch(len(trained.blocks), reach_mm)

    def place(_: Any, inputs: tuple[Tensor, ...]) -> None:
        x, y, z = inputs[0].shape[2:]
        positions = transformer.token_positions_mm((x, y, z), trained.token_mm)
        watch.distance = torch.cdist(positions, positions).to(inputs[0].device)

    plain, hook = transformer.attend, trained.register_forward_pre_hook(place)
    transformer.attend = watch.attend
    try:
        yield watch
    finally:
        transformer.attend = plain
        hook.remove()


def score(model: Model, case: PreparedCase) -> tuple[float, float]:
    """Return the mean Dice over the labels of a case on the grid of its scan, and the far volume in ml."""
    logits = model.logits(to_tensor(case.image(), model.device), case.record.context)
    prediction = labels_on_scan(logits, case.grid, case.turn.grid(case.source_grid), case.turn)
    reference = case.source_mask()
    spacing = case.source_grid.spacing_mm
    away = (
        distance_transform_edt(reference == 0, sampling=spacing) if reference.any() else np.full(reference.shape, 1e9)
    )
    far_ml = float(((prediction > 0) & (away > FAR_MM)).sum() * np.prod(spacing) / 1000)
    labels = range(1, model.plan.n_labels + 1)
    return float(np.mean([dice(prediction == v, reference == v) for v in labels])), far_ml


def probe(model: Model, cases: list[PreparedCase]) -> dict[str, Any]:
    """Run all measurements of a model."""
    with watched(model, math.inf) as watch:
        whole = [score(model, c) for c in cases]
    attended = {f"block {n + 1}": round(float(np.mean(mm)), 1) for n, mm in sorted(watch.attended_mm.items())}
    record: dict[str, Any] = {
        "attended mm": attended | {"even": round(float(np.mean(watch.even_mm)), 1)},
        "reach": {"whole": f"{mean_interval([d for d, _ in whole])}; far {np.mean([f for _, f in whole]):.2f} ml"},
    }
    cut: dict[str, list[tuple[float, float]]] = {}
    for reach in REACHES_MM:
        with watched(model, reach):
            cut[f"{reach:g} mm"] = [score(model, c) for c in cases]
    run: Any = model.run
    bottleneck, run.bottleneck = run.bottleneck, None
    cut["without the Transformer"] = [score(model, c) for c in cases]
    run.bottleneck = bottleneck
    for name, scores in cut.items():
        gap = paired_difference([d for d, _ in scores], [d for d, _ in whole])
        far = np.mean([f for _, f in scores])
        record["reach"][name] = f"{mean_interval([d for d, _ in scores])}; change {gap.interval}; far {far:.2f} ml"
    return record


def by_size(table: Path, volume_ml: dict[str, float]) -> dict[str, dict[str, str]]:
    """Return the difference between hybrid and each other kind, in thirds of cases by volume; seeds are averaged by case."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            scores[row["training"].rsplit("-seed", 1)[0]][row["case"]].append(float(row["dice"]))
    ordered = sorted(scores["hybrid"], key=lambda case: volume_ml[case])
    thirds = dict(zip(("small", "middle", "large"), np.array_split(ordered, 3), strict=True))
    return {
        kind: {
            f"{size}, below {volume_ml[cases[-1]]:.1f} ml": str(
                paired_difference(*([float(np.mean(scores[k][c])) for c in cases] for k in ("hybrid", kind))).interval
            )
            for size, cases in thirds.items()
        }
        for kind in scores
        if kind != "hybrid"
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurements and record them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cases", type=Path, help="cases.csv of pipelines/compare_networks.py")
    chosen = parser.parse_args(arguments)
    config, model = run_config(chosen.run), medhybrid.load_model(chosen.run)
    if config.network.kind != "hybrid":
        raise SystemExit(
            f"{chosen.run} has network.kind={config.network.kind}; expected a run with network.kind=hybrid"
        )
    dataset = PreparedDataset(prepared_folder(config))
    cases = dataset.open(dataset.fold_for(config).validation)
    with torch.inference_mode():
        record = probe(model, cases)
    if chosen.cases:
        record["hybrid less others"] = by_size(
            chosen.cases, {c.name: sum(c.record.reference_ml.values()) for c in cases}
        )
    records = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    records[f"{config.name}, {chosen.run.name}"] = record
    RESULTS.write_text(json.dumps(records, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
