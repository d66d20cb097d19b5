"""What `predict` does with a language model: answers prompts, as text that comes bit by bit or as JSON lines."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fibecfed.config import Config
from fibecfed.data.instructions import Prompt, prompts_of_file, prompts_of_lines
from fibecfed.errors import InputError
from fibecfed.federation import write_atomically
from fibecfed.runs.answering import MAX_NEW_TOKENS, LanguageModel, load_language_model


@dataclass(frozen=True)
class Generation:
    """The options of `predict` that only a language model has; None: not given."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None

    def check_unused(self) -> None:
        """Raise InputError if one was given to a classifier."""
        options = {"--max-new-tokens": self.max_new_tokens, "--temperature": self.temperature, "--seed": self.seed}
        given = next((name for name, value in options.items() if value is not None), None)
        if given is not None:
            raise InputError(f"{given} is for task.kind=causal-lm; this run's model classifies texts.")


def answer(
    directory: Path,
    config: Config,
    texts: Sequence[str],
    file: Path | None,
    out: Path | None,
    device: str | None,
    asked: Generation,
) -> None:
    """One prompt as argument: its answer on standard output, as it comes. More, or --file: one JSON object a line.

    Raises InputError for a prompt that is empty or too long; it names the prompt.
    """
    if texts and file:
        raise InputError("Give prompts as arguments or --file, not both.")
    if texts:
        prompts = prompts_of_lines(texts, "prompt")
    elif file is not None:
        prompts = prompts_of_file(config, file)
    else:
        content = sys.stdin.buffer.read().decode("utf-8")
        prompts = prompts_of_lines([line for line in content.splitlines() if line.strip()], "standard input line")
    if not prompts:
        raise InputError("There is no prompt to answer; give it as an argument, with --file, or on standard input.")
    if out is not None and out.suffix.lower() != ".jsonl":
        raise InputError(f"--out '{out}' has the ending '{out.suffix}'; answers are written as .jsonl.")
    model = load_language_model(directory, device)
    if len(texts) == 1 and out is None:
        _answer(model, prompts[0], asked, stream=True)
        print()
        return
    ascii_only = out is None and "utf" not in (sys.stdout.encoding or "").lower()
    lines = []
    for prompt in prompts:
        record = {"prompt": prompt.text, "response": _answer(model, prompt, asked, stream=False)}
        lines.append(json.dumps(record, ensure_ascii=ascii_only))
        if out is None:
            print(lines[-1], flush=True)
    if out is not None:
        try:
            write_atomically(out.resolve(), "".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            raise InputError(f"--out '{out}' cannot be written: {error.strerror}.") from None
        print(f"{len(lines)} answers in {out}")


def _answer(model: LanguageModel, prompt: Prompt, asked: Generation, stream: bool) -> str:
    def say(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    try:
        return model.answer(
            prompt.turns,
            max_new_tokens=MAX_NEW_TOKENS if asked.max_new_tokens is None else asked.max_new_tokens,
            temperature=asked.temperature or 0.0,
            seed=asked.seed or 0,
            say=say if stream else None,
        )
    except InputError as error:
        raise InputError(f"{prompt.place}: {error}") from None
