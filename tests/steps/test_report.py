"""`medhybrid report` and `review OUT` for a folder of masks, and corrected masks in the dataset."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import http.client
import json
import re
import shutil
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from email.message import Message
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import medhybrid
from medhybrid.cli import main
from medhybrid.config import StudyConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.layouts import Case, Files, NoMaskError, list_cases
from medhybrid.data.splits import make_folds
from medhybrid.errors import DataError
from medhybrid.files import write_csv
from medhybrid.inference.records import Prediction, Records
from medhybrid.inference.worklist import WorkItem
from medhybrid.review import corrections
from medhybrid.review.marks import Mark, read_marks, write_mark
from medhybrid.runs.prepared import prepared_folder
from medhybrid.scans import ScanEntry
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan
from medhybrid.steps import review_report as review_report_module
from medhybrid.steps.report import report
from medhybrid.steps.review_report import make_server
from tests.patience import patience_s, wait_until
from tests.synthetic import StudyFolder, blob_case, save_nifti

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture(scope="module")
def masks(trained: tuple[StudyFolder, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of `predict` for two new scans, a damaged scan, and a case of the dataset."""
    folder = tmp_path_factory.mktemp("masks")
    for n, name in ((20, "new_20"), (21, "new_21"), (0, "case_00")):
        save_nifti(folder / "scans" / f"{name}.nii.gz", blob_case(n)[0])
    (folder / "scans" / "broken.nii.gz").write_bytes(b"no scan")
    medhybrid.predict(folder / "scans", model=trained[1], out=folder / "out")
    return folder


def with_corrections(trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path, **changes: Any) -> StudyConfig:
    out = tmp_path / "out"
    shutil.copytree(masks / "out", out)
    (out / "corrected").mkdir()
    config = trained[0].config
    data = config.data.model_copy(update={"corrections": (str(out),), **changes})
    prepare = config.prepare.model_copy(update={"folder": str(tmp_path / "prepared")})
    return config.model_copy(update={"data": data, "prepare": prepare})


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_report_lists_every_scan_and_draws_the_readable_ones(masks: Path, tmp_path: Path) -> None:
    shutil.copytree(masks / "out", tmp_path / "out")
    for n, name in ((20, "new_20"), (21, "new_21")):
        save_nifti(tmp_path / "references" / f"{name}.nii.gz", blob_case(n)[1])

    assert main(["report", str(tmp_path / "out"), "--references", str(tmp_path / "references"), "--quiet"]) == 0

    text = (tmp_path / "out" / "report.html").read_text()
    for name in ("new_20", "new_21", "case_00", "broken"):
        assert text.count(f'data-case="{name}"') == 2, "a row and a section"
    assert text.count('data-kind="image"') == 3
    assert text.count('data-kind="reference"') == 2
    assert "Against the reference" in text
    assert "cannot be read as NIfTI" in text


def test_a_reference_that_cannot_be_read_leaves_the_picture_of_its_case(masks: Path, tmp_path: Path) -> None:
    shutil.copytree(masks / "out", tmp_path / "out")
    (tmp_path / "references").mkdir()
    (tmp_path / "references" / "new_20.nii.gz").write_bytes(b"no mask")

    assert main(["report", str(tmp_path / "out"), "--references", str(tmp_path / "references"), "--quiet"]) == 0

    text = (tmp_path / "out" / "report.html").read_text()
    assert text.count('data-kind="image"') == 3
    assert "it is neither drawn nor scored" in text


