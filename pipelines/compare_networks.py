"""What each part of the network adds: every kind with the same budget, cases and seeds, paired by case.

    python pipelines/compare_networks.py hippocampus.yaml /data/hippocampus --minutes 10
    python pipelines/compare_networks.py brain.yaml /data/glioma --minutes 20

`resnet_wide` is the ResNet with about as many parameters as the hybrid, `identity` the hybrid with its Transformer blocks
replaced by identity. The result is in RUNS/<study>/compare-networks and in MLflow, with the trainings nested; call it again to
go on.
"""

import argparse
from pathlib import Path

import medhybrid

KINDS: dict[str, list[str]] = {
    "hybrid": ["network.kind=hybrid"],
    "resnet": ["network.kind=resnet"],
    "resnet_wide": ["network.kind=resnet", "network.widths=[42,84,168]"],
    "identity": ["network.kind=identity"],
    "interleave": ["network.kind=interleave"],
    "transformer": ["network.kind=transformer"],
}


def main() -> None:
    """Prepare, train all, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("root", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--kinds", default=",".join(KINDS), help="the first is compared with the others")
    chosen = parser.parse_intermixed_args()
    common = [f"data.root={chosen.root}", f"training.max_minutes={chosen.minutes}", *chosen.overrides]
    configs = {kind: medhybrid.load_config(chosen.config, [*common, *KINDS[kind]]) for kind in chosen.kinds.split(",")}
    medhybrid.preprocess(next(iter(configs.values())))

    seeds = [int(s) for s in chosen.seeds.split(",")]
    result = medhybrid.compare(configs, seeds=seeds, name="compare-networks")

    if result is None:
        raise SystemExit(130)
    print(result.table)
    print(f"{result.folder}; look at the runs: medhybrid review --runs {configs[next(iter(configs))].runs}")


if __name__ == "__main__":  # workers import this file
    main()
