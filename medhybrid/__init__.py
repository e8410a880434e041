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

from medhybrid.version import __version__, warn_renamed

if TYPE_CHECKING:
    from medhybrid.config import SearchConfig, StudyConfig, load_config, load_search
    from medhybrid.errors import MedHybridError
    from medhybrid.inference.model import Model, Segmentation
    from medhybrid.progress import Reporter
    from medhybrid.runs.models import load_model
    from medhybrid.runs.run import Run
    from medhybrid.scans import Scan, write_nifti
    from medhybrid.scans.reader import read_scan
    from medhybrid.steps.compare import Comparison, compare
    from medhybrid.steps.compare_settings import SettingsComparison, compare_settings
    from medhybrid.steps.convert import Converted, convert
    from medhybrid.steps.cross_validate import CrossValidation, cross_validate
    from medhybrid.steps.demo_data import write_demo_data
    from medhybrid.steps.evaluate import Evaluation, evaluate
    from medhybrid.steps.export import export
    from medhybrid.steps.import_nnunet import import_nnunet
    from medhybrid.steps.inspect import Inspection, inspect
    from medhybrid.steps.label_next import Unlabelled, label_next
    from medhybrid.steps.models import ModelList, models
    from medhybrid.steps.predict import FolderResult, PredictOptions, predict
    from medhybrid.steps.preprocess import Preparation, preprocess
    from medhybrid.steps.pretrain import pretrain
    from medhybrid.steps.promote import Promotion, promote
    from medhybrid.steps.report import report
    from medhybrid.steps.train import train
    from medhybrid.steps.train_all import Training, train_all
    from medhybrid.steps.tune import Tuning, tune

_HOMES = {
    "Comparison": "medhybrid.steps.compare",
    "Converted": "medhybrid.steps.convert",
    "CrossValidation": "medhybrid.steps.cross_validate",
    "Evaluation": "medhybrid.steps.evaluate",
    "FolderResult": "medhybrid.steps.predict",
    "Inspection": "medhybrid.steps.inspect",
    "MedHybridError": "medhybrid.errors",
    "Model": "medhybrid.inference.model",
    "ModelList": "medhybrid.steps.models",
    "PredictOptions": "medhybrid.steps.predict",
    "Preparation": "medhybrid.steps.preprocess",
    "Promotion": "medhybrid.steps.promote",
    "Reporter": "medhybrid.progress",
    "Run": "medhybrid.runs.run",
    "Scan": "medhybrid.scans",
    "SearchConfig": "medhybrid.config",
    "Segmentation": "medhybrid.inference.model",
    "SettingsComparison": "medhybrid.steps.compare_settings",
    "StudyConfig": "medhybrid.config",
    "Training": "medhybrid.steps.train_all",
    "Tuning": "medhybrid.steps.tune",
    "Unlabelled": "medhybrid.steps.label_next",
    "compare": "medhybrid.steps.compare",
    "compare_settings": "medhybrid.steps.compare_settings",
    "convert": "medhybrid.steps.convert",
    "cross_validate": "medhybrid.steps.cross_validate",
    "evaluate": "medhybrid.steps.evaluate",
    "export": "medhybrid.steps.export",
    "import_nnunet": "medhybrid.steps.import_nnunet",
    "inspect": "medhybrid.steps.inspect",
    "label_next": "medhybrid.steps.label_next",
    "load_config": "medhybrid.config",
    "load_model": "medhybrid.runs.models",
    "load_search": "medhybrid.config",
    "models": "medhybrid.steps.models",
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
    "Comparison",
    "Converted",
    "CrossValidation",
    "Evaluation",
    "FolderResult",
    "Inspection",
    "MedHybridError",
    "Model",
    "ModelList",
    "PredictOptions",
    "Preparation",
    "Promotion",
    "Reporter",
    "Run",
    "Scan",
    "SearchConfig",
    "Segmentation",
    "SettingsComparison",
    "StudyConfig",
    "Training",
    "Tuning",
    "Unlabelled",
    "__version__",
    "compare",
    "compare_settings",
    "convert",
    "cross_validate",
    "evaluate",
    "export",
    "import_nnunet",
    "inspect",
    "label_next",
    "load_config",
    "load_model",
    "load_search",
    "models",
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


_RENAMED = {"compare_runs": "compare"}
"""Public names of version 0.1, and their present names."""


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warn_renamed(f"medhybrid.{name}", f"medhybrid.{_RENAMED[name]}", stacklevel=2)
        name = _RENAMED[name]
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'medhybrid' has no attribute {name!r}")
