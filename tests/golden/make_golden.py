"""Write the golden values: python -m tests.golden.make_golden. A commit that changes them says why."""

import json
from pathlib import Path

from medhybrid.training.losses import compute_loss

HERE = Path(__file__).parent


def main() -> None:
    """Loss terms of a formula's logits, and the first losses of a small training."""
    (HERE / "losses.json").exists() or (HERE / "losses.json").write_text("{}")
    from tests.training.test_losses import example

    terms = compute_loss(*example(), 0.3)
    names = ("total", "cross_entropy", "dice", "auxiliary")
    (HERE / "losses.json").write_text(json.dumps({n: float(getattr(terms, n)) for n in names}, indent=1) + "\n")


if __name__ == "__main__":
    main()
