"""What scoring costs on a language model beside training on the same batches, and what its logits take.

    python benchmarks/decoder_pass.py --out decoder_pass.json

Llama forms with random weights and LoRA r=8 on every linear map, batches of equal length, fp32, one thread, process
CPU time. ``score`` is one scoring pass over a training pass (forward and backward) on the same batches, interleaved;
"outer products" and "Gram matrices" are that pass with one way of the kernel forced, "as chosen" takes the cheaper by
shape. ``logits`` has the bytes of the largest tensor of logits in a training pass whose responses stay as they are
while prompts grow: with the head at learned tokens, in pieces, and with all logits at once.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from fibecfed.curriculum import FisherScorer, kernels
from fibecfed.models import CausalModel
from fibecfed.results import environment
from fibecfed.tasks import IGNORED, Batch, CausalLanguageModel

TARGET = 1.15  # a scoring pass over a training pass, at most
TASK = CausalLanguageModel(("all",))
WAYS = {"as chosen": kernels._ENTRY_COST, "outer products": 0.0, "Gram matrices": float("inf")}
SHAPES = ((64, 64, 16), (256, 64, 8), (256, 256, 4), (512, 32, 8), (512, 256, 2))  # hidden, tokens, examples


def model_of(hidden: int, vocabulary: int) -> tuple[CausalModel, list[str]]:
    """A decoder of four layers with LoRA that is not zero, and the names of what is scored."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=4,
        num_attention_heads=8, max_position_embeddings=4096, use_cache=False,
    )  # fmt: skip
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type=TaskType.CAUSAL_LM)
    model = CausalModel(get_peft_model(LlamaForCausalLM(config), lora)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.02)
    return model, [name for name, p in model.named_parameters() if p.requires_grad]


def batch_of(examples: int, prompt: int, response: int, vocabulary: int) -> Batch:
    """Random tokens, of which the last ``response`` are learned."""
    ids = torch.randint(vocabulary, (examples, prompt + response), generator=torch.Generator().manual_seed(1))
    targets = ids.clone()
    targets[:, :prompt] = IGNORED
    return Batch(ids, torch.ones_like(ids), targets)


def score_row(hidden: int, tokens: int, examples: int, repetitions: int) -> dict[str, Any]:
    """Seconds of a training pass, and of the ways to score over it; medians of pairs."""
    model, names = model_of(hidden, 1024)
    batch = batch_of(examples, tokens // 2, tokens - tokens // 2, 1024)

    def train() -> None:
        model.zero_grad()
        TASK.losses(model, batch).sum().backward()

    def scored() -> torch.Tensor:
        with FisherScorer(model, names) as scorer:
            return scorer.score(TASK, batch).difficulty

    row: dict[str, Any] = {"hidden": hidden, "tokens": tokens, "examples": examples}
    found = {}
    for way, cost in WAYS.items():
        kernels._ENTRY_COST = cost  # type: ignore[assignment]
        found[way] = scored()  # and a first pass that nobody times
        train()
        pairs = [(_seconds(train), _seconds(scored)) for _ in range(repetitions)]
        row["plain seconds"] = statistics.median(plain for plain, _ in pairs)
        row[way] = statistics.median(score / plain for plain, score in pairs)
    kernels._ENTRY_COST = WAYS["as chosen"]  # type: ignore[assignment]
    one, other = found["outer products"], found["Gram matrices"]
    row["relative difference"] = float(((one - other) / one).abs().max())
    return row


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


@contextmanager
def largest() -> Iterator[list[int]]:
    """Bytes of the largest tensor with the width of the vocabulary that an operation makes."""
    from torch.utils._python_dispatch import TorchDispatchMode

    held = [0]

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            for tensor in found if isinstance(found, tuple | list) else (found,):
                if isinstance(tensor, torch.Tensor) and tensor.dim() > 1 and tensor.shape[-1] == VOCABULARY:
                    held[0] = max(held[0], tensor.numel() * tensor.element_size())
            return found

    with Watching():
        yield held


VOCABULARY = 32_003  # no width of anything else


def logits_row(prompt: int) -> dict[str, Any]:
    """Bytes of the largest logits of a training pass over 4 examples with 64 learned tokens each."""
    model, _ = model_of(64, VOCABULARY)
    model._most = 2**21  # entries: 8 MiB, so that this benchmark stays small
    batch = batch_of(4, prompt, 64, VOCABULARY)
    embedding = model.backbone.get_base_model().get_input_embeddings()
    inputs = embedding(batch.input_ids)
    row: dict[str, Any] = {"prompt": prompt}
    with largest() as held:
        TASK.losses(model, batch).sum().backward()
    row["chunked head, bytes"] = held[0]
    with largest() as held:
        logits = model.backbone(inputs_embeds=inputs.detach(), attention_mask=batch.attention_mask).logits[:, :-1]
        functional.cross_entropy(
            logits.float().flatten(0, 1), batch.targets[:, 1:].flatten(), reduction="sum"
        ).backward()
    row["all logits, bytes"] = held[0]
    return row


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--repetitions", type=int, default=9, help="interleaved pairs")
    parser.add_argument("--prompts", type=int, nargs="+", default=[64, 256, 1024])
    options = parser.parse_args()
    torch.set_num_threads(1)
    scores = []
    for shape in SHAPES:
        scores.append(score_row(*shape, options.repetitions))
        print("  ".join(f"{k} {v:.3g}" for k, v in scores[-1].items()), flush=True)
    logits = []
    for prompt in options.prompts:
        logits.append(logits_row(prompt))
        print("  ".join(f"{k} {v:,}" for k, v in logits[-1].items()), flush=True)
    result = {
        "target": TARGET,
        "reached": all(row["as chosen"] <= TARGET for row in scores),
        "logits_grow_with_prompts": len({row["chunked head, bytes"] for row in logits}) > 1,
        "score": scores,
        "logits": logits,
        "versions": environment.versions(),
        "hardware": environment.hardware(),
        "threads": torch.get_num_threads(),
        "commit": environment.git_commit(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
