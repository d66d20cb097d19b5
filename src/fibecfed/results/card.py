"""The model card of a run, with the lines that load its adapter: without this package, if PEFT holds the kind."""

from collections.abc import Mapping
from typing import Any

from fibecfed.config import Config
from fibecfed.methods import method_class, method_names
from fibecfed.results.language_model_card import language_model_code, language_model_input
from fibecfed.results.summary import answer_scores
from fibecfed.tasks import TASKS

POOLING = {
    "mean": 'mask = batch["attention_mask"].unsqueeze(-1)\nvector = (hidden * mask).sum(1) / mask.sum(1)',
    "cls": "vector = hidden[:, 0]",
    "last": 'vector = hidden[torch.arange(len(hidden)), batch["attention_mask"].sum(1) - 1]',
}

_BASE = """\
{standard}import json
import torch
{imports}

task = json.load(open("adapter/task.json", encoding="utf-8"))
source = task["base_model"]  # or a folder with the same weights
{package}tokenizer = AutoTokenizer.from_pretrained("adapter")
{base}
model = PeftModel.from_pretrained(base, "adapter").eval()
{head}
options = {{"padding": True, "truncation": True, "max_length": task["max_length"], "return_tensors": "pt"}}
batch = tokenizer({texts}, **options)
with torch.no_grad():
{forward}
{reading}
"""

_STANDARD = """\
import importlib.resources
import importlib.util
"""

_PACKAGE = """\
if task["base_package"] and importlib.util.find_spec(task["base_package"]):  # it brought them: no network is needed
    source = str(importlib.resources.files(task["base_package"]) / "model")
"""

_IMPORTS = """\
from peft import PeftModel
from safetensors.torch import load_file
{more}from transformers import AutoModel, AutoTokenizer"""

_IMPORTS_OF_NATIVE = """\
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer"""

_POOLED = """\
    hidden = model(**batch).last_hidden_state.float()"""

POOLED_HEAD = """\
{pooling}
logits = vector @ head["weight"].T + head["bias"]"""

_NATIVE_BASE = """\
settings = {**task["base_settings"], "num_labels": task["outputs"], "ignore_mismatched_sizes": True}
base = AutoModelForSequenceClassification.from_pretrained(source, **settings)
base.config.pad_token_id = tokenizer.pad_token_id"""

_NATIVE = """\
    logits = model(**batch).logits.float()"""

_PROMPT = """\
    words = base.get_input_embeddings()(batch["input_ids"])
    prompt = model.get_prompt(len(words)).to(words.dtype)
    length = prompt.shape[1]
    rest = {k: pad(v, (length, 0), value=int(k == "attention_mask")) for k, v in batch.items() if k != "input_ids"}
    hidden = base(inputs_embeds=torch.cat([prompt, words], 1), **rest).last_hidden_state[:, length:].float()"""

_PREFIX = """\
    prefix = model.get_prompt(len(batch["input_ids"]))
    mask = pad(batch["attention_mask"], (prefix.get_seq_length(), 0), value=1)
    hidden = base(**{**batch, "attention_mask": mask}, past_key_values=prefix).last_hidden_state.float()"""

_OWN = """\
import fibecfed

classifier = fibecfed.load(".")  # the run's directory
logits = classifier.logits({texts})
print(classifier.predict({texts})[0]{answer})
"""

_IN_PEFT = ("lora", "prompt", "prefix")


