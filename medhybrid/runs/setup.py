"""Setup of a training: its config, and the data, plan, fold and device that follow from it.

A setup is resolved once for each training, so that each case is opened once, and the parts of a training see one state of the
data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from medhybrid.config import StudyConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.plan import Plan
from medhybrid.data.splits import Fold
from medhybrid.data.store import PreparedCase
from medhybrid.errors import ConfigError
from medhybrid.inference.network import config_of_network
from medhybrid.runs.data import RunData
from medhybrid.runs.prepared import prepared_folder
from medhybrid.training.class_weights import class_weights

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class RunSetup:
    """Config of a training, and all that is resolved from it.

    Attributes
    ----------
    config : StudyConfig
        The config, with the network that the plan chose.
    plan : Plan
        Plan of the prepared dataset, with the metadata fields of the config and the reason of the class weights.
    fold : Fold
        Names of the training and validation cases, prepared or not.
    train_cases, validation_cases : tuple of PreparedCase
        Opened cases of the fold, in its order.
    data_hash : str
        Hash over the sources of all prepared cases.
    class_weights : mapping, optional
        Weight of each class in the loss.
    """

    config: StudyConfig
    dataset: PreparedDataset
    plan: Plan
    fold: Fold
    train_cases: tuple[PreparedCase, ...]
    validation_cases: tuple[PreparedCase, ...]
    data_hash: str
    device: torch.device
    class_weights: Mapping[str, float] | None = None

    @property
    def data(self) -> RunData:
        """Return the record of the data, by which a resumed run recognises them."""
        names = [tuple(case.name for case in cases) for cases in (self.train_cases, self.validation_cases)]
        return RunData(data_hash=self.data_hash, train=names[0], validation=names[1])


def require_validation(config: StudyConfig, command: str) -> None:
    """Raise `ConfigError` if every case of a config trains, for a command that needs validation."""
    if not config.training.has_validation:
        raise ConfigError(
            f"{command} needs validation, which training.fold=all does not have",
            expected="the number of a fold",
            remedy="set training.fold=0, and train on every case afterwards",
        )


def resolve_setup(config: StudyConfig, device: torch.device = CPU) -> RunSetup:
    """Open the prepared cases of a study, and choose those of the config's fold.

    Parameters
    ----------
    device : torch.device
        Device of the training; it does not matter where the setup is only checked.

    Raises
    ------
    DataError
        If the dataset is not prepared, was prepared with other settings, has no such fold, or a case is damaged.
    """
    dataset = PreparedDataset(prepared_folder(config))
    plan = dataset.plan_for(config)
    config = config.model_copy(update={"network": config_of_network(config.network, plan)})
    opened = {case.name: case for case in dataset.open(dataset.names())}
    records = {name: case.record for name, case in opened.items()}
    fold = dataset.fold_for(config, records)
    dataset.refuse_lost([*fold.train, *fold.validation], opened)
    train_cases = tuple(opened[name] for name in fold.train if name in opened)
    weights = class_weights(config, train_cases)
    if weights is not None:
        plan = plan.model_copy(update={"reasons": plan.reasons | {"class_weights": weights[1]}})
    return RunSetup(
        config=config,
        dataset=dataset,
        plan=plan,
        fold=fold,
        train_cases=train_cases,
        validation_cases=tuple(opened[name] for name in fold.validation if name in opened),
        data_hash=dataset.data_hash(records),
        device=device,
        class_weights=None if weights is None else weights[0],
    )
