"""Who works through a folder: this process, several of this machine, a Ray cluster, or the jobs of a Slurm array.

`pool.py` hands scans to workers and does again what one died on; `ray.py` has workers on a cluster; `slurm.py` writes the
script of an array whose jobs take a share each (`medhybrid/inference/sharing.py`).
"""
