"""The config of a study: typed models, and loading from YAML."""

from medhybrid.config.load import (
    config_from_dict,
    find_config,
    load_config,
    load_config_with_origins,
    load_listen_config,
    packaged_configs,
    save_config,
)
from medhybrid.config.models import (
    AugmentConfig,
    ChannelConfig,
    DataConfig,
    InferenceConfig,
    LabelCode,
    ListenConfig,
    NetworkConfig,
    PrepareConfig,
    ScansConfig,
    SenderConfig,
    StudyConfig,
    TrackingConfig,
    TrainingConfig,
)

__all__ = [
    "AugmentConfig",
    "ChannelConfig",
    "DataConfig",
    "InferenceConfig",
    "LabelCode",
    "ListenConfig",
    "NetworkConfig",
    "PrepareConfig",
    "ScansConfig",
    "SenderConfig",
    "StudyConfig",
    "TrackingConfig",
    "TrainingConfig",
    "config_from_dict",
    "find_config",
    "load_config",
    "load_config_with_origins",
    "load_listen_config",
    "packaged_configs",
    "save_config",
]
