"""The report as HTML: one file, or an index and one page for each case.

OUT/report.html            the whole report, or the index
OUT/report/<n>.html        one page for each case, if there are many
OUT/report/viewer.js       the viewer that these pages share
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medhybrid.errors import OutputError
from medhybrid.files import write_atomically
from medhybrid.names import printable_path
from medhybrid.owned import remove_made
from medhybrid.review.figures import largest_region_centre, planes_of
from medhybrid.review.report.charts import Point, figure, strip
from medhybrid.review.report.correcting import corrected_path, correction_commands
from medhybrid.review.report.display import CT_WINDOWS, display_window, is_ct
from medhybrid.review.report.slices import N_COLOURS, crop, draw, montage, three_planes
from medhybrid.review.report.views import CaseView, VolumeView, case_order, lesions_of
from medhybrid.review.report.volumes import MAX_VOXELS, niivue, viewer_data

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_ON_ONE_PAGE = 15
"""With more cases, each case gets a page."""

CHANNELS_OF_A_PAGE = 4
"""Channels of a volume of `MAX_VOXELS` that the page of one case may hold; a file of all cases holds one."""

PAGES = ("[0-9]*.html", "viewer.js")
"""Names of the files in the folder of pages."""

SCRIPTS = ("report.js", "marks.js")
VIEWER_SCRIPTS = ("layer.js", "viewer.js")
"""Scripts in `assets/` of each page, and of pages with a viewer, in order."""

SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)

ENOUGH_FOR_A_CHART = 4

STATES = {"failed": "no mask", "look": "needs review", "found": "segmented", "empty": "empty mask"}

NEIGHBOURS = "<!-- neighbours -->"
"""Place in a case's section for the links to the previous and next case, whose order is known at the end."""

Layout = Literal["auto", "single", "pages"]


@dataclass(frozen=True, slots=True)
class ReportInfo:
    """Information about the folder of masks for its report.

    Attributes
    ----------
    labels : dict
        Label names and their values in the masks.
    facts : dict
        Model, device, time and other facts of the run, as names and values.
    skipped_files : tuple of (str, str)
        Files that were skipped because they are not scans, with the reasons.
    key : str
        Identifies the masks to which a reviewer's marks belong; other masks have another key.
    folder : str
        Name of the folder; a browser stores the marks of each folder separately.
    version : str
        Version of medhybrid.
    regions : dict
        Region names and the values of all their voxels.
    """

    title: str
    labels: Mapping[str, int]
    facts: Mapping[str, str]
    skipped_files: tuple[tuple[str, str], ...] = ()
    key: str = ""
    folder: str = ""
    version: str = ""
    regions: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def measured(self) -> dict[str, tuple[int, ...]]:
        """Return the measured structures: the regions, and the labels that are not regions, with their values."""
        regions = {n: tuple(values) for n, values in self.regions.items()}
        return regions | {n: (value,) for n, value in self.labels.items() if n not in regions}


