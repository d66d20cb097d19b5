"""The model card of a run, with the lines that load its adapter: without this package, if PEFT holds the kind."""

from collections.abc import Mapping
from typing import Any

from fibecfed.config import Config
from fibecfed.methods import METHODS

_POOLING = {
    "mean": 'mask = batch["attention_mask"].unsqueeze(-1)\nvector = (hidden * mask).sum(1) / mask.sum(1)',
    "cls": "vector = hidden[:, 0]",
    "last": 'vector = hidden[torch.arange(len(hidden)), batch["attention_mask"].sum(1) - 1]',
}

_POOLED = """\
import json
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

task = json.load(open("adapter/task.json"))
tokenizer = AutoTokenizer.from_pretrained("adapter")
base = AutoModel.from_pretrained(task["base_model"])  # or a folder with the same weights
model = PeftModel.from_pretrained(base, "adapter").eval()
head = load_file("adapter/head.safetensors")

batch = tokenizer(["a text"], padding=True, truncation=True, max_length=task["max_length"], return_tensors="pt")
with torch.no_grad():
    hidden = model(**batch).last_hidden_state
{pooling}
logits = vector @ head["weight"].T + head["bias"]
print(task["labels"][int(logits[0].argmax())])
"""

_NATIVE = """\
import json
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

task = json.load(open("adapter/task.json"))
tokenizer = AutoTokenizer.from_pretrained("adapter")
base = AutoModelForSequenceClassification.from_pretrained(task["base_model"], num_labels=len(task["labels"]))
base.config.pad_token_id = tokenizer.pad_token_id
model = PeftModel.from_pretrained(base, "adapter").eval()

batch = tokenizer(["a text"], padding=True, truncation=True, max_length=task["max_length"], return_tensors="pt")
with torch.no_grad():
    logits = model(**batch).logits
print(task["labels"][int(logits[0].argmax())])
"""


_BEFORE = """\
import json
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.functional import pad
from transformers import AutoModel, AutoTokenizer

task = json.load(open("adapter/task.json"))
tokenizer = AutoTokenizer.from_pretrained("adapter")
base = AutoModel.from_pretrained(task["base_model"]).eval()  # or a folder with the same weights
model = PeftModel.from_pretrained(base, "adapter").eval()
head = load_file("adapter/head.safetensors")

batch = tokenizer(["a text"], padding=True, truncation=True, max_length=task["max_length"], return_tensors="pt")
with torch.no_grad():
{forward}
{pooling}
logits = vector @ head["weight"].T + head["bias"]
print(task["labels"][int(logits[0].argmax())])
"""

_PROMPT = """\
    words = base.get_input_embeddings()(batch["input_ids"])
    prompt = model.get_prompt(len(words))
    length = prompt.shape[1]
    rest = {k: pad(v, (length, 0), value=int(k == "attention_mask")) for k, v in batch.items() if k != "input_ids"}
    hidden = base(inputs_embeds=torch.cat([prompt, words], 1), **rest).last_hidden_state[:, length:]"""

_PREFIX = """\
    prefix = model.get_prompt(len(batch["input_ids"]))
    mask = pad(batch["attention_mask"], (prefix.get_seq_length(), 0), value=1)
    hidden = base(**{**batch, "attention_mask": mask}, past_key_values=prefix).last_hidden_state"""

_OWN = """\
import fibecfed

classifier = fibecfed.load(".")  # the run's directory
logits = classifier.logits(["a text"])
print(classifier.predict(["a text"])[0].label)
"""

_IN_PEFT = ("lora", "prompt", "prefix")


def loading_code(description: Mapping[str, Any]) -> str:
    """Python that loads ``adapter/``: with transformers, peft and safetensors only, for kinds that PEFT holds."""
    if description["tuning"] not in _IN_PEFT:
        return _OWN
    if description["head"] == "native":
        return _NATIVE
    pooling = _POOLING[description["pooling"]]
    if description["tuning"] == "lora":
        return _POOLED.format(pooling=pooling)
    return _BEFORE.format(forward=_PROMPT if description["tuning"] == "prompt" else _PREFIX, pooling=pooling)


def model_card(config: Config, summary: Mapping[str, Any], description: Mapping[str, Any], note: str = "") -> str:
    """README.md of a run directory, with the metadata block that model hubs read."""
    kind = description["tuning"]
    return f"""---
library_name: {"peft" if kind in _IN_PEFT else "fibecfed"}
base_model: {description["base_model"]}
tags: [federated-learning, {kind}, fibecfed]
---

# {config.method} on {summary["dataset"]}

Fine-tuned with [fibecfed](https://pypi.org/project/fibecfed/) over {config.federation.devices} devices,
{config.federation.sampled} a round, {summary["rounds"]} rounds, seed {config.seed}.
{note}
{_numbers(config, summary)}

`summary.json` has the rest, `config.yaml` repeats the run.
Labels: {", ".join(description["labels"])}.

## Load it

```python
{loading_code(description)}```
"""


def _numbers(config: Config, summary: Mapping[str, Any]) -> str:
    """What the saved model reaches, and the mean that comparisons use where it covers more than one evaluation."""
    mean = summary["mean"]
    columns = [("saved model", summary)]
    if mean["evaluations"] > 1:
        columns.append((f"mean of the last {mean['evaluations']} evaluations", mean))
    rows: dict[str, list[str]] = {
        f"accuracy of {global_name(config.method)}": [f"{of['accuracy']['global']:.4f}" for _, of in columns],
        "accuracy of each device's own model on its own examples": [
            f"{of['accuracy']['personalized']:.4f}" for _, of in columns
        ],
        "the same, worst tenth of devices": [f"{of['worst_tenth']:.4f}" for _, of in columns],
    }
    lines = [("", *(f"{summary['evaluated_on']}, {name}" for name, _ in columns)), ("---",) * (len(columns) + 1)]
    lines += [(name, *cells) for name, cells in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def global_name(method: str) -> str:
    """What the number called ``global`` is the accuracy of."""
    mean = method in METHODS and METHODS[method].global_is_mean_of_devices
    return "the devices' models on all examples, in the mean" if mean else "the global model"
