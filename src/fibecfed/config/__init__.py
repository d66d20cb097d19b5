"""Settings: what a run is defined by."""

from fibecfed.config.baselines import LengthsConfig, PersonalConfig, ProximalConfig, ServerConfig, SparseConfig
from fibecfed.config.loading import (
    Key,
    build_config,
    config_hash,
    keys,
    load_config,
    merge,
    nearest_hint,
    read_yaml,
    to_dict,
    to_yaml,
)
from fibecfed.config.parts import CurriculumConfig, SharingConfig, WarmUpConfig
from fibecfed.config.schema import (
    Config,
    CostConfig,
    DataConfig,
    EvaluationConfig,
    FederationConfig,
    LoraConfig,
    ModelConfig,
    PartitionConfig,
    RuntimeConfig,
    TrainingConfig,
)

__all__ = [
    "Config",
    "CostConfig",
    "CurriculumConfig",
    "DataConfig",
    "EvaluationConfig",
    "FederationConfig",
    "Key",
    "LengthsConfig",
    "LoraConfig",
    "ModelConfig",
    "PartitionConfig",
    "PersonalConfig",
    "ProximalConfig",
    "RuntimeConfig",
    "ServerConfig",
    "SharingConfig",
    "SparseConfig",
    "TrainingConfig",
    "WarmUpConfig",
    "build_config",
    "config_hash",
    "keys",
    "load_config",
    "merge",
    "nearest_hint",
    "read_yaml",
    "to_dict",
    "to_yaml",
]
