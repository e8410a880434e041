"""Write the golden values: `python -m tests.golden.make_golden`. A commit that changes them gives the reason."""

import json
import tempfile
from pathlib import Path

import torch

import medhybrid
from medhybrid.networks import Logits
from medhybrid.training.losses import compute_loss
from tests.synthetic import small_config, write_study

HERE = Path(__file__).parent

TERMS = {
    "total": "train/loss",
    "cross_entropy": "train/cross_entropy",
    "dice": "train/dice_loss",
    "auxiliary": "train/auxiliary_loss",
}
"""Terms of the golden losses, with their names among the metrics."""


def example() -> tuple[Logits, torch.Tensor]:
    """Return logits and targets from a formula, the same on every host."""
    n = 2 * 3 * 4 * 4 * 4
    full = torch.sin(torch.arange(n, dtype=torch.float64)).reshape(2, 3, 4, 4, 4).float()
    target = (torch.arange(2 * 64) * 7 % 3).reshape(2, 4, 4, 4)
    return Logits(full, full[..., ::2, ::2, ::2]), target


def training_losses(folder: Path) -> list[float]:
    """Return every tenth loss of the first steps of a small training."""
    write_study(folder / "data")
    config = small_config(folder, "training.iterations=50", "tracking.kind=none")
    medhybrid.preprocess(config)
    run = medhybrid.train(config)
    events = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return [e["values"]["train/loss"] for e in events if "train/loss" in e.get("values", {})]


def main() -> None:
    """Write the loss terms for the logits of a formula, and the losses of a small training."""
    metrics = compute_loss(*example(), 0.3).metrics()
    _write("losses.json", {name: metrics[key] for name, key in TERMS.items()})
    with tempfile.TemporaryDirectory() as folder:
        _write("training.json", training_losses(Path(folder)))


def _write(name: str, values: object) -> None:
    (HERE / name).write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
