"""The report of a folder of masks: one page that needs nothing but a browser.

views.py     what is told of a case, and its pictures on one RAS grid
slices.py    slices with contours, drawn as SVG: they work without JavaScript
volumes.py   a scan and its masks for the viewer, cropped and compressed; NiiVue from the installed ipyniivue
charts.py    distributions over cases, outliers linked
page.py      all of it as HTML: one file, or an index and a page a case
assets/      the template, its style, and the scripts for the table, the marks and the viewer
"""

from medhybrid.review.report.page import ReportInfo, write_report
from medhybrid.review.report.views import CaseView, Lesion, Pictured, case_order

__all__ = ["CaseView", "Lesion", "Pictured", "ReportInfo", "case_order", "write_report"]
