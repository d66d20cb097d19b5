"""What initialization's single pass costs beside a plain forward and backward pass, and beside its alternatives.

    python benchmarks/fisher_pass.py --out fisher_pass.json

MiniLM (extra `minilm`) with LoRA r=8 on query and value (`--targets all-linear`: on every linear map), batches of
like length from the shipped support messages, fp32, one thread, process CPU time. A row's ratio is the median over
repetitions of its seconds over those of the plain pass that ran just before it; "plain, again" is the plain pass
itself, and shows the noise. Opacus and BackPACK are timed where they are installed.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fibecfed import load_config
from fibecfed.curriculum import score
from fibecfed.data import TokenizedSet, evaluation_batches, load_splits, tokenize
from fibecfed.models import blocks, load_pretrained, pool
from fibecfed.results import environment
from fibecfed.sharing.neurons import MomentumFisher
from fibecfed.tasks import Classification
from fibecfed.tuning import Layout, LoraTuning

TARGET = 1.15  # one pass over plain, at most
TARGETS: dict[str, str | list[str]] = {"query-value": ["query", "value"], "all-linear": "all-linear"}

Run = Callable[[], Tensor | None]  # one pass over all examples -> their difficulty (n,), if that is what it gives


class Setting:
    """The model, the data and the plain pass that everything is compared with."""

    def __init__(self, examples: int, batch_size: int, targets: str) -> None:
        config = load_config(
            model={"name": "minilm"}, data={"name": "support"}, lora={"rank": 8, "targets": TARGETS[targets]}
        )
        rows = load_splits(config).train
        pretrained = load_pretrained(config.model, len(rows.label_names))
        self.task = Classification(rows.label_names)
        self.data: TokenizedSet = tokenize(rows, pretrained.tokenizer, config.data.max_length)
        self.model: Any = LoraTuning().attach(pretrained, self.task.outputs, config, seed=0)
        layout = LoraTuning().layout(self.model, pretrained.config)
        self.layout: Layout = layout.only(p.name for p in layout if p.layer is not None)
        with torch.no_grad():  # B starts at zero, which would leave A without a gradient
            generator = torch.Generator().manual_seed(0)
            for name, parameter in self.model.named_parameters():
                if ".lora_B." in name:
                    parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        self.batch_size = batch_size
        self.indices = np.sort(np.random.default_rng(0).permutation(len(self.data))[:examples])
        self.chosen = list(evaluation_batches(np.arange(examples), self.data.lengths[self.indices], batch_size))
        self.batches = [self.data.batch(self.indices[positions]) for positions in self.chosen]

    def in_order(self, parts: Sequence[Tensor]) -> Tensor:
        """Values of the batches, put in the order of the indices."""
        return torch.cat(list(parts)).double()[torch.from_numpy(np.argsort(np.concatenate(self.chosen)))]

    def plain(self) -> None:
        """Forward and backward as in training."""
        for batch in self.batches:
            self.model.zero_grad()
            self.task.losses(self.model, batch).sum().backward()


def one_pass(setting: Setting, noise: bool = True, fold: bool = True) -> Tensor:
    """What fibecfed does: difficulty, and with it the Fisher diagonal and the noise gradient."""
    fisher = MomentumFisher(setting.layout)
    norms: list[Tensor] = []
    found = score(
        "fisher", setting.model, setting.task, setting.data, setting.indices, setting.layout.names, setting.batch_size,
        first_block=blocks(setting.model.backbone, setting.model.backbone.config)[0] if noise else None,
        on_gradients=fisher.fold if fold else None,
        on_noise_gradient=(lambda _, gradient: norms.append(gradient.norm())) if noise else None,
    )  # fmt: skip
    return torch.from_numpy(found.difficulty)


def one_by_one(setting: Setting) -> Tensor:
    """A backward pass for each example, without padding."""
    parameters = dict(setting.model.named_parameters())
    squares = []
    for index in setting.indices:
        setting.model.zero_grad()
        setting.task.losses(setting.model, setting.data.batch(np.array([index]))).sum().backward()
        squares.append(sum(parameters[name].grad.double().square().sum() for name in setting.layout.names))
    return torch.stack(squares)


def per_sample_gradients(setting: Setting) -> Run:
    """torch.func: vmap of grad. Eager attention and a ready-made mask: transformers looks at a mask's values
    while making one, which vmap refuses."""
    model: Any = deepcopy(setting.model).eval()
    model.backbone.base_model.model.set_attn_implementation("eager")
    names = {name.removeprefix("backbone."): name for name in setting.layout.names}
    scored = {name: p.detach() for name, p in model.backbone.named_parameters() if name in names}

    def loss(values: dict[str, Tensor], ids: Tensor, mask: Tensor, label: Tensor) -> Tensor:
        inputs = {"input_ids": ids[None], "attention_mask": (1.0 - mask)[None, None, None] * torch.finfo().min}
        hidden = functional_call(model.backbone, values, (), inputs).last_hidden_state
        return nn.functional.cross_entropy(model.head(pool(hidden, mask[None], "mean")), label[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0, 0))

    def run() -> Tensor:
        found = [each(scored, b.input_ids, b.attention_mask, b.targets) for b in setting.batches]
        return setting.in_order([_squares(gradients.values()) for gradients in found])

    return run


def opacus(setting: Setting) -> Run:
    """Opacus: hooks that materialise every example's gradient."""
    from opacus.grad_sample import GradSampleModule

    model = deepcopy(setting.model).eval()
    for module in model.modules():
        module.training = isinstance(module, nn.Linear)  # Opacus looks away from layers in evaluation mode
    wrapped = GradSampleModule(model, loss_reduction="sum")
    parameters = dict(model.named_parameters())

    def run() -> Tensor:
        parts = []
        for batch in setting.batches:
            wrapped.zero_grad()
            setting.task.losses(wrapped, batch).sum().backward()
            parts.append(_squares(parameters[name].grad_sample for name in setting.layout.names))
        return setting.in_order(parts)

    return run