def write_report(
    out: Path, info: ReportInfo, cases: Iterable[CaseView], n_cases: int, *, layout: Layout = "auto"
) -> Path:
    """Write the report; return the path of its first page. Cases are drawn one at a time, to save memory.

    Parameters
    ----------
    n_cases : int
        Number of `cases`, which may be a generator.
    layout : str
        `single` writes one file, `pages` an index and a page for each case; `auto` decides by the number of cases.

    Raises
    ------
    OutputError
        If a page or folder of the same name exists that medhybrid did not write.
    """
    if (page_file := out / "report.html").is_file() and b"medhybrid" not in page_file.read_bytes():
        raise OutputError(
            f"{printable_path(page_file)} is not replaced: medhybrid did not write it",
            remedy="move it to another folder",
        )
    is_split = layout == "pages" or (layout == "auto" and n_cases > MAX_ON_ONE_PAGE)
    page, folder = _Page(info, is_split), out / ".report-new"
    remove_made(folder, PAGES)
    rows: list[dict[str, Any]] = []
    sections: dict[str, str] = {}
    for number, view in enumerate(cases, start=1):
        volume = None if view.volume is None else crop(view.volume)
        rows.append(page.row(view, number, volume))
        section = page.case(view, number, volume)
        if is_split:
            text = page.whole(f"{view.case} - {info.title}", sections=[section])
            write_atomically(folder / f"{number}.html", text)
        else:
            sections[view.case] = section
    rows.sort(key=lambda r: case_order(r["view"]))
    links = _neighbour_links(rows, is_split)
    if is_split:
        for row, link in zip(rows, links, strict=True):
            file = folder / Path(row["href"]).name
            write_atomically(file, file.read_text().replace(NEIGHBOURS, link))
        write_atomically(folder / "viewer.js", shared_viewer())
    remove_made(out / "report", PAGES)
    if is_split:
        folder.rename(out / "report")
    shown = [] if is_split else [sections[r["case"]].replace(NEIGHBOURS, k) for r, k in zip(rows, links, strict=True)]
    write_atomically(out / "report.html", page.whole(info.title, index=page.index(rows), sections=shown))
    return out / "report.html"


def _neighbour_links(rows: Sequence[Mapping[str, Any]], is_split: bool) -> list[str]:
    """Return the links to the previous and next case of each row, with the place of the row in the order of review."""
    hrefs = [Path(r["href"]).name if is_split else r["href"] for r in rows]
    n_masks = sum(r["view"].status == "done" for r in rows)
    texts = []
    for k in range(len(rows)):
        parts = [f'<a class="previous" href="{hrefs[k - 1]}">Previous</a>'] if k else []
        parts.append(f'<span data-masks="{n_masks}">{k + 1} of {len(rows)}</span>')
        parts += [f'<a class="next" href="{hrefs[k + 1]}">Next</a>'] if k + 1 < len(rows) else []
        texts.append(" ".join(parts))
    return texts