def test_voxels_of_unknown_label_are_neither_drawn_nor_scored(masks: Path, tmp_path: Path) -> None:
    shutil.copytree(masks / "out", tmp_path / "out")
    reference = blob_case(20)[1]
    reference[: reference.shape[0] // 2] = 9
    save_nifti(tmp_path / "references" / "new_20.nii.gz", reference)
    given = ["report", str(tmp_path / "out"), "--references", str(tmp_path / "references"), "--quiet"]
    page = tmp_path / "out" / "report.html"

    assert main(given) == 0
    assert "values that are not labels (9)" in page.read_text()
    assert main([*given, "--ignore-value", "9"]) == 0

    assert "scored on 50.0% of the voxels" in page.read_text()
    assert page.read_text().count('data-kind="reference"') == 1


@pytest.mark.parametrize("name", ["new_20", "REF-20"])
def test_labels_that_a_reference_does_not_have_are_not_scored(
    name: str, trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path
) -> None:
    shutil.copytree(masks / "out", tmp_path / "out")
    image, labels = blob_case(20)
    save_nifti(tmp_path / "set" / f"images/{name}.nii.gz", image)
    save_nifti(tmp_path / "set" / "new_20.nii.gz", labels)
    config = trained[0].config
    names = list(config.data.labels)
    row = [name, f"images/{name}.nii.gz", "new_20.nii.gz", names[0]]
    write_csv(tmp_path / "set" / "cases.csv", [["case", "image", "mask", "labels"], row])
    data = config.data.model_dump() | {"root": str(tmp_path / "set"), "layout": "csv", "splits": None}
    data["channels"] = [{"name": "image"}]
    (tmp_path / "study.yaml").write_text(json.dumps({"name": "s", "data": data}))
    given = ["report", str(tmp_path / "out"), "--references", str(tmp_path / "set"), "--quiet"]

    assert main([*given, "--config", str(tmp_path / "study.yaml")]) == 0

    text = (tmp_path / "out" / "report.html").read_text()
    assert f"not scored, since the reference does not have them: {names[1]}" in text


def test_a_report_without_scans_has_the_measurements(masks: Path, tmp_path: Path) -> None:
    shutil.copytree(masks / "out", tmp_path / "out")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(json.dumps(run | {"scans": str(tmp_path / "gone")}))

    text = report(tmp_path / "out").read_text()

    assert "No images: the scan was not found" in text
    assert 'data-kind="image"' not in text
    assert text.count('<tr data-state="') == 4


def test_a_changed_scan_is_not_drawn_with_its_old_mask(masks: Path, tmp_path: Path) -> None:
    shutil.copytree(masks, tmp_path / "m")
    image = blob_case(20)[0]
    save_nifti(tmp_path / "m" / "scans" / "new_20.nii.gz", image[:-2])

    text = report(tmp_path / "m" / "out", scans=tmp_path / "m" / "scans").read_text()

    assert "the scan has changed since its mask was predicted" in text
    assert text.count('data-kind="image"') == 2


def test_a_folder_without_record_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "is not an output folder of medhybrid predict" in capsys.readouterr().err


# --- marks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(masks: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Start the server of a report and yield its address."""
    out = tmp_path / "out"
    shutil.copytree(masks / "out", out)
    report(out, layout="pages")
    with serving(out) as url:
        yield url, out


TOKENS: dict[int, str] = {}
"""Tokens of the test servers, by port."""


def ask(url: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    port = urllib.parse.urlsplit(url).port or 0
    headers = {"Content-Type": "application/json", "Cookie": f"medhybrid_{port}={TOKENS.get(port, '')}", **headers}
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=patience_s()) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def asked_without_redirect(port: int, path: str, **headers: str) -> tuple[int, Message]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=patience_s())) as connection:
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as answer:
            return answer.status, answer.headers


def test_marks_are_saved_beside_the_masks_and_can_be_removed(served: tuple[str, Path]) -> None:
    url, out = served
    mark = {"decision": "to correct", "comment": "left side", "reviewer": "AB", "time": "2026-01-01T00:00:00Z"}

    assert ask(f"{url}/marks", {"case": "new_20", "mark": mark})[0] == 200
    assert ask(f"{url}/marks", {"case": "new_21", "mark": mark | {"decision": "accepted"}})[0] == 200
    assert ask(f"{url}/marks", {"case": "new_21", "mark": None})[0] == 200

    assert list(read_marks(out).marks) == ["new_20"]
    assert json.loads(ask(f"{url}/marks")[1])["marks"]["new_20"]["comment"] == "left side"
    assert ask(f"{url}/")[1] == (out / "report.html").read_bytes()
    assert ask(f"{url}/report/1.html")[0] == 200


def test_a_comment_without_a_decision_is_kept(served: tuple[str, Path]) -> None:
    url, out = served

    assert ask(f"{url}/marks", {"case": "new_20", "mark": {"decision": None, "comment": "too dark"}})[0] == 200

    mark = read_marks(out).marks["new_20"]
    assert (mark.decision, mark.comment) == (None, "too dark")
    assert json.loads(ask(f"{url}/marks")[1])["marks"]["new_20"]["comment"] == "too dark"


@pytest.mark.parametrize(
    "path",
    [
        "/run.json",
        "/masks/new_20.nii.gz",
        "/report/../run.json",
        "/report/%2e%2e/run.json",
        "/report/x.html",
        "//etc/passwd",
    ],
)
def test_only_the_pages_of_the_report_are_served(served: tuple[str, Path], path: str) -> None:
    assert ask(served[0] + path)[0] == 404


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        ({"case": "nobody", "mark": None}, {}, 400),
        ({"case": "new_20", "mark": {"decision": "maybe"}}, {}, 400),
        ({"case": "../x", "mark": None}, {}, 400),
        ([1], {}, 400),
        ({"case": "new_20", "mark": {"decision": "accepted", "comment": "x" * 70_000}}, {}, 413),
        ({"case": "new_20", "mark": None}, {"Content-Type": "text/plain"}, 404),
        ({"case": "new_20", "mark": None}, {"Origin": "http://evil.example"}, 403),
        ({"case": "new_20", "mark": None}, {"Host": "evil.example"}, 403),
    ],
)
def test_an_invalid_mark_is_refused(served: tuple[str, Path], body: object, headers: dict[str, str], code: int) -> None:
    url, out = served

    assert ask(f"{url}/marks", body, **headers)[0] == code
    assert not (out / "review.json").exists()


