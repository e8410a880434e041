"""Figures of a hyperparameter search: importance of the keys, and the score over each key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ENOUGH_TRIALS = 4
"""Least number of finished trials for which figures are drawn."""


def draw_search(study: Any, folder: Path) -> list[Path]:
    """Write `importance.png` and `slice.png` of an Optuna study; none for a search with few finished trials."""
    import matplotlib.pyplot as plt

    done = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    if len(done) < ENOUGH_TRIALS or len({t.value for t in done}) == 1:
        return []
    from optuna.importance import get_param_importances

    importance = get_param_importances(study)
    figure, axes = plt.subplots(figsize=(7, 0.5 * len(importance) + 1.2), layout="constrained")
    axes.barh(list(importance)[::-1], list(importance.values())[::-1], color="#4477aa")
    axes.set(xlabel="share of the score's variance (fANOVA)", title=f"{study.study_name}: importance of the settings")
    axes.spines[["top", "right"]].set_visible(False)
    paths = [folder / "importance.png", folder / "slice.png"]
    figure.savefig(paths[0], dpi=120)
    plt.close(figure)

    keys = list(importance)
    figure, grid = plt.subplots(
        1, len(keys), figsize=(2.6 * len(keys), 3), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, key in zip(grid[0], keys, strict=True):
        values = [t.params[key] for t in done]
        is_text = any(not isinstance(v, int | float) for v in values)
        axes.scatter([str(v) for v in values] if is_text else values, [t.value for t in done], s=22, color="#4477aa")
        is_log = any(getattr(t.distributions[key], "log", False) for t in done)
        axes.set(xlabel=key, xscale="log" if is_log else "linear") if not is_text else axes.set(xlabel=key)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("mean Dice")
    figure.savefig(paths[1], dpi=120)
    plt.close(figure)
    return paths
