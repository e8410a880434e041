"""Files with patient data are readable only by the owner, unless a mode is given."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from medhybrid.cli import main
from medhybrid.config import load_config
from medhybrid.errors import ConfigError, MedHybridError
from medhybrid.files import file_mode, read_mode
from tests.synthetic import StudyFolder, blob_case, save_nifti


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> tuple[set[int], set[int]]:
    """Return the permissions of the files and folders at and below a folder."""
    paths = [folder, *folder.rglob("*")]
    files, folders = (
        {stat.S_IMODE(p.stat().st_mode) for p in paths if p.is_dir() == is_dir} for is_dir in (False, True)
    )
    return files, folders


@pytest.mark.parametrize(
    ("options", "file", "folder"),
    [([], 0o600, 0o700), (["--mode", "0640"], 0o640, 0o750), (["--mode", "664"], 0o664, 0o775)],
)
def test_volumes_have_the_given_mode(tmp_path: Path, options: list[str], file: int, folder: int) -> None:
    save_nifti(tmp_path / "in" / "a.nii.gz", blob_case(0)[0])

    assert main(["convert", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--quiet", *options]) == 0

    assert modes(tmp_path / "out") == ({file}, {folder})
    with (tmp_path / "later").open("w"):
        pass
    assert stat.S_IMODE((tmp_path / "later").stat().st_mode) == 0o644, "the umask of the caller is restored"


@pytest.mark.slow
def test_masks_tables_and_records_are_readable_only_by_the_owner(
    trained: tuple[StudyFolder, Path], tmp_path: Path
) -> None:
    save_nifti(tmp_path / "in" / "a.nii.gz", blob_case(0)[0])
    words = ["predict", str(tmp_path / "in"), "--model", str(trained[1]), "--out", str(tmp_path / "out")]

    assert main([*words, "--probabilities", "--quiet"]) == 0

    assert modes(tmp_path / "out") == ({0o600}, {0o700})


STEPS = {
    "preprocess": "medhybrid.steps.preprocess.preprocess",
    "train": "medhybrid.steps.train.train",
    "cross-validate": "medhybrid.steps.cross_validate.cross_validate",
    "pretrain": "medhybrid.steps.pretrain.pretrain",
    "tune": "medhybrid.steps.tune.tune",
    "evaluate": "medhybrid.steps.evaluate.evaluate",
    "report": "medhybrid.steps.report.report",
    "review": "medhybrid.steps.review_report.review_report",
    "compare": "medhybrid.steps.compare.compare",
}
PLACES = {"evaluate": ["a", "b"], "report": ["a"], "review": ["a"], "compare": ["a", "b"], "tune": ["--minutes", "1"]}


@pytest.mark.parametrize("command", STEPS)
def test_every_command_that_writes_patient_data_has_the_option_mode(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[int] = []

    def step(*_: object, **__: object) -> None:
        masks.append(os.umask(0))
        os.umask(masks[-1])
        raise MedHybridError("far enough")

    monkeypatch.setattr(STEPS[command], step)
    has_config = command not in ("report", "review", "compare")
    words = [command, *PLACES.get(command, []), *(["--config", "brain.yaml"] if has_config else [])]

    assert main(words) == main([*words, "--mode", "0640"]) == 2
    assert masks == [0o077, 0o027]
    if has_config:
        assert main([*words, "output.mode=0660"]) == main([*words, "output.mode=0660", "--mode", "0600"]) == 2
        assert masks[2:] == [0o007, 0o077]
        assert main([*words, "output.mode=0400"]) == 2
        assert len(masks) == 4, "an invalid mode is refused before any output"


@pytest.mark.parametrize(("written", "read"), [("0640", "0640"), ("640", "640"), ("'0600'", "0600"), ("0o600", "")])
def test_a_mode_in_a_config_is_octal_with_or_without_quotes(tmp_path: Path, written: str, read: str) -> None:
    text = (Path(__file__).parents[1] / "configs" / "brain.yaml").read_text()
    (tmp_path / "c.yaml").write_text(f"{text}\noutput: {{mode: {written}}}\n")

    if read:
        assert load_config(tmp_path / "c.yaml").output.mode == read
    else:
        with pytest.raises(ConfigError, match="invalid file mode"):
            load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("text", ["", "600x", "0400", "0077", "7777", "u=rw", "-600", "0o600"])
def test_an_invalid_mode_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="invalid file mode"):
        read_mode(text)
    assert main(["convert", str(tmp_path), "--out", str(tmp_path / "out"), f"--mode={text}"]) == 2
    assert "invalid file mode" in capsys.readouterr().err


def test_the_mode_is_restored_after_the_context_and_after_an_error() -> None:
    with pytest.raises(KeyError), file_mode(0o600):
        raise KeyError
    assert os.umask(0o022) == 0o022
