"""Transfer of DICOM instances from and to a PACS, by DICOMweb and DIMSE (extra `[pacs]`)."""

from medhybrid.scans.pacs.exchange import Endpoint, fetch_study, parse_endpoint, send_files

__all__ = ["Endpoint", "fetch_study", "parse_endpoint", "send_files"]
