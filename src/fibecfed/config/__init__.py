"""Settings: what a run is defined by."""

from fibecfed.config.baselines import (
    AdaLoraConfig,
    DeltaConfig,
    LengthsConfig,
    PersonalConfig,
    ProximalConfig,
    ServerConfig,
    SparseConfig,
)
from fibecfed.config.continuing import ROUNDS, WHERE, Change, changes, dotted, refusal
from fibecfed.config.device import DeviceConfig, load_device_config, shared_settings
from fibecfed.config.federation import FederationConfig
from fibecfed.config.loading import (
    Key,
    build_config,
    config_hash,
    keys,
    load_config,
    merge,
    nearest_hint,
    read_yaml,
    section_meanings,
    split_arguments,
    to_dict,
    to_yaml,
)
from fibecfed.config.not_offered import not_offered
from fibecfed.config.parts import CurriculumConfig, SharingConfig, WarmUpConfig
from fibecfed.config.paths import expanded
from fibecfed.config.schema import (
    Config,
    CostConfig,
    DataConfig,
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    PartitionConfig,
    RuntimeConfig,
    TrainingConfig,
)
from fibecfed.config.sites import settle
from fibecfed.config.tunings import (
    AdapterConfig,
    AttentivePromptConfig,
    InstancePromptConfig,
    LatePromptConfig,
    PrefixConfig,
    PromptConfig,
)

__all__ = [
    "ROUNDS",
    "WHERE",
    "AdaLoraConfig",
    "AdapterConfig",
    "AttentivePromptConfig",
    "Change",
    "Config",
    "CostConfig",
    "CurriculumConfig",
    "DataConfig",
    "DeltaConfig",
    "DeviceConfig",
    "EvaluationConfig",
    "FederationConfig",
    "InstancePromptConfig",
    "Key",
    "LatePromptConfig",
    "LengthsConfig",
    "LoraConfig",
    "ModelConfig",
    "PartitionConfig",
    "PersonalConfig",
    "PrefixConfig",
    "PromptConfig",
    "ProximalConfig",
    "RuntimeConfig",
    "ServerConfig",
    "SharingConfig",
    "SparseConfig",
    "TrainingConfig",
    "WarmUpConfig",
    "build_config",
    "changes",
    "config_hash",
    "dotted",
    "expanded",
    "keys",
    "load_config",
    "load_device_config",
    "merge",
    "nearest_hint",
    "not_offered",
    "read_yaml",
    "refusal",
    "section_meanings",
    "settle",
    "shared_settings",
    "split_arguments",
    "to_dict",
    "to_yaml",
]
