"""Fixtures: the public data beside the repository, and one small study that is prepared and trained once."""

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
settings.register_profile("medhybrid", deadline=None)  # a busy machine is no defect
settings.load_profile("medhybrid")
for name in (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_REGISTRY_URI",
):  # whoever runs the tests may have a store
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
"""Files that take more than a minute: they begin first, so that no worker is left with a long one alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, and keep the order within each."""
    places = {name: n for n, name in enumerate(LONGEST_FILES)}
    root = Path(__file__).parent
    items.sort(key=lambda item: places.get(item.path.relative_to(root).as_posix(), len(places)))


SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of public data; tests that need it are marked `shared_data`."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the public data sets (../shared/data) are not here")
    return SHARED


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A dataset of ten small scans with bright blobs, and its config. Do not write into it."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder / "data")
    return StudyFolder(folder, small_config(folder))


@pytest.fixture(scope="session")
def prepared(study: StudyFolder) -> StudyFolder:
    """The study, prepared."""
    import medhybrid

    preparation = medhybrid.preprocess(study.config)
    assert not preparation.left_out
    return study


@pytest.fixture(scope="session")
def trained(prepared: StudyFolder) -> tuple[StudyFolder, Path]:
    """The study with a model that was trained on it, recorded in MLflow, and its run folder."""
    import medhybrid

    with warnings.catch_warnings():  # whichever test comes first: MLflow and its store warn of themselves
        warnings.simplefilter("ignore")
        run = medhybrid.train(prepared.config)
    return prepared, run.folder


@pytest.fixture(name="blank_pictures")
def _blank_pictures() -> Iterator[None]:
    """Trainings of this test draw nothing."""
    from tests.brief import blank_pictures

    with blank_pictures():
        yield


@pytest.fixture(name="small_program")
def _small_program() -> Iterator[None]:
    """Trainings of this test log and register a program that is exported at once."""
    from tests.brief import small_program

    with small_program():
        yield


@pytest.fixture(name="in_this_process")
def _in_this_process() -> Iterator[None]:
    """Cases of this test are prepared without other processes."""
    from tests.brief import in_this_process

    with in_this_process():
        yield