@pytest.mark.parametrize(
    "path", ["/", "/report.html", "/marks", "/report/1.html", "/?token=", "/?token=x", "/marks?token=%00"]
)
@pytest.mark.parametrize("cookie", ["", "medhybrid_{port}=x", "medhybrid_1={token}", "=;;=,"])
def test_reading_and_marking_need_the_token(served: tuple[str, Path], path: str, cookie: str) -> None:
    url, out = served
    port = urllib.parse.urlsplit(url).port or 0
    stranger = {"Cookie": cookie.format(port=port, token=TOKENS[port])}

    assert ask(url + path, **stranger)[0] == 403
    assert ask(f"{url}/marks", {"case": "new_20", "mark": None}, **stranger)[0] == 403
    assert not (out / "review.json").exists()


def test_the_printed_address_sets_a_cookie_that_other_pages_cannot_read(served: tuple[str, Path]) -> None:
    url, _ = served
    port = urllib.parse.urlsplit(url).port or 0
    status, headers = asked_without_redirect(port, f"/?token={TOKENS[port]}")

    assert (status, headers["Location"]) == (303, "/")
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    status, headers = asked_without_redirect(port, "/", Cookie=cookie.partition(";")[0])
    assert status == 200
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_the_printed_address_has_the_token_and_opens_the_report(
    masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(masks / "out", tmp_path / "out")
    answers = []

    def open_printed() -> bool:
        printed = re.search(r"report at (\S+), marks", capsys.readouterr().out)
        assert printed is not None
        port = urllib.parse.urlsplit(printed[1]).port or 0
        answers.append(asked_without_redirect(port, "/?" + printed[1].partition("/?")[2])[0])
        return True

    monkeypatch.setattr(review_report_module, "stop_on_signals", lambda: nullcontext(open_printed))
    assert main(["review", str(tmp_path / "out"), "--port", "0", "--no-browser"]) == 0

    assert answers == [303]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("evil.example:{port}", 403),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:{port}", 403),
        ("192.0.2.7:{port}", 200),
        ("[::1]:{port}", 200),
        ("localhost:{port}", 200),
        ("{name}:{port}", 200),
    ],
)
def test_a_server_on_all_addresses_refuses_other_host_names(
    masks: Path, tmp_path: Path, host: str, expected: int
) -> None:
    (tmp_path / "report.html").write_text("report")
    with serving(tmp_path, "0.0.0.0") as url:
        asked = host.format(port=urllib.parse.urlsplit(url).port, name=socket.gethostname())
        assert ask(url, Host=asked)[0] == expected


