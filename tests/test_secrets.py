"""Passwords in addresses are used but never stored or shown; interpolations in records are not resolved."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import medhybrid
from medhybrid.addresses import complete_address, hide_password, without_passwords
from medhybrid.config.load import save_config
from medhybrid.errors import ModelError, TrackingError
from medhybrid.inference.model_record import read_record
from medhybrid.runs.places import config_here
from medhybrid.scans.pacs.exchange import PacsError, parse_endpoint
from medhybrid.steps import review
from medhybrid.steps.reproduce import recipe_of
from tests.synthetic import StudyFolder, small_config

SECRET = "s3cr3t-Pass"


@pytest.mark.parametrize(
    "address",
    [
        f"http://me:{SECRET}@tracking:5000/x",
        f"https://{SECRET}@tracking",
        f"postgresql://me:{SECRET}@db:5432/mlflow",
        f"postgresql://me:a@{SECRET}@db/mlflow",
        f"s3://key:{SECRET}@bucket/data",
        f"postgresql://db:5432/mlflow?user=me&password={SECRET}",
        f"https://tracking/x?access_token={SECRET}&a=1",
        f"https://tracking/x?sig={SECRET}",
        f"https://tracking/x?X-Amz-Signature={SECRET}",
        f"https://tracking/x#access_token={SECRET}",
        f"https://me:p/{SECRET}@tracking/x",
    ],
)
def test_addresses_are_stored_and_shown_without_user_name_and_password(address: str, tmp_path: Path) -> None:
    assert SECRET not in hide_password(f"cannot reach {address}: refused")
    stored = without_passwords({"a": [address], "b": {"c": (address, 1)}})
    assert SECRET not in str(stored)
    assert "@" not in stored["a"][0]

    config = small_config(tmp_path)
    config = config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": address})})
    save_config(config, tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    assert SECRET not in text
    assert complete_address(yaml.safe_load(text)["tracking"]["uri"]) == address, "this process keeps the password"


def test_the_password_of_a_record_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert complete_address("http://other:1/x") == "http://other:1/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@other:1/x")
    assert complete_address("http://other:1/x") == f"http://me:{SECRET}@other:1/x"
    assert complete_address("http://elsewhere:1/x") == "http://elsewhere:1/x"


@pytest.mark.parametrize(
    "address", [f"dicomweb://me:{SECRET}@pacs:8042/x", f"dicomwebs://{SECRET}@pacs/x", f"dimse://A:{SECRET}@pacs:104"]
)
def test_a_pacs_address_with_a_password_is_refused_without_showing_it(address: str) -> None:
    with pytest.raises(PacsError, match=r"\.netrc") as caught:
        parse_endpoint(address)
    assert SECRET not in str(caught.value)


def test_the_password_of_a_store_is_no_argument_of_the_mlflow_ui(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every user of the host can read the arguments of a process."""
    address, started = f"postgresql://me:{SECRET}@db/mlflow", []

    class Ended:
        returncode = 0

        def __init__(self, command: list[str], env: dict[str, str], **_: object) -> None:
            started.append((command, env["MLFLOW_BACKEND_STORE_URI"]))

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(review, "prepare_store", lambda _: None)
    monkeypatch.setattr(review, "quiet_mlflow", lambda: None)
    monkeypatch.setattr(review.subprocess, "Popen", Ended)
    with pytest.raises(TrackingError, match="the MLflow UI has ended"):
        review.review(tmp_path, uri=address)

    ((command, uri),) = started
    assert SECRET not in " ".join(command)
    assert uri == address


def test_the_log_of_the_mlflow_ui_is_private_and_only_its_last_start_gives_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review, "review_command", lambda *_, **__: ["sh", "-c", "echo of this start"])
    monkeypatch.setattr(review, "quiet_mlflow", lambda: None)
    log = tmp_path / "mlflow-ui.log"

    for _ in range(2):
        with pytest.raises(TrackingError, match="of this start"):
            review.review(tmp_path)
        with log.open("a") as file:
            file.write("ERROR of an earlier start\n")

    assert "of an earlier start" in log.read_text(), "nothing is overwritten"
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.filterwarnings("ignore")
def test_training_does_not_store_the_password_of_an_address(
    prepared: StudyFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [f"runs={tmp_path / 'runs'}", "training.iterations=2", "tracking.kind=jsonl"]
    overrides.append(f"tracking.uri=http://me:{SECRET}@127.0.0.1:9/x")

    run = medhybrid.train(medhybrid.load_config(prepared.folder / "small.yaml", overrides))

    written = [p for p in tmp_path.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    assert written == []
    assert SECRET not in caplog.text + "".join(capsys.readouterr())
    assert config_here(run.folder).tracking.uri == f"http://me:{SECRET}@127.0.0.1:9/x", (
        "this process keeps the password"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_interpolations_in_a_foreign_record_are_not_resolved(
    trained: tuple[StudyFolder, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", SECRET)
    _, record = read_record(trained[1])
    assert record.training is not None
    config = {**record.training.config, "name": "${oc.env:PLANTED}"}
    record = record.model_copy(update={"training": record.training.model_copy(update={"config": config})})

    with pytest.raises(ModelError, match="not a plain config") as caught:
        recipe_of(record, ["data.root=x"])
    assert SECRET not in str(caught.value)
