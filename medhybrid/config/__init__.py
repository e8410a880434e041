"""Configuration of a study: typed models, and loading from YAML."""

from medhybrid.config.data import ChannelConfig, ChannelRule, DataConfig, LabelCode, ScansConfig
from medhybrid.config.listen import ListenConfig, SenderConfig
from medhybrid.config.load import (
    change_scans,
    config_from_dict,
    find_config,
    load_config,
    load_config_with_origins,
    load_listen_config,
    load_search,
    packaged_configs,
    require_config,
    save_config,
    with_values,
)
from medhybrid.config.models import (
    AugmentConfig,
    InferenceConfig,
    NetworkConfig,
    NetworkSettings,
    PrepareConfig,
    PretrainConfig,
    StageConfig,
    StudyConfig,
    TrackingConfig,
    TrainingConfig,
)
from medhybrid.config.search import RangeConfig, SearchConfig

__all__ = [
    "AugmentConfig",
    "ChannelConfig",
    "ChannelRule",
    "DataConfig",
    "InferenceConfig",
    "LabelCode",
    "ListenConfig",
    "NetworkConfig",
    "NetworkSettings",
    "PrepareConfig",
    "PretrainConfig",
    "RangeConfig",
    "ScansConfig",
    "SearchConfig",
    "SenderConfig",
    "StageConfig",
    "StudyConfig",
    "TrackingConfig",
    "TrainingConfig",
    "change_scans",
    "config_from_dict",
    "find_config",
    "load_config",
    "load_config_with_origins",
    "load_listen_config",
    "load_search",
    "packaged_configs",
    "require_config",
    "save_config",
    "with_values",
]
