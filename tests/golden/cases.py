"""The runs whose numbers are pinned: methods on a tiny encoder and a tiny decoder, and every switch of fibecfed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
from fibecfed import Config, load_config
from fibecfed.config import merge

HERE = Path(__file__).parent
MODELS = ("bert", "llama")

METHODS: dict[str, dict[str, Any]] = {
    "fibecfed": {"warm_up": {"rounds": 1}, "sharing": {"count": 1}},
    "fibecfed, ridge": {"model": {"head_init": "ridge"}, "sharing": {"count": 1}},
    "fibecfed, lossless": {
        "warm_up": {"rounds": 1},
        "sharing": {"count": "lossless", "lanczos_steps": 3, "lanczos_examples": 4},
    },
    "fedavg-lora": {},
    "slora": {"sparse": {"density": 0.1}},
    "adalora": {},
    "delta-lora": {"delta": {"start": 1}},
    "fedalt": {},
    "attempt": {},
    "p-tuning-v2": {},
    "slw": {},
    "adapter": {},
    "fedavg+finetune": {},
    "device-majority": {},
}

SWITCHES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "auto warm-up": {"warm_up": {"rounds": None}},
    "gain, gaussian": {"sharing": {"layers": "gain", "noise": "gaussian"}},
    "consensus": {"sharing": {"layers": "consensus"}},
    "reset loss": {"sharing": {"layers": "reset_loss"}},
    "first": {"sharing": {"layers": "first", "count": 1}},
    "last, functional": {"sharing": {"layers": "last", "count": "functional"}},
    "random": {"sharing": {"layers": "random"}},
    "functional": {"sharing": {"count": "functional"}},
    "lossless": {"sharing": {"count": "lossless", "lanczos_steps": 5, "lanczos_examples": 8}},
    "plateau": {"sharing": {"count": "plateau", "lanczos_steps": 5, "lanczos_examples": 8}},
    "random rows": {"sharing": {"rows": "random"}},
    "no rows": {"sharing": {"rows": "none"}},
    "dense rows": {"sharing": {"rows": "dense"}},
    "local head": {"sharing": {"head": "local"}},
    "local head, off": {"sharing": {"layers": "all", "head": "local"}, "curriculum": {"score": "none"}},
    "frozen A": {"sharing": {"freeze_a": True}},
    "averaged at the end": {"sharing": {"average_local": True}},
    "curriculum only": {"sharing": {"layers": "all"}},
    "model fisher": {"curriculum": {"score": "fisher-model"}},
    "loss order": {"curriculum": {"score": "loss", "pacing": "sqrt"}},
    "length": {"curriculum": {"score": "length", "stratified": False}},
    "rarity": {"curriculum": {"score": "rarity", "pacing": "exp"}},
    "random pace": {"curriculum": {"score": "random"}},
    "random subset": {"curriculum": {"score": "random", "fresh": True}},
    "batches": {"curriculum": {"unit": "batch"}},
    "capped": {"curriculum": {"cap": 0.5}},
    "refreshed": {"curriculum": {"refresh": True}},
    "importance": {"curriculum": {"importance": True, "full_at": 0.2}},
    "first training": {"curriculum": {"initialization": "training"}, "sharing": {"layers": "consensus"}},
    "matched steps": {"curriculum": {"steps": "match"}},
    "prior corrected": {"training": {"loss": "prior_corrected"}},
    "ridge head": {"model": {"head_init": "ridge"}, "warm_up": {"rounds": None}},
    "class means": {"model": {"head_init": "class_means"}, "warm_up": {"rounds": None}},
    "kept optimizer": {"training": {"keep_optimizer": True}},
}

_BASE: dict[str, Any] = {
    "data": {"file": str(HERE / "messages.csv"), "max_length": 32, "partition": {"kind": "dirichlet-hsu"}},
    "federation": {"devices": 4, "sampled": 2, "rounds": 3},
    "training": {"learning_rate": 0.01, "batch_size": 4},
    "lora": {"rank": 2, "alpha": 4},
    "runtime": {"threads": 1},
}
_SWITCHED: dict[str, Any] = {"federation": {"rounds": 4}, "warm_up": {"rounds": 1}}


@dataclass(frozen=True)
class Case:
    """One pinned run. ``whole``: its tensors and costs are pinned too, not only losses and metrics."""

    group: str
    name: str
    model: str
    layers: int
    whole: bool
    settings: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{self.group}/{self.name.replace(', ', '-').replace(' ', '-')}"

    @property
    def file(self) -> Path:
        """Where its values are committed."""
        return HERE / "values" / f"{self.id}.json"

    def config(self) -> Config:
        """What ``fibecfed.run`` is given."""
        return load_config(
            **merge({**_BASE, "model": {"name": str(tiny.folder(self.model, self.layers))}}, self.settings)
        )


def _layers(settings: dict[str, Any]) -> int:
    """Of two layers most ways to choose one choose the same; of four they differ."""
    sharing = settings.get("sharing", {})
    return 4 if sharing.get("layers", "all") != "all" or "count" in sharing else 2


CASES = [
    Case(model, name, model, 2, True, {"method": name.split(",")[0], **settings})
    for model in MODELS
    for name, settings in METHODS.items()
] + [
    Case("switches", name, "bert", _layers(settings), False, merge({"method": "fibecfed", **_SWITCHED}, settings))
    for name, settings in SWITCHES.items()
]
