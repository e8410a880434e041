"""The MONAI transforms give what `medhybrid preprocess` stores without MONAI."""

import sys
from subprocess import run

import numpy as np

from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.layouts import list_cases
from medhybrid.data.transforms import preparation_transforms
from medhybrid.steps.preprocess import prepared_folder
from tests.synthetic import StudyFolder


def test_the_monai_chain_gives_what_is_stored(prepared: StudyFolder) -> None:
    dataset = PreparedDataset(prepared_folder(prepared.config))
    chain = preparation_transforms(dataset.plan, prepared.config)
    cases = {case.name: case for case in list_cases(prepared.config.data)}

    for stored in dataset.open(dataset.names()):
        data = chain({"case": cases[stored.name]})

        np.testing.assert_array_equal(data["image"].astype(np.float16), stored.image())
        np.testing.assert_array_equal(data["label"], stored.labels())
        np.testing.assert_array_equal(data["label_source"], stored.source_mask())


def test_preparing_imports_neither_monai_nor_torch() -> None:
    code = "import sys, medhybrid.steps.preprocess; sys.exit(bool({'monai', 'torch', 'scipy'} & set(sys.modules)))"

    assert run([sys.executable, "-c", code], check=False).returncode == 0
