"""Setup of a training: data, plan, fold and device are resolved once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import medhybrid
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.plan import Plan
from medhybrid.data.store import PreparedCase
from medhybrid.runs.data import read_data
from medhybrid.runs.prepared import prepared_folder
from medhybrid.runs.setup import resolve_setup
from medhybrid.steps.train import resume
from tests.brief import blank_pictures
from tests.synthetic import StudyFolder


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often each prepared case is opened."""
    counts: Counter[str] = Counter()
    original = PreparedCase.__init__

    def counted(self: PreparedCase, folder: Path) -> None:
        counts[folder.name] += 1
        original(self, folder)

    monkeypatch.setattr(PreparedCase, "__init__", counted)
    return counts


@pytest.mark.parametrize("inner", ["null", "0"])
def test_a_training_and_its_extension_open_each_case_once(
    prepared: StudyFolder, tmp_path: Path, openings: Counter[str], inner: str
) -> None:
    changes = [f"runs={tmp_path}", "training.iterations=2", "tracking.kind=none", f"training.inner_fold={inner}"]
    config = medhybrid.load_config(str(prepared.folder / "small.yaml"), changes)
    names = PreparedDataset(prepared_folder(config)).names()

    with blank_pictures():
        run = medhybrid.train(config)
        assert openings == dict.fromkeys(names, 1)
        resume(run.folder, ["training.iterations=+1"])

    assert openings == dict.fromkeys(names, 2)


def test_a_setup_has_the_data_of_the_dataset(prepared: StudyFolder, tmp_path: Path) -> None:
    changes = [f"runs={tmp_path}", "training.inner_fold=0", "training.max_cases=2"]
    config = medhybrid.load_config(str(prepared.folder / "small.yaml"), changes)
    dataset = PreparedDataset(prepared_folder(config))

    setup = resolve_setup(config)

    fold = dataset.fold_for(config)
    assert setup.fold == fold
    assert setup.data_hash == dataset.data_hash()
    assert setup.data.train == fold.train == tuple(case.name for case in setup.train_cases)
    assert setup.data.validation == fold.validation
    assert setup.plan == dataset.plan_for(config)


def test_the_run_folder_records_the_data_and_the_plan_of_its_setup(prepared: StudyFolder, tmp_path: Path) -> None:
    changes = [f"runs={tmp_path}", "training.iterations=2", "tracking.kind=none"]
    config = medhybrid.load_config(str(prepared.folder / "small.yaml"), changes)
    setup = resolve_setup(config)

    with blank_pictures():
        folder = medhybrid.train(config).folder

    assert read_data(folder) == setup.data
    assert Plan.load(folder / "plan.json") == setup.plan
