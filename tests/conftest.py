"""Fixtures: public data beside the repository, and a small study that is prepared and trained once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import settings

from tests.synthetic import StudyFolder, small_config, write_study

matplotlib.use("Agg")
settings.register_profile("medhybrid", deadline=None)  # tests may be slow on a busy host
settings.load_profile("medhybrid")
for name in (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_REGISTRY_URI",
):  # the environment may name a real store
    os.environ.pop(name, None)

LONGEST_FILES = (
    "inference/test_openvino.py",
    "steps/test_cross_validate.py",
    "steps/test_export.py",
    "training/test_team_ends.py",
    "test_killed_trainings.py",
    "inference/test_engines.py",
    "test_tutorials.py",
    "tracking/test_server.py",
    "test_report_browser.py",
    "test_network.py",
    "steps/test_reproduce.py",
    "test_browser.py",
    "tracking/test_mlflow.py",
    "scans/pacs/test_orthanc.py",
)
"""Files that take more than a minute; they start first, so that no worker runs a long file alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, keeping the order of the tests in each file."""
    places = {name: n for n, name in enumerate(LONGEST_FILES)}
    root = Path(__file__).parent
    items.sort(key=lambda item: places.get(item.path.relative_to(root).as_posix(), len(places)))


SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of public data; tests that need it are marked `shared_data`."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the public datasets (../shared/data) do not exist")
    return SHARED


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a seeded random generator."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Return a dataset of ten small scans with bright blobs, and its config. Do not write into it."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder / "data")
    return StudyFolder(folder, small_config(folder))


@pytest.fixture(scope="session")
def prepared(study: StudyFolder) -> StudyFolder:
    """Return the prepared study."""
    import medhybrid

    preparation = medhybrid.preprocess(study.config)
    assert not preparation.left_out
    return study


@pytest.fixture(scope="session")
def trained(prepared: StudyFolder) -> tuple[StudyFolder, Path]:
    """Return the study and the run folder of a training on it, recorded in MLflow."""
    import medhybrid

    with warnings.catch_warnings():  # the first test gets warnings of MLflow and its store
        warnings.simplefilter("ignore")
        run = medhybrid.train(prepared.config)
    return prepared, run.folder


@pytest.fixture(name="blank_pictures")
def _blank_pictures() -> Iterator[None]:
    """Draw no figures in trainings of this test."""
    from tests.brief import blank_pictures

    with blank_pictures():
        yield


@pytest.fixture(name="small_program")
def _small_program() -> Iterator[None]:
    """Export a small program in trainings of this test."""
    from tests.brief import small_program

    with small_program():
        yield


@pytest.fixture(name="in_this_process")
def _in_this_process() -> Iterator[None]:
    """Prepare cases of this test without worker processes."""
    from tests.brief import in_this_process

    with in_this_process():
        yield