@contextmanager
def serving(folder: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve the pages of a folder, and yield the address."""
    server = make_server(folder, "key", host, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    TOKENS[server.server_port] = server.token
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_links_of_an_output_folder_are_not_served(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "1.html").write_text("key of the reviewer")
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "report").mkdir()
    (tmp_path / "a" / "report" / "1.html").symlink_to(tmp_path / "private" / "1.html")
    (tmp_path / "b" / "report").symlink_to(tmp_path / "private")
    (tmp_path / "c" / "report.html").symlink_to(tmp_path / "private" / "1.html")

    for name, path in (("a", "/report/1.html"), ("b", "/report/1.html"), ("c", "/")):
        with serving(tmp_path / name) as url:
            assert ask(url + path)[0] == 404


def test_the_policy_of_a_served_page_allows_the_scripts_of_medhybrid_alone(tmp_path: Path) -> None:
    (tmp_path / "report" / "report.html").parent.mkdir()
    (tmp_path / "report.html").write_text("<script>steal()</script>")
    (tmp_path / "report" / "viewer.js").write_text("steal()")
    own = (Path(medhybrid.__file__).parent / "review" / "report" / "assets" / "report.js").read_bytes()
    with serving(tmp_path) as url:
        port = urllib.parse.urlsplit(url).port or 0
        request = urllib.request.Request(url, headers={"Cookie": f"medhybrid_{port}={TOKENS[port]}"})
        with urllib.request.urlopen(request, timeout=patience_s()) as answer:
            policy = answer.headers["Content-Security-Policy"]
        viewer = ask(f"{url}/report/viewer.js")[1]

    scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "'unsafe-inline'" not in scripts
    assert base64.b64encode(hashlib.sha256(own).digest()).decode() in scripts
    assert b"steal" not in viewer


def test_a_report_with_a_script_of_somebody_else_is_written_again(
    masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(masks / "out", out)
    page = report(out, layout="single")
    monkeypatch.setattr(review_report_module, "stop_on_signals", lambda: nullcontext(lambda: True))
    before = page.stat().st_mtime_ns
    review_report_module.review_report(out, port=0, opens=False)
    assert page.stat().st_mtime_ns == before, "it is of this version"

    page.write_text(page.read_text() + "<script>steal()</script>")
    review_report_module.review_report(out, port=0, opens=False)

    assert "steal()" not in page.read_text()


def test_a_browser_gets_the_token_in_a_private_file_that_is_removed(
    masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(masks / "out", tmp_path / "out")
    printed: list[str] = []
    opened: list[tuple[str, str, int]] = []

    def open_page(url: str) -> bool:
        page = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
        opened.append((url, page.read_text(), page.stat().st_mode & 0o777 | page.parent.stat().st_mode & 0o077))
        return True

    monkeypatch.setattr(review_report_module.webbrowser, "open", open_page)
    monkeypatch.setattr(review_report_module, "stop_on_signals", lambda: nullcontext(lambda: True))
    review_report_module.review_report(tmp_path / "out", port=0, on_start=printed.append)

    ((url, text, mode),) = opened
    assert "token" not in url
    assert printed[0] in html.unescape(text)
    assert mode == 0o600
    assert not Path(urllib.parse.urlsplit(url).path).exists()


def test_idle_connections_of_others_do_not_keep_the_reviewer_out(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("report")
    with serving(tmp_path) as url:
        port = urllib.parse.urlsplit(url).port or 0
        with connections(port, 40):
            assert ask(url) == (200, b"report")


def test_idle_and_slow_connections_do_not_block_others(
    masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_report_module, "MAX_SECONDS", 0.3)
    (tmp_path / "report.html").write_text("report")
    with serving(tmp_path) as url, connections(urllib.parse.urlsplit(url).port or 0, 200) as idle:

        def is_answered() -> bool:
            for connection in idle[:20]:
                with suppress(OSError):
                    connection.send(b"G")
            try:
                return ask(url)[0] == 200
            except OSError:  # no free connection yet
                return False

        wait_until(is_answered, "an answer")


@contextmanager
def connections(port: int, n: int) -> Iterator[list[socket.socket]]:
    """Open connections to a server that ask nothing."""
    with ExitStack() as opened:
        yield [opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(n)]


def test_a_mark_applies_only_to_the_mask_it_was_made_for(served: tuple[str, Path], tmp_path: Path) -> None:
    url, out = served
    record = out / "done" / "new_20.json"
    sign = Prediction.model_validate_json(record.read_bytes()).sign
    assert f'data-of="{sign}"' in (out / "report.html").read_text()
    mark = {"decision": "accepted", "time": "2026-01-01T00:00:00Z", "of": sign}
    assert ask(f"{url}/marks", {"case": "new_20", "mark": mark})[0] == 200

    record.write_text(json.dumps(json.loads(record.read_text()) | {"input_hash": "of another scan"}))

    assert ask(f"{url}/marks", {"case": "new_20", "mark": mark})[0] == 409, "the page was opened before"
    assert json.loads(ask(f"{url}/marks")[1])["marks"] == {}


def test_a_damaged_file_of_marks_is_reported_and_kept(masks: Path, tmp_path: Path) -> None:
    (tmp_path / "review.json").write_text("{")

    with pytest.raises(DataError, match="not a valid file of review marks"):
        read_marks(tmp_path)
    assert (tmp_path / "review.json").read_text() == "{"


# --- corrections ------------------------------------------------------------------------------------------------------


def test_corrected_masks_replace_masks_and_new_cases_only_train(
    trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path
) -> None:
    config = with_corrections(trained, masks, tmp_path)
    before = medhybrid.preprocess(config.model_copy(update={"data": trained[0].config.data}))
    plain_hash = PreparedDataset(before.folder).data_hash()
    out = tmp_path / "out"
    corrected = np.zeros_like(blob_case(0)[1])
    corrected[10:14, 10:14, 8:12] = 4
    save_nifti(out / "corrected" / "case_00.nii.gz", corrected)
    save_nifti(out / "corrected" / "new_20.nii.gz", blob_case(20)[1])
    mark = {"decision": "to correct", "comment": "too large", "reviewer": "AB", "time": "2026-01-01T00:00:00Z"}
    (out / "review.json").write_text(json.dumps({"format": 1, "key": "", "marks": {"case_00": mark}}))

    after = medhybrid.preprocess(config)

    assert after.n_prepared == 2, "the others are unchanged"
    dataset = PreparedDataset(prepared_folder(config))
    assert dataset.data_hash() != plain_hash
    fold = dataset.fold_for(config)
    assert "new_20" in fold.train
    assert "new_20" not in fold.validation
    (case,) = dataset.open(["case_00"])
    np.testing.assert_array_equal(case.source_mask() == 2, corrected == 4)
    rows = list(csv.DictReader((after.folder / "corrections.csv").read_text().splitlines()))
    assert [(r["case"], r["state"], r["reviewer"], r["comment"]) for r in rows] == [
        ("case_00", "replaced", "AB", "too large"),
        ("new_20", "new", "", ""),
    ]
    assert rows[1]["time"], "the time of the file, since it has no mark"


def test_a_dicom_seg_is_accepted_as_a_corrected_mask(trained: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    values = np.clip(blob_case(20)[0] * 100 + 500, 0, 4000)
    series = tmp_path / "scans" / "new_20"
    write_mr_series(series, values, np.diag([2.0, 2.0, 3.0, 1.0]), description="MR", study="s", case="new_20")
    done = medhybrid.predict(tmp_path / "scans", model=trained[1], out=tmp_path / "out")
    scan, labels = read_scan(series), trained[0].config.data.labels
    corrected = np.zeros(scan.array.shape[1:], np.uint8)
    corrected[10:14, 10:14, 8:12] = 4
    (tmp_path / "out" / "corrected").mkdir()
    (case,) = (p.case for p in done.predictions)
    write_seg(tmp_path / "out" / "corrected" / f"{case}.dcm", corrected, scan, SegInfo(labels, "0"))
    config = trained[0].config
    data = config.data.model_copy(update={"corrections": (str(tmp_path / "out"),)})
    prepare = config.prepare.model_copy(update={"folder": str(tmp_path / "prepared")})
    config = config.model_copy(update={"data": data, "prepare": prepare})

    medhybrid.preprocess(config)

    dataset = PreparedDataset(prepared_folder(config))
    assert case in dataset.fold_for(config).train
    np.testing.assert_array_equal(dataset.open([case])[0].source_mask() == 2, corrected == 4)


def test_a_case_with_two_corrected_masks_is_excluded(
    trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path
) -> None:
    config = with_corrections(trained, masks, tmp_path)
    for name in ("case_00.nii.gz", "case_00.nii", "new_20.nii.gz"):
        save_nifti(tmp_path / "out" / "corrected" / name, blob_case(0)[1])

    done = medhybrid.preprocess(config)

    assert done.left_out == ("case_00",)
    assert "new_20" in PreparedDataset(done.folder).names()
    assert any("two masks of case_00" in f.message for f in done.findings)


def test_corrections_with_damaged_marks_are_excluded_since_they_may_be_rejected(
    trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path
) -> None:
    config = with_corrections(trained, masks, tmp_path)
    save_nifti(tmp_path / "out" / "corrected" / "case_00.nii.gz", blob_case(0)[1])
    (tmp_path / "out" / "review.json").write_text("{")

    done = medhybrid.preprocess(config)

    assert done.left_out == ("case_00",)
    assert "case_01" in PreparedDataset(done.folder).names()


def test_another_scan_with_the_name_of_a_case_does_not_change_the_case(
    trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path
) -> None:
    """Name and grid are the same, the patient differs: only the content of the files shows it."""
    config = with_corrections(trained, masks, tmp_path)
    save_nifti(tmp_path / "scans" / "case_03.nii.gz", blob_case(40)[0])
    medhybrid.predict(tmp_path / "scans", model=trained[1], out=tmp_path / "other")
    save_nifti(tmp_path / "other" / "corrected" / "case_03.nii.gz", blob_case(40)[1])
    data = config.data.model_copy(update={"corrections": (str(tmp_path / "other"),)})
    config = config.model_copy(update={"data": data})

    done = medhybrid.preprocess(config)

    assert done.left_out == ("case_03 (corrected)",)
    (case,) = PreparedDataset(done.folder).open(["case_03"])
    np.testing.assert_array_equal(case.source_mask() == 2, blob_case(3)[1] == 4)


def test_a_scan_of_the_dataset_is_recognised_under_another_name(
    trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path
) -> None:
    config = with_corrections(trained, masks, tmp_path)
    save_nifti(tmp_path / "scans" / "visit.nii.gz", blob_case(2)[0])
    shutil.copy(trained[0].folder / "data" / "imagesTr" / "case_02.nii.gz", tmp_path / "scans" / "visit.nii.gz")
    medhybrid.predict(tmp_path / "scans", model=trained[1], out=tmp_path / "other")
    corrected = np.zeros_like(blob_case(2)[1])
    corrected[10:14, 10:14, 8:12] = 4
    save_nifti(tmp_path / "other" / "corrected" / "visit.nii.gz", corrected)
    data = config.data.model_copy(update={"corrections": (str(tmp_path / "other"),)})

    done = medhybrid.preprocess(config.model_copy(update={"data": data}))

    assert not done.left_out
    assert "visit" not in PreparedDataset(done.folder).names()
    (case,) = PreparedDataset(done.folder).open(["case_02"])
    np.testing.assert_array_equal(case.source_mask() == 2, corrected == 4)


def test_new_cases_never_validate_and_rejected_ones_are_not_used(
    trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path
) -> None:
    config = with_corrections(trained, masks, tmp_path)
    out = tmp_path / "out"
    for n in (20, 21):
        save_nifti(out / "corrected" / f"new_{n}.nii.gz", blob_case(n)[1])
    mark = {"decision": "rejected", "comment": "", "reviewer": "", "time": "2026-01-01T00:00:00Z"}
    (out / "review.json").write_text(json.dumps({"format": 1, "key": "", "marks": {"new_21": mark}}))

    dataset = PreparedDataset(medhybrid.preprocess(config).folder)

    assert "new_20" in dataset.names()
    assert "new_21" not in dataset.names()
    for inner in range(3):
        training = config.training.model_copy(update={"inner": inner})
        data = config.data.model_copy(update={"n_folds": 3})
        fold = dataset.fold_for(config.model_copy(update={"training": training, "data": data}))
        assert "new_20" in fold.train


@pytest.mark.parametrize("place", ["data", "elsewhere"])
def test_a_case_without_mask_gets_the_corrected_mask_of_its_scan(
    trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path, place: str
) -> None:
    """Such a case is listed without files: its scan is identified by its place in the dataset's folder."""
    config = with_corrections(trained, masks, tmp_path, root=str(tmp_path / "data"))
    shutil.copytree(masks / "scans", tmp_path / place)
    (tmp_path / place / "broken.nii.gz").unlink()
    medhybrid.predict(tmp_path / place, model=trained[1], out=tmp_path / "third")
    save_nifti(tmp_path / "third" / "corrected" / "new_20.nii.gz", blob_case(20)[1])
    data = config.data.model_copy(update={"corrections": (str(tmp_path / "third"),)})
    study = Case("new_20", "someone", (), None, DataError("no mask"), is_labelled=False)

    cases, found = corrections.with_corrections([study], data)

    taken = next(c for c in cases if c.name == found.taken[0].case)
    if place == "data":
        assert (taken.name, taken.subject, taken.problem) == ("new_20", "someone", None)
        assert taken.images
    else:
        assert taken.name == "new_20 (corrected)"
        assert taken.problem is not None
        assert study in cases


@pytest.mark.parametrize("is_same_scan", [True, False])
def test_a_new_case_of_two_folders_is_added_once_and_not_replaced_by_another_scan(
    trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path, is_same_scan: bool
) -> None:
    config = with_corrections(trained, masks, tmp_path)
    save_nifti(tmp_path / "out" / "corrected" / "new_20.nii.gz", blob_case(20)[1])
    save_nifti(tmp_path / "scans" / "new_20.nii.gz", blob_case(20 if is_same_scan else 41)[0])
    if is_same_scan:
        shutil.copy(masks / "scans" / "new_20.nii.gz", tmp_path / "scans" / "new_20.nii.gz")
    medhybrid.predict(tmp_path / "scans", model=trained[1], out=tmp_path / "second")
    later = np.zeros_like(blob_case(20)[1])
    later[10:14, 10:14, 8:12] = 4
    save_nifti(tmp_path / "second" / "corrected" / "new_20.nii.gz", later)
    folders = (str(tmp_path / "out"), str(tmp_path / "second"))
    config = config.model_copy(update={"data": config.data.model_copy(update={"corrections": folders})})

    done = medhybrid.preprocess(config)

    dataset = PreparedDataset(done.folder)
    assert dataset.fold_for(config).train.count("new_20") == 1
    (case,) = dataset.open(["new_20"])
    np.testing.assert_array_equal(case.source_mask() == 2, (later if is_same_scan else blob_case(20)[1]) == 4)
    assert done.left_out == (() if is_same_scan else ("new_20 (corrected)",))


def test_marks_of_other_masks_are_moved_to_another_file(tmp_path: Path) -> None:
    mark = Mark(decision="accepted")
    write_mark(tmp_path, "first", "a", mark)

    now = write_mark(tmp_path, "second", "b", mark)

    assert list(now.marks) == ["b"]
    assert "a" in (tmp_path / "review-first.json").read_text()


def test_corrections_with_other_labels_are_refused(
    trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path
) -> None:
    config = with_corrections(trained, masks, tmp_path, labels={"left": 1, "right": 2})
    save_nifti(tmp_path / "out" / "corrected" / "new_20.nii.gz", blob_case(20)[1])

    with pytest.raises(DataError, match="other labels or channels than the dataset"):
        medhybrid.preprocess(config)


def test_a_case_with_a_corrected_mask_on_another_grid_is_excluded(
    trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path
) -> None:
    config = with_corrections(trained, masks, tmp_path)
    save_nifti(tmp_path / "out" / "corrected" / "case_00.nii.gz", blob_case(0)[1], np.eye(4))

    assert medhybrid.preprocess(config).left_out == ("case_00",)


def test_a_corrected_mask_without_scan_is_excluded(
    trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path
) -> None:
    config = with_corrections(trained, masks, tmp_path)
    save_nifti(tmp_path / "out" / "corrected" / "new_20.seg.nii.gz", blob_case(20)[1])

    done = medhybrid.preprocess(config)

    assert done.left_out == ("new_20.seg",)
    text = " ".join(f.message for f in done.findings)
    assert "predict made none of this name, such as new_20" in text
    assert all("new_20.seg" not in fold.train for fold in PreparedDataset(done.folder).folds)


def test_a_corrected_copy_of_a_predicted_mask_opens_on_the_grid_of_the_scan(masks: Path) -> None:
    """A correction starts from a copy of the prediction, which must open in any viewer on the scan's grid."""
    mask, scan = (nib.load(masks / p) for p in ("out/masks/new_20.nii.gz", "scans/new_20.nii.gz"))

    assert mask.shape == scan.shape
    np.testing.assert_allclose(mask.affine, scan.affine)


def test_a_scan_that_takes_over_a_name_does_not_get_the_corrected_mask(
    trained: tuple[StudyFolder, Path], tmp_path: Path
) -> None:
    images = Path(str(trained[0].config.data.root)) / "imagesTr"
    scan = tmp_path / "scans" / "patient.nii.gz"
    scan.parent.mkdir()
    shutil.copyfile(images / "case_01.nii.gz", scan)
    medhybrid.predict(tmp_path / "scans", model=trained[1], out=tmp_path / "out")
    save_nifti(tmp_path / "out" / "corrected" / "patient.nii.gz", blob_case(1)[1])
    shutil.copyfile(images / "case_04.nii.gz", scan)
    data = trained[0].config.data.model_copy(update={"corrections": (str(tmp_path / "out"),)})

    cases, found = corrections.with_corrections(list_cases(data), data)

    assert all(c.mask is None or "corrected" not in str(c.mask.paths[0]) for c in cases if c.problem is None)
    assert [c.is_new for c in found.taken] == [True]


def test_a_case_without_mask_listed_for_validation_trains_once_it_has_a_mask() -> None:
    cases = [Case(f"s{n}_{v}", f"s{n}", (None,), None, is_labelled=v == "a") for n in range(4) for v in "ab"]
    taken = [corrections.Correction(f"s{n}_b", "", True, "", "", "") for n in range(4)]

    folds = corrections.with_new_cases(make_folds(cases, 2, 0), cases, taken)

    assert all(name.endswith("_a") for fold in folds for name in fold.validation)


def test_a_corrected_mask_of_an_earlier_scan_is_not_used_for_a_new_scan_with_its_name(
    trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for n in (20, 21):
        save_nifti(tmp_path / "patient" / "T1.nii.gz", blob_case(n)[0])
        medhybrid.predict(tmp_path / "patient", model=trained[1], out=out)
        if n == 20:
            save_nifti(out / "corrected" / "T1.nii.gz", blob_case(20)[1])
    data = trained[0].config.data.model_copy(update={"corrections": (str(out),)})

    (case,) = corrections.with_corrections([], data)[0]

    assert "may belong to another" in str(case.problem)


@pytest.mark.parametrize(("input_hash", "is_other"), [("patient 1", False), ("patient 2", True)])
@pytest.mark.parametrize("of_earlier_version", [True, False])
def test_a_record_lists_the_corrections_of_earlier_scans(
    tmp_path: Path, input_hash: str, is_other: bool, of_earlier_version: bool
) -> None:
    """After a mask of another model for the same scan, its correction stays valid, regardless of the times of the files."""
    records = Records(tmp_path)
    records.end(Prediction(case="T1", status="done", made_by="a model", input_hash="patient 1"))
    if of_earlier_version:
        text = json.loads((tmp_path / "done" / "T1.json").read_text())
        (tmp_path / "done" / "T1.json").write_text(json.dumps(text | {"other_corrections": None}))
    save_nifti(tmp_path / "corrected" / "T1.nii.gz", blob_case(20)[1])

    for model in ("another model", "a third"):
        records.end(Prediction(case="T1", status="done", made_by=model, input_hash=input_hash))

    done = records.done("T1")
    assert done is not None
    assert bool(done.other_corrections) is is_other


def test_a_corrected_mask_of_a_test_case_does_not_train(
    trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path
) -> None:
    data = with_corrections(trained, masks, tmp_path).data
    for name in ("new_20", "new_21"):
        save_nifti(tmp_path / "out" / "corrected" / f"{name}.nii.gz", blob_case(20)[1])
    scan = Files((Path(shutil.copy(masks / "scans" / "new_20.nii.gz", tmp_path / "copy.nii.gz")),))

    cases, found = corrections.with_corrections([], data, [Case("t", "t", (scan,), None)])

    assert [("testing" in str(c.problem), c.name) for c in cases] == [(True, "new_20"), (False, "new_21")]
    assert [c.case for c in found.taken] == ["new_20", "new_21"]


def test_a_corrected_mask_is_used_for_every_case_of_its_scan(
    trained: tuple[StudyFolder, Path], masks: Path, tmp_path: Path
) -> None:
    data = with_corrections(trained, masks, tmp_path).data
    mask = tmp_path / "out" / "corrected" / "new_20.nii.gz"
    save_nifti(mask, blob_case(20)[1])
    scan, theirs = Files((masks / "scans" / "new_20.nii.gz",)), Files((tmp_path / "rater.nii.gz",))
    raters = [Case(f"rater {k}", "someone", (scan,), theirs) for k in (1, 2)]
    without = Case("without", "someone", (scan,), None, NoMaskError("line 3 names no mask"), is_labelled=False)

    cases, found = corrections.with_corrections([*raters, without], data)

    assert [(c.name, c.mask and c.mask.paths, c.problem) for c in cases] == [
        (name, (mask,), None) for name in ("rater 1", "rater 2", "without")
    ]
    assert [c.is_new for c in found.taken] == [False, False, True], "the case never validates"


def as_item(case: str, root: Path, *files: Path, part: str = "") -> WorkItem:
    """Return the scan of a work list, with an entry for each file."""
    entries = [ScanEntry(f.stem, "nifti", (f,), "", "", "", (), (), "", "", part=part) for f in files]
    return WorkItem(case, tuple(entries), root=root)


def test_another_volume_of_the_same_file_is_another_scan(tmp_path: Path) -> None:
    file = save_nifti(tmp_path / "dyn.nii.gz", blob_case(1)[0])
    cases = [Case(part, "s0", (Files((file,), part),), None) for part in ("time_1", "time_2")]

    found = corrections._same_scans(as_item("s0", tmp_path, file, part="time_2").entries, cases)

    assert [c.name for c in found] == ["time_2"]


@pytest.mark.parametrize("root", ["data", "copy", "copy/s0"])
def test_another_scan_of_a_study_has_the_subject_of_the_study(
    trained: tuple[StudyFolder, Path], tmp_path: Path, root: str
) -> None:
    (tmp_path / "data" / "s0").mkdir(parents=True)
    update = {"root": str(tmp_path / "data"), "layout": "auto"}
    data = trained[0].config.data.model_copy(update=update)
    cases = [Case(f"s{k}", f"s{k}", (), None) for k in range(3)]
    place = tmp_path / root if root.endswith("s0") else tmp_path / root / "s0"
    item = as_item("other", tmp_path / root, save_nifti(place / "other.nii.gz", blob_case(5)[0]))

    assert corrections._subject("other", item, cases, data) == "s0"


def test_a_scan_with_a_file_of_a_case_has_its_subject(trained: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    file = save_nifti(tmp_path / "data" / "images" / "a.nii.gz", blob_case(5)[0])
    copied = tmp_path / "elsewhere.nii.gz"
    shutil.copyfile(file, copied)
    case = Case("case_01", "007", (Files((file,), "time_1"),), None)

    subject = corrections._subject("x", as_item("x", tmp_path, copied, part="time_2"), [case], trained[0].config.data)

    assert subject == "007"
