"""`inspect` recognises a dataset, summarises it, and lists its images without the masks."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from medhybrid.cli import main
from medhybrid.cli.terminal import TerminalReporter
from medhybrid.steps.inspect import describe_dataset, recognise_dataset
from tests.synthetic import write_study


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blobs")
    write_study(folder, n_cases=2)
    return folder


def test_a_dataset_is_summarised_and_its_masks_are_no_scans(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(data)]) == 0

    shown = capsys.readouterr().out
    assert "2 scans, 0 refused, 0 skipped, 2 other files, 2 reference masks" in shown
    assert "labelsTr__case_00" not in shown
    assert "decathlon (dataset.json)" in shown
    assert shown.splitlines()[-1] == f"next: medhybrid init {data}  or  medhybrid train {data} --minutes 30"


@pytest.mark.parametrize("width", [80, 120])
def test_the_summary_fits_into_the_terminal(data: Path, width: int) -> None:
    draft = recognise_dataset(data)
    assert draft is not None
    reporter, shown = TerminalReporter(), io.StringIO()
    reporter.out = Console(file=shown, force_terminal=True, width=width, color_system=None)

    reporter.table(f"Dataset {draft.name}", ["property", "value"], describe_dataset(draft))

    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    rows = {line.split("│")[0].strip(): line.split("│")[1].strip() for line in lines if "│" in line}
    assert rows["cases"] == "2, of which 2 were read for this summary"
    assert rows["channels"] == "image (MR)"
    assert rows["labels"].startswith("1 label_1 (")
    assert rows["median spacing mm"] == "1.5 x 1.5 x 3"
    assert rows["median shape"] == "36 x 40 x 20"


def test_a_folder_of_scans_is_no_dataset(data: Path) -> None:
    assert recognise_dataset(data / "imagesTr") is None
