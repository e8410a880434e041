"""Reading and writing of tables as spreadsheets save them."""

from __future__ import annotations

import contextlib
import csv
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import medhybrid
from medhybrid.errors import DataError
from medhybrid.files import write_csv
from medhybrid.runs.score_tables import read_rows
from medhybrid.steps.compare import compare
from medhybrid.steps.predict import predict
from medhybrid.tables import Table, decode_text, read_table
from tests.test_names import model, scan_bytes

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_of_all_encodings_and_separators_are_read_equally(
    tmp_path: Path, encoding: str, separator: str, end: str
) -> None:
    lines = [["case", "Größe", "mask"], [" a ", "ä", "m.nii"], ["", "", ""], ["b", '"x, y; z"', ""]]
    text = end.join(separator.join(cells) for cells in lines) + end
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))

    table = read_table(tmp_path / "t.csv")

    assert table.columns == ("case", "Größe", "mask")
    assert table.rows == (
        (2, {"case": "a", "Größe": "ä", "mask": "m.nii"}),
        (4, {"case": "b", "Größe": "x, y; z", "mask": ""}),
    )


def test_columns_are_found_ignoring_case_only_if_one_matches() -> None:
    table = Table(("Case", "mask", "MASK"), ())
    assert (table.column("case"), table.column("mask"), table.column("Mask"), table.column("x")) == (
        "Case",
        "mask",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04x", "is a workbook"),
        (b"", "empty table"),
        (b"\n\n", "empty table"),
        (b"a,a\n1,2\n", "two columns with the same name"),
    ],
)
def test_tables_without_valid_columns_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "t.csv")


@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_or_refused(content: bytes) -> None:
    with contextlib.suppress(UnicodeDecodeError):
        assert isinstance(decode_text(content), str)


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        (['c1,a,m,"unclear', "c2,a,m,ok"], 2),  # the cell extends to the end of the file
        (["c1,a,m,ok", 'c2,a,m,"unclear', 'c3,a,m,"ok"'], 3),
        (['c1,a,m,"unclear', 'c2,a,m,5"', "c3,a,m,ok"], 2),
    ],
)
def test_an_unclosed_quotation_mark_is_refused_with_its_line(tmp_path: Path, cells: list[str], line: int) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["case,A,mask,remark", *cells]) + "\n")
    with pytest.raises(DataError, match=f"t.csv: line {line} "):
        read_table(path)


def test_a_cell_of_several_lines_is_one_cell_and_the_lines_after_it_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('sep=,\ncase,A,mask,remark\nc1,a,m,"small,\nnear midline"\nc2,a,m,ok\n')
    assert [(n, row["remark"]) for n, row in read_table(path).rows] == [(3, "small,\nnear midline"), (5, "ok")]


def test_a_remark_of_several_lines_with_separators_is_one_cell(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    remark = "first, second, third, and\nthen, more, here, ok"
    path.write_text(f'case,A,mask,remark\nc1,a,m,"{remark}"\nc2,a,m,ok\n')
    assert [row["remark"] for _, row in read_table(path).rows] == [remark, "ok"]


cells = st.one_of(
    st.text("=+-@'a1.\t ", max_size=6),
    st.sampled_from(["=1+1", "'=1", "-rf", "@SUM(A1)", "+a", "-1.5", "+2e-3", "-inf"]),
    st.floats(),
)


def is_formula(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell[:1] in tuple("=+-@\t\r")
    return False


@given(st.lists(cells.map(lambda c: c.strip() if isinstance(c, str) else c), min_size=1, max_size=4))
def test_cells_are_never_formulas_and_are_read_back_unchanged(row: list[str | float]) -> None:
    columns = [f"{'=' * n}c{n}" for n in range(len(row))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        write_csv(path, [["first", *columns], ["x", *row]])

        with path.open(newline="") as file:
            assert not any(is_formula(cell) for line in csv.reader(file) for cell in line)
        table = read_table(path)
        assert list(table.columns) == ["first", *columns]
        assert [table.rows[0][1][c] for c in columns] == [str(c) for c in row]
        assert [read_rows(path.read_text())[0][c] for c in columns] == [str(c) for c in row]


def test_every_table_is_written_without_formulas() -> None:
    """All tables are written by the tested function."""
    sources = (Path(__file__).parents[1] / "medhybrid").rglob("*.py")

    assert [p.name for p in sources if "csv.writer" in p.read_text()] == ["files.py"]


def test_scans_named_like_formulas_give_no_formulas(tmp_path: Path) -> None:
    names = ["=1+1", "@x", "-a", "+b", "'=c"]
    (tmp_path / "scans").mkdir()
    for name in names:
        (tmp_path / "scans" / f"{name}.nii").write_bytes(scan_bytes())
    (tmp_path / "scans" / "=broken.nii").write_bytes(b"x")
    outs = [tmp_path / "=out", tmp_path / "-out"]
    for out in outs:
        predict(tmp_path / "scans", model=model(), out=out)
        shutil.copytree(out / "masks", tmp_path / "ref", dirs_exist_ok=True)
        medhybrid.evaluate(tmp_path / "ref", out, labels={"lesion": 255}, out=out / "evaluation")
    for _ in range(2):
        rows = medhybrid.convert(tmp_path / "scans", out=tmp_path / "nifti")
    result = compare(*outs, out=tmp_path / "compared")

    assert sorted(r.name for r in rows if r.state == "written") == sorted(c for c, *_ in result.cases) == sorted(names)
    tables = sorted(tmp_path.rglob("*.csv"))
    assert len(tables) == 3 * 2 + 2
    for path in tables:
        with path.open(newline="") as file:
            assert not any(is_formula(cell) for line in csv.reader(file) for cell in line)
