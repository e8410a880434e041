"""Compare settings of one study, each with all seeds and the same budget, paired by case.

    python pipelines/compare_settings.py brain.yaml DATA --setting "plain" --setting "slow training.peak_rate=1e-3"

A setting is a name and overrides (quoted if they contain spaces). The first setting is compared with the others. The result is
in RUNS/<study>/NAME and in MLflow, with the trainings as nested runs. After an interruption, call it again to continue.
"""

import argparse
import shlex
from pathlib import Path

import medhybrid


def main() -> None:
    """Prepare the data, train all settings and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("root", type=Path)
    parser.add_argument("overrides", nargs="*", help="overrides for all settings")
    parser.add_argument("--setting", action="append", required=True, help="NAME key=value key=value ...")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--name", default="compare-settings")
    chosen = parser.parse_intermixed_args()
    common = [f"data.root={chosen.root}", f"training.max_minutes={chosen.minutes}", *chosen.overrides]
    configs = {}
    for setting in chosen.setting:
        name, *overrides = shlex.split(setting)
        configs[name] = medhybrid.load_config(chosen.config, [*common, *overrides])
    medhybrid.preprocess(next(iter(configs.values())))

    result = medhybrid.compare_settings(configs, seeds=[int(s) for s in chosen.seeds.split(",")], name=chosen.name)

    if result is None:
        raise SystemExit(130)
    print(result.table)
    print(result.folder)


if __name__ == "__main__":
    main()
