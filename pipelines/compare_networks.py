"""Compare network kinds with the same budget, cases and seeds, paired by case, to measure the effect of each part.

    python pipelines/compare_networks.py hippocampus.yaml /data/hippocampus --minutes 10
    python pipelines/compare_networks.py brain.yaml /data/glioma --minutes 20

`resnet_deep` is the ResNet with one more block instead of the Transformer, and about as many parameters as the hybrid.
`identity` is the hybrid without its Transformer blocks. The result is in RUNS/<study>/compare-networks and in MLflow, with the
trainings as nested runs. After an interruption, call it again to continue. On a machine with other work, use steps instead of
minutes; `benchmarks/step_rates.py` measures the steps for equal time:
--steps hybrid=3200,resnet=3630
"""

import argparse
from pathlib import Path

import medhybrid

KINDS: dict[str, list[str]] = {
    "hybrid": ["network.kind=hybrid"],
    "resnet": ["network.kind=resnet"],
    "resnet_deep": ["network.kind=resnet", "network.blocks=[1,1,3]"],
    "identity": ["network.kind=identity"],
    "interleave": ["network.kind=interleave"],
    "transformer": ["network.kind=transformer"],
}


def main() -> None:
    """Prepare the data, train all kinds and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("root", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--kinds", default=",".join(KINDS), help="network kinds; the first is compared with the others")
    parser.add_argument("--steps", help="kind=steps,...: replaces --minutes and --kinds")
    chosen = parser.parse_intermixed_args()
    minutes = [f"training.max_minutes={chosen.minutes}"]
    lengths = dict.fromkeys(chosen.kinds.split(","), minutes)
    if chosen.steps:
        steps = dict(pair.split("=") for pair in chosen.steps.split(","))
        lengths = {kind: [f"training.iterations={n}", "training.max_minutes=null"] for kind, n in steps.items()}
    common = [f"data.root={chosen.root}", *chosen.overrides]
    configs = {
        kind: medhybrid.load_config(chosen.config, [*common, *length, *KINDS[kind]]) for kind, length in lengths.items()
    }
    medhybrid.preprocess(next(iter(configs.values())))

    seeds = [int(s) for s in chosen.seeds.split(",")]
    result = medhybrid.compare_settings(configs, seeds=seeds, name="compare-networks")

    if result is None:
        raise SystemExit(130)
    print(result.table)
    print(f"{result.folder}; view the runs: medhybrid review --runs {configs[next(iter(configs))].runs}")


if __name__ == "__main__":
    main()