def backpack(setting: Setting) -> Run:
    """BackPACK: BatchGrad on the LoRA maps."""
    from backpack import backpack as extended
    from backpack import extend
    from backpack.extensions import BatchGrad

    model = deepcopy(setting.model).eval()
    for name in setting.layout.names:
        extend(model.get_submodule(name.rpartition(".")[0]))
    parameters = dict(model.named_parameters())

    def run() -> Tensor:
        parts = []
        for batch in setting.batches:
            model.zero_grad()
            with extended(BatchGrad()):
                setting.task.losses(model, batch).sum().backward()
            parts.append(_squares(parameters[name].grad_batch for name in setting.layout.names))
        return setting.in_order(parts)

    return run


def _squares(gradients: Any) -> Tensor:
    return torch.stack([g.flatten(1).square().sum(dim=1) for g in gradients]).sum(dim=0).detach()


def measure(run: Run, plain: Callable[[], None], repetitions: int, wanted: Tensor | None) -> dict[str, Any]:
    """Interleaved pairs after one run of each to warm up; the error is the largest relative one of a difficulty."""
    found = run()
    pairs = [(_seconds(plain), _seconds(run)) for _ in range(repetitions)]
    row: dict[str, Any] = {
        "seconds": statistics.median(own for _, own in pairs),
        "plain_seconds": statistics.median(base for base, _ in pairs),
        "ratio": statistics.median(own / base for base, own in pairs),
        "ratios": [own / base for base, own in pairs],
    }
    if found is not None and wanted is not None:
        row["relative_error"] = float(((found - wanted) / wanted).abs().max())
    return row


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=7, help="interleaved pairs; alternatives get a third")
    parser.add_argument("--targets", choices=list(TARGETS), default="query-value", help="maps with LoRA")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    setting = Setting(options.examples, options.batch_size, options.targets)
    setting.plain()
    wanted = one_by_one(setting)
    fewer = max(1, options.repetitions // 3)
    makers: dict[str, tuple[Callable[[], Run], int]] = {
        "plain, again": (lambda: lambda: setting.plain(), options.repetitions),
        "difficulty": (lambda: lambda: one_pass(setting, noise=False, fold=False), options.repetitions),
        "difficulty + Fisher diagonal": (lambda: lambda: one_pass(setting, noise=False), options.repetitions),
        "difficulty + Fisher diagonal + noise gradient": (lambda: lambda: one_pass(setting), options.repetitions),
        "one example at a time": (lambda: lambda: one_by_one(setting), fewer),
        "torch.func vmap(grad)": (lambda: per_sample_gradients(setting), fewer),
        "opacus": (lambda: opacus(setting), fewer),
        "backpack": (lambda: backpack(setting), fewer),
    }
    rows: dict[str, dict[str, Any]] = {}
    for name, (make, repetitions) in makers.items():
        try:
            rows[name] = measure(make(), setting.plain, repetitions, wanted)
        except Exception as error:  # another library's failure is this row's result
            if name in list(makers)[:5]:
                raise
            rows[name] = {"not_run": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
        row = rows[name]
        detail = row.get("not_run") or f"{row['seconds']:8.3f} s  {row['ratio']:6.3f} x plain"
        print(f"{name:48s} {detail}", flush=True)
    ratio = rows["difficulty + Fisher diagonal + noise gradient"]["ratio"]
    result = {
        "target": TARGET,
        "reached": ratio <= TARGET,
        "targets": options.targets,
        "examples": options.examples,
        "batch_size": options.batch_size,
        "padded_tokens": sum(batch.input_ids.numel() for batch in setting.batches),
        "versions": environment.versions(),
        "hardware": environment.hardware(),
        "threads": torch.get_num_threads(),
        "commit": environment.git_commit(),
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
