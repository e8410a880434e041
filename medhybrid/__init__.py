"""3D medical image segmentation: training, prediction, evaluation and review of models.

    import medhybrid

    config = medhybrid.load_config("brain.yaml", ["data.root=/data/glioma"])
    medhybrid.preprocess(config)
    run = medhybrid.train(config)
    mask = medhybrid.load_model(run.folder).predict(medhybrid.read_scan("scan.nii.gz"))

Names are imported on first use, so that `import medhybrid` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from medhybrid.version import __version__

if TYPE_CHECKING:
    from medhybrid.config import StudyConfig, load_config, load_search
    from medhybrid.errors import MedHybridError
    from medhybrid.inference.model import Model
    from medhybrid.runs.models import load_model
    from medhybrid.scans import Scan, write_nifti
    from medhybrid.scans.reader import read_scan
    from medhybrid.steps.compare import compare
    from medhybrid.steps.compare_runs import compare_runs
    from medhybrid.steps.convert import convert
    from medhybrid.steps.cross_validate import cross_validate
    from medhybrid.steps.demo_data import write_demo_data
    from medhybrid.steps.evaluate import evaluate
    from medhybrid.steps.export import export
    from medhybrid.steps.inspect import inspect
    from medhybrid.steps.predict import predict
    from medhybrid.steps.preprocess import preprocess
    from medhybrid.steps.pretrain import pretrain
    from medhybrid.steps.promote import promote
    from medhybrid.steps.report import report
    from medhybrid.steps.train import train
    from medhybrid.steps.train_all import train_all
    from medhybrid.steps.tune import tune

_HOMES = {
    "MedHybridError": "medhybrid.errors",
    "Model": "medhybrid.inference.model",
    "Scan": "medhybrid.scans",
    "StudyConfig": "medhybrid.config",
    "compare": "medhybrid.steps.compare",
    "compare_runs": "medhybrid.steps.compare_runs",
    "convert": "medhybrid.steps.convert",
    "cross_validate": "medhybrid.steps.cross_validate",
    "evaluate": "medhybrid.steps.evaluate",
    "export": "medhybrid.steps.export",
    "inspect": "medhybrid.steps.inspect",
    "load_config": "medhybrid.config",
    "load_search": "medhybrid.config",
    "load_model": "medhybrid.runs.models",
    "predict": "medhybrid.steps.predict",
    "preprocess": "medhybrid.steps.preprocess",
    "pretrain": "medhybrid.steps.pretrain",
    "promote": "medhybrid.steps.promote",
    "read_scan": "medhybrid.scans.reader",
    "report": "medhybrid.steps.report",
    "train": "medhybrid.steps.train",
    "train_all": "medhybrid.steps.train_all",
    "tune": "medhybrid.steps.tune",
    "write_demo_data": "medhybrid.steps.demo_data",
    "write_nifti": "medhybrid.scans",
}

__all__ = [
    "MedHybridError",
    "Model",
    "Scan",
    "StudyConfig",
    "__version__",
    "compare",
    "compare_runs",
    "convert",
    "cross_validate",
    "evaluate",
    "export",
    "inspect",
    "load_config",
    "load_model",
    "load_search",
    "predict",
    "preprocess",
    "pretrain",
    "promote",
    "read_scan",
    "report",
    "train",
    "train_all",
    "tune",
    "write_demo_data",
    "write_nifti",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'medhybrid' has no attribute {name!r}")
