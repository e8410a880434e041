"""Masks of whole scans: windows, resampling to the scan, post-processing, the folder job."""
