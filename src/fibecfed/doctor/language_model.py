"""What a language model's run needs beside other runs: examples that can be learned, a template, memory."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from fibecfed.config import Config
from fibecfed.data.instructions import column_sentence, unusable
from fibecfed.doctor.finding import Finding
from fibecfed.errors import InputError
from fibecfed.models import load_pretrained
from fibecfed.runs.estimate import ordinary_round
from fibecfed.runs.weightless import counted_memory
from fibecfed.runtime import Experiment, assemble
from fibecfed.tasks import task_kind
from fibecfed.training import torch_device

_SHOWN = 3  # rows that are named
_MEMINFO = Path("/proc/meminfo")


def check_rows(config: Config) -> Iterator[Finding]:
    """Which columns are read, and how many rows of a user's own files have nothing that can be learned."""
    yield Finding("columns", column_sentence(config))
    for path in (config.data.file, config.data.test_file):
        if path is None:
            continue
        try:
            rows, reasons = unusable(config, path)
        except InputError:
            continue  # said where the data is read
        if len(reasons) > 1:  # one alone is what reading the data says
            more = f" And {len(reasons) - _SHOWN} more." if len(reasons) > _SHOWN else ""
            text = f"{len(reasons)} of the {rows} rows of '{path}' cannot be learned"
            yield Finding("rows", text, " ".join(reasons[:_SHOWN]) + more)


def check_template(config: Config) -> Iterator[Finding]:
    """Whether the tokenizer has a chat template of its own; the plain one is shown."""
    try:
        tokenizer = load_pretrained(config.model, 0, generates=True, weights=False).tokenizer
        task_kind(config).prepare(tokenizer)
    except InputError:
        return  # said of the model
    yield Finding("template", task_kind(config).note(tokenizer) or "the tokenizer's own chat template is used")


def check_learning(config: Config) -> Iterator[Finding]:
    """How many examples are longer than the limit, and what training takes of the memory that is free.

    The model is counted from its shapes, without loading its weights.
    """
    try:
        experiment = assemble(config, weights=False)
    except InputError as error:
        yield Finding("examples", "they cannot be learned by this model with these settings", str(error))
        return
    yield _lengths(experiment)
    try:
        job = ordinary_round(experiment).job
    except InputError as error:
        yield Finding("memory", f"not counted: {error}")
        return
    if job is None:
        return
    found = counted_memory(experiment, job)
    needed, free, where = found.total, *_free(experiment.config)
    text = (
        f"training takes about {_size(needed)} ({found.examples} examples of {found.tokens} tokens at a time), and "
        f"{_size(free)} {where} are free"
    )
    fix = None
    if needed > free:
        fix = (
            "lower training.micro_batch_size or data.max_length, set training.gradient_checkpointing=true or "
            "runtime.precision=bf16, or take a smaller model"
        )
    yield Finding("memory", text, fix)


def _lengths(experiment: Experiment) -> Finding:
    train, held_out = experiment.data.train, experiment.data.held_out
    count, longest = len(train) + len(held_out), max(int(train.lengths.max()), int(held_out.lengths.max()))
    cut, lost = train.truncated + held_out.truncated, train.tokens_cut + held_out.tokens_cut
    wanted, room = experiment.config.data.max_length, experiment.pretrained.tokenizer.model_max_length
    if not cut:
        return Finding("examples", f"none of {count} is longer than the limit of {min(wanted, room)} tokens")
    remedy = "data.max_length raises it" if wanted <= room else "the model has no positions for more"
    return Finding(
        "examples",
        f"{cut} of {count} are cut to {longest} tokens, the prompt from its beginning first ({lost} tokens lost); "
        f"{remedy}",
    )


def _free(config: Config) -> tuple[int, str]:
    """Bytes that are free where the model will be, and where that is."""
    device = torch_device(config.runtime.device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0], "on the GPU"
    if _MEMINFO.is_file():
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024, "on this machine"
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "in all on this machine"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