def environment(**values: Any) -> Environment:
    """Return the environment of the templates in `assets/`, with escaping; `values` are available in all templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("medhybrid.review.report", "assets")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["ml"] = figure
    made.globals |= {"now": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), **values}
    return made


def asset(name: str) -> str:
    """Return the text of a style sheet or script in `assets/`."""
    return (files("medhybrid.review.report") / "assets" / name).read_text()


def shared_viewer() -> str:
    """Return the viewer as a separate script, for `report/viewer.js`."""
    return "\n".join([f'const NIIVUE_GZ = "{niivue() or ""}";', *map(asset, VIEWER_SCRIPTS)])


@cache
def own_scripts() -> tuple[str, ...]:
    """Return the scripts that a page of this version may have, as its policy names them (`'sha256-...'`)."""
    texts = (f'const NIIVUE_GZ = "{niivue()}";', *map(asset, SCRIPTS), *map(asset, VIEWER_SCRIPTS))
    return tuple(_named(text.encode()) for text in texts)


def has_other_scripts(page: bytes) -> bool:
    """Return whether a page has scripts that are not of this version: of another version, or of somebody else."""
    return any(_named(text) not in own_scripts() for text in SCRIPT.findall(page))


def _named(text: bytes) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text).digest()).decode()}'"


class _Page:
    """Renderer of a report's pages from the templates and scripts of `assets/`."""

    def __init__(self, info: ReportInfo, is_split: bool) -> None:
        self.environment = environment(info=info, is_split=is_split, names=STATES, n_colours=N_COLOURS)
        self.info, self.is_split = info, is_split
        self.labels = list(info.labels.values())

    def row(self, view: CaseView, number: int, volume: VolumeView | None) -> dict[str, Any]:
        """Return the values of a case for its row of the index."""
        thumbnail = ""
        if volume is not None:
            axis = planes_of(volume.grid.shape)[-1][1]
            index = largest_region_centre(volume.prediction)[axis]
            window = display_window(volume)
            thumbnail = draw(volume, axis, index, window, self.labels, is_small=True).svg
        return {
            "case": view.case,
            "view": replace(view, volume=None),
            "thumbnail": thumbnail,
            "href": f"report/{number}.html" if self.is_split else f"#case-{number}",
        }

    def case(self, view: CaseView, number: int, volume: VolumeView | None) -> str:
        """Render the section of a case."""
        values: dict[str, Any] = {"lesions": [], "planes": [], "slices": [], "data": None, "facts": view.facts}
        values |= {"commands": {}, "corrected": "", "presets": {}}
        values["has_parts"] = any(s.n_lesions is not None for s in view.sizes.values())
        if volume is not None:
            values["lesions"] = lesions_of(volume, self.info.measured)
            values["planes"] = three_planes(volume, self.labels)
            values["slices"] = montage(volume, self.labels)
            values["data"] = (
                None
                if niivue() is None
                else viewer_data(
                    volume,
                    self.labels,
                    max_voxels_of_channels=MAX_VOXELS * (CHANNELS_OF_A_PAGE if self.is_split else 1),
                )
            )
            values["presets"] = CT_WINDOWS if is_ct(volume.image) else {}
        if view.mask_path:
            values["commands"] = correction_commands(view.mask_path, view.scan_path)
            values["corrected"] = corrected_path(view.mask_path)
        return self.environment.get_template("case.html").render(view=view, number=number, **values)

    def index(self, rows: Sequence[dict[str, Any]]) -> str:
        """Render the index: summary, distributions, table of scans."""
        views: list[CaseView] = [r["view"] for r in rows]
        done = [v for v in views if v.status == "done"]
        n_found = sum(v.is_found for v in done)
        counts = {s: sum(v.state == s for v in views) for s in ("failed", "look")}
        counts |= {"found": n_found, "empty": len(done) - n_found}
        hrefs = {v.case: r["href"] for v, r in zip(views, rows, strict=True)}

        def points(values: Iterable[tuple[CaseView, float | None]]) -> list[Point]:
            return [Point(v.case, value, hrefs[v.case]) for v, value in values if value is not None]

        charts = []
        for name in self.info.measured:
            volumes = points((v, v.sizes[name].volume_ml) for v in views if name in v.sizes)
            charts.append(strip(f"{name}: volume, ml", volumes, is_log=True))
        sure, dice = points((v, v.score) for v in views), points((v, v.dice) for v in views)
        charts.append(strip("confidence (Dice that the model expects)", sure, is_high_good=True))
        charts.append(strip("Dice against the reference", dice, is_high_good=True))
        return self.environment.get_template("index.html").render(
            rows=rows,
            counts=counts,
            charts=[c for c in charts if c] if len(views) >= ENOUGH_FOR_A_CHART else [],
            has={
                "score": bool(sure),
                "dice": bool(dice),
                "parts": any(s.n_lesions is not None for v in views for s in v.sizes.values()),
            },
            mean_dice=float(np.mean([p.value for p in dice])) if dice else None,
        )

    def whole(self, title: str, *, index: str = "", sections: Sequence[str] = ()) -> str:
        """Render a page with style sheet and scripts."""
        has_viewer = bool(sections) and niivue() is not None
        page = {
            "title": title,
            "index": index,
            "sections": sections,
            "key": self.info.key,
            "folder": self.info.folder,
            "marks": "../marks" if self.is_split and sections else "marks",
            "css": asset("report.css"),
            "scripts": [asset(name) for name in SCRIPTS],
            "viewer_scripts": [asset(name) for name in VIEWER_SCRIPTS],
            "viewer": "" if not has_viewer else "shared" if self.is_split else "inline",
            "niivue": niivue() if has_viewer and not self.is_split else None,
            "version": self.info.version,
            "has_marks": True,
        }
        return self.environment.get_template("page.html").render(page=page)
