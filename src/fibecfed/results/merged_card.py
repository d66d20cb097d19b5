"""The model card of a merged model, with the lines that load it by plain transformers."""

from collections.abc import Mapping
from typing import Any

from fibecfed.config import Config
from fibecfed.results.card import POOLED_HEAD, POOLING
from fibecfed.results.language_model_card import ANSWERS
from fibecfed.tasks import TASKS

_LOADS = """\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")  # with the template of the training
model = AutoModelForCausalLM.from_pretrained(".", dtype="auto").eval()
"""

_CLASSIFIES = """\
import json
import torch
{imports}

task = json.load(open("task.json", encoding="utf-8"))
tokenizer = AutoTokenizer.from_pretrained(".")
model = {auto}.from_pretrained(".", dtype="auto").eval()
{head}options = {{"padding": True, "truncation": True, "max_length": task["max_length"], "return_tensors": "pt"}}
batch = tokenizer({texts}, **options)
with torch.no_grad():
{forward}
{reading}
"""

_NATIVE = {
    "imports": "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
    "auto": "AutoModelForSequenceClassification",
    "head": "",
    "forward": "    logits = model(**batch).logits.float()",
}


def merged_code(description: Mapping[str, Any]) -> str:
    """Python that loads a merged model from the folder it is run in; ``description`` is that of its adapter."""
    task = TASKS[description["task"]]
    if task.generates:
        return _LOADS + ANSWERS
    pair = len(description["texts"]) > 1
    texts = '["a text"], ["its second text"]' if pair else '["a text"], return_token_type_ids=False'
    parts = _NATIVE
    if description["head"] == "pooled":
        head = POOLED_HEAD.format(pooling=POOLING[description["pooling"]])
        parts = {
            "imports": "from safetensors.torch import load_file\nfrom transformers import AutoModel, AutoTokenizer",
            "auto": "AutoModel",
            "head": 'head = load_file("head.safetensors")\n',
            "forward": f"    hidden = model(**batch).last_hidden_state.float()\n{head}",
        }
    return _CLASSIFIES.format(texts=texts, reading=task.reading_code, **parts)


def merged_card(config: Config, description: Mapping[str, Any], device: int | str | None) -> str:
    """README.md of a merged model: the global one of a run, or that of a ``device``."""
    whose = "The global model" if device is None else f"The own model of device {device}"
    return f"""---
library_name: transformers
base_model: {description["base_model"]}
tags: [federated-learning, fibecfed]
---

# {config.method} on {config.dataset}, merged

{whose} of a run with fibecfed (seed {config.seed}). Its LoRA adapter is added to the weights of
`{description["base_model"]}`, which stays what it was; `task.json` says what was trained.

## Load it

```python
{merged_code(description)}```
"""
