"""Prediction of whole scans: sliding windows, resampling to the scan's grid, component rules, folders of scans."""
