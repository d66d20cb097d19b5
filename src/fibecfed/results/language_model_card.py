"""The lines of a model card that load a language model's adapter and answer a prompt, without this package."""

from collections.abc import Mapping
from typing import Any

# Of a model and its tokenizer, with the template of the training beside it.
ANSWERS = """\
messages = [{"role": "user", "content": "a prompt"}]
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
batch = tokenizer(text, add_special_tokens=False, return_token_type_ids=False, return_tensors="pt")
with torch.no_grad():
    logits = model(**batch).logits
    answer = model.generate(**batch, max_new_tokens=100, do_sample=False, pad_token_id=tokenizer.pad_token_id)
print(tokenizer.decode(answer[0, batch["input_ids"].shape[1] :], skip_special_tokens=True))
"""

_LOADS = """\
import json
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

task = json.load(open("adapter/task.json", encoding="utf-8"))
tokenizer = AutoTokenizer.from_pretrained("adapter")  # with the template of the training
base = AutoModelForCausalLM.from_pretrained(task["base_model"], **task["base_settings"])
model = PeftModel.from_pretrained(base, "adapter").eval()
"""

_OWN = """\
import fibecfed

model = fibecfed.load_language_model(".")  # the run's directory
print(model.answer("a prompt"))
"""


def language_model_code(description: Mapping[str, Any], in_peft: bool) -> str:
    """Python that loads ``adapter/`` and answers; with fibecfed where PEFT does not hold the kind of tuning."""
    return _LOADS + ANSWERS if in_peft else _OWN


def language_model_input(texts: list[str]) -> str:
    """What it reads, by the columns of the data."""
    named = ", ".join(f"`{name}`" for name in texts)
    return f"It answers prompts, written by the chat template beside the adapter (columns {named})."