def loading_code(description: Mapping[str, Any]) -> str:
    """Python that loads ``adapter/``: with transformers, peft and safetensors only, for kinds that PEFT holds."""
    kind, pair = description["tuning"], len(description["texts"]) > 1
    task = TASKS[description["task"]]
    if task.generates:
        return language_model_code(description, kind in _IN_PEFT)
    if kind not in _IN_PEFT:
        return _OWN.format(texts='["a text"], ["its second text"]' if pair else '["a text"]', answer=task.answer)
    # For one text no token types go in, as in the run; some models take them for more than "all the same".
    texts = '["a text"], ["its second text"]' if pair else '["a text"], return_token_type_ids=False'
    packaged = description["base_package"] is not None
    common = {"standard": _STANDARD if packaged else "", "package": _PACKAGE if packaged else "", "texts": texts}
    common["reading"] = task.reading_code
    if description["head"] == "native":
        return _BASE.format(imports=_IMPORTS_OF_NATIVE, base=_NATIVE_BASE, head="", forward=_NATIVE, **common)
    forward = {"lora": _POOLED, "prompt": _PROMPT, "prefix": _PREFIX}[kind]
    padding, in_evaluation = ("", "") if kind == "lora" else ("from torch.nn.functional import pad\n", ".eval()")
    return _BASE.format(
        imports=_IMPORTS.format(more=padding),
        base=f'base = AutoModel.from_pretrained(source, **task["base_settings"]){in_evaluation}',
        head='head = load_file("adapter/head.safetensors")\n',
        forward=f"{forward}\n{POOLED_HEAD.format(pooling=POOLING[description['pooling']])}",
        **common,
    )


def model_card(config: Config, summary: Mapping[str, Any], description: Mapping[str, Any], note: str = "") -> str:
    """README.md of a run directory, with the metadata block that model hubs read."""
    kind = description["tuning"]
    return f"""---
library_name: {"peft" if kind in _IN_PEFT else "fibecfed"}
base_model: {description["base_model"]}
tags: [federated-learning, {kind}, fibecfed]
---

# {config.method} on {summary["dataset"]}

Fine-tuned with fibecfed over {config.federation.devices} devices,
{config.federation.sampled} a round, {summary["rounds"]} rounds, seed {config.seed}.
{note}
{_numbers(config, summary)}

`summary.json` has the rest, `config.yaml` repeats the run.
{TASKS[description["task"]].card_sentence(description["labels"])}{_input(description)}

## Load it

```python
{loading_code(description)}```
"""


def _input(description: Mapping[str, Any]) -> str:
    texts = description["texts"]
    if TASKS[description["task"]].generates:
        return language_model_input(texts)
    if len(texts) == 1:
        return f"It reads one text (column `{texts[0]}`)."
    return (
        f"It reads two texts together, `{texts[0]}` and `{texts[1]}`: in one argument with a tab between them, or in a "
        "file with these columns."
    )


def _numbers(config: Config, summary: Mapping[str, Any]) -> str:
    """What the saved model reaches, and the mean that comparisons use where it covers more than one evaluation."""
    mean, metric = summary["mean"], summary["metric"]
    columns = [("saved model", summary)]
    if mean["evaluations"] > 1:
        columns.append((f"mean of the last {mean['evaluations']} evaluations", mean))
    rows: dict[str, list[str]] = {
        f"{metric} of {global_name(config.method)}": [f"{of[metric]['global']:.4f}" for _, of in columns],
        f"{metric} of each device's own model on its own examples": [
            f"{of[metric]['personalized']:.4f}" for _, of in columns
        ],
        "the same, worst tenth of devices": [f"{of['worst_tenth']:.4f}" for _, of in columns],
    }
    for name in answer_scores(summary):
        rows[f"{name} of answers by {global_name(config.method)}"] = [f"{of[name]['global']:.4f}" for _, of in columns]
        rows[f"{name} of answers by each device's own model"] = [f"{of[name]['personalized']:.4f}" for _, of in columns]
    lines = [("", *(f"{summary['evaluated_on']}, {name}" for name, _ in columns)), ("---",) * (len(columns) + 1)]
    lines += [(name, *cells) for name, cells in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def global_name(method: str) -> str:
    """What the number called ``global`` is the score of."""
    mean = method in method_names() and method_class(method).global_is_mean_of_devices
    return "the devices' models on all examples, in the mean" if mean else "the global model"
