"""The report of a folder of masks: HTML pages that need only a browser, no server and no network.

views.py     values of a case for the report, and its image and masks on one RAS grid
display.py   display window of an image
slices.py    slices with contours, drawn as SVG: they work without JavaScript
volumes.py   image and masks for the viewer, cropped and compressed; NiiVue from the installed ipyniivue
charts.py    distributions over cases, with links to the cases
correcting.py  commands that open a copy of a mask in an editor
page.py      the HTML pages: one file, or an index and one page for each case
compared.py  the comparison of two runs as one page
assets/      templates, style sheet, and scripts for the table, the marks and the viewer
"""

from medhybrid.review.report.page import ReportInfo, write_report
from medhybrid.review.report.views import CaseView, Lesion, VolumeView, case_order

__all__ = ["CaseView", "Lesion", "ReportInfo", "VolumeView", "case_order", "write_report"]
