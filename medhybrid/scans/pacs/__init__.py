"""Instances from and to a PACS, over DICOMweb and DIMSE (extra `[pacs]`)."""

from medhybrid.scans.pacs.exchange import Endpoint, fetch_study, parse_endpoint, send_files

__all__ = ["Endpoint", "fetch_study", "parse_endpoint", "send_files"]
