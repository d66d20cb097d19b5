"""Settings: what a run is defined by."""

from fibecfed.config.baselines import (
    AdaLoraConfig,
    DeltaConfig,
    FedAltConfig,
    LengthsConfig,
    ProximalConfig,
    ServerConfig,
    SparseConfig,
)
from fibecfed.config.continuing import ROUNDS, WHERE, Change, changes, dotted, refusal
from fibecfed.config.data import DataConfig, PartitionConfig
from fibecfed.config.device import DeviceConfig, load_device_config, shared_settings
from fibecfed.config.earlier import as_meant
from fibecfed.config.federation import FederationConfig
from fibecfed.config.instructions import CAUSAL_LM, INSTRUCTION_SETS, task_name
from fibecfed.config.loading import (
    Key,
    build_config,
    build_settings,
    config_hash,
    keys,
    load_config,
    merge,
    nearest_hint,
    read_yaml,
    section_meanings,
    settings_section,
    split_arguments,
    to_dict,
    to_yaml,
    unknown_method,
)
from fibecfed.config.not_offered import not_offered
from fibecfed.config.parts import CurriculumConfig, PersonalConfig, SharingConfig, WarmUpConfig
from fibecfed.config.paths import expanded
from fibecfed.config.schema import (
    Config,
    CostConfig,
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
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
    "CAUSAL_LM",
    "INSTRUCTION_SETS",
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
    "FedAltConfig",
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
    "as_meant",
    "build_config",
    "build_settings",
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
    "settings_section",
    "settle",
    "shared_settings",
    "split_arguments",
    "task_name",
    "to_dict",
    "to_yaml",
    "unknown_method",
]
