"""Engines that predict a folder in parallel: several processes, a Ray cluster, or the jobs of a Slurm array.

`pool.py` distributes scans to workers and repeats scans whose worker died. `ray.py` runs workers on a Ray cluster. `slurm.py`
writes the script of a job array in which each job takes a share (`medhybrid/inference/sharing.py`).
"""
