"""The MONAI transforms give the arrays that `medhybrid preprocess` stores without MONAI."""

import sys
from pathlib import Path
from subprocess import run

import numpy as np

from medhybrid.config import save_config
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.layouts import list_cases
from medhybrid.data.transforms import preparation_transforms
from medhybrid.runs.prepared import prepared_folder
from tests.synthetic import StudyFolder


def test_the_monai_transforms_give_the_stored_arrays(prepared: StudyFolder) -> None:
    dataset = PreparedDataset(prepared_folder(prepared.config))
    chain = preparation_transforms(dataset.plan, prepared.config)
    cases = {case.name: case for case in list_cases(prepared.config.data)}

    for stored in dataset.open(dataset.names()):
        data = chain({"case": cases[stored.name]})

        np.testing.assert_array_equal(data["image"].astype(np.float16), stored.image())
        np.testing.assert_array_equal(data["label"], stored.labels())
        np.testing.assert_array_equal(data["label_source"], stored.source_mask())


PREPARE = """
import sys
from pathlib import Path
from medhybrid.config import load_config
from medhybrid.data.case_check import CheckTask, check_case
from medhybrid.data.dataset import PrepareTask, prepare_case
from medhybrid.data.layouts import list_cases
from medhybrid.data.plan import Plan
config, plan = load_config(sys.argv[1], []), Plan.load(Path(sys.argv[2]))
case = list_cases(config.data)[0]
check = check_case(CheckTask(case=case, config=config))
task = PrepareTask(case=case, config=config, plan=plan, sources_hash=check.sources_hash, folder=Path(sys.argv[3]))
assert check.is_usable and prepare_case(task) is None
print(sorted({"monai", "torch"} & set(sys.modules)))
"""


def test_checking_and_preparing_a_case_import_neither_monai_nor_torch(prepared: StudyFolder, tmp_path: Path) -> None:
    save_config(prepared.config, tmp_path / "study.yaml")
    arguments = [tmp_path / "study.yaml", prepared_folder(prepared.config) / "plan.json", tmp_path / "cases"]

    done = run([sys.executable, "-c", PREPARE, *map(str, arguments)], check=True, capture_output=True, text=True)

    assert done.stdout.strip() == "[]"
    assert list((tmp_path / "cases").glob("*/case.json"))
