"""Datasets: layouts, checks, fingerprint, plan, prepared store, sampling, augmentation."""
