"""Tables edited by the user are kept when a command writes them again."""

from __future__ import annotations

from pathlib import Path

from medhybrid.kept_tables import write_kept_table

ROWS = [["case", "dice"], ["a", 0.5]]
MORE = [*ROWS, ["b", 0.6]]


def tables(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def test_an_unchanged_table_is_replaced(tmp_path: Path) -> None:
    for rows in (ROWS, MORE, MORE, ROWS):
        write_kept_table(tmp_path / "t.csv", rows)

    assert tables(tmp_path) == ["t.csv"]
    assert (tmp_path / "t.csv").read_text() == "case,dice\na,0.5\n"


def test_an_edited_table_is_kept_under_another_name(tmp_path: Path) -> None:
    for n, remark in enumerate(("first", "second"), start=1):
        write_kept_table(tmp_path / "t.csv", ROWS)
        (tmp_path / "t.csv").write_text(f"case,dice\na,0.5 {remark}\n")
        write_kept_table(tmp_path / "t.csv", MORE)
        assert len(tables(tmp_path)) == n + 1

    assert tables(tmp_path) == ["t-edited-2.csv", "t-edited.csv", "t.csv"]
    assert "first" in (tmp_path / "t-edited.csv").read_text()


def test_a_table_of_an_earlier_version_is_kept_if_it_has_other_columns(tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text("case,dice\na,0.4\n")
    (tmp_path / "annotated.csv").write_text("case,dice,remark\na,0.4,good\n")

    for name in ("plain", "annotated"):
        write_kept_table(tmp_path / f"{name}.csv", ROWS)

    assert tables(tmp_path) == ["annotated-edited.csv", "annotated.csv", "plain.csv"]
