"""Datasets: layouts, checks, fingerprint, plan, prepared cases, sampling, augmentation."""
