"""Settings of data for language models: where prompts and responses are, and which task such data asks for."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from fibecfed.config.parts import WarmUpConfig
from fibecfed.errors import InputError

if TYPE_CHECKING:
    from fibecfed.config.device import DeviceData
    from fibecfed.config.schema import Config

CAUSAL_LM, CLASSIFICATION = "causal-lm", "classification"
INSTRUCTION_SETS = ("dolly15k", "gsm8k")  # data sets by name that hold prompts and responses
GROUPED_SETS = ("dolly15k",)  # of these, those whose examples have categories
COLUMNS = ("prompt", "response", "context", "system", "messages")
_CLASSES_ONLY = {"text": "text", "text_pair": None, "label": "label", "labels": None, "label_noise": 0.0}


@dataclass(config=ConfigDict(extra="forbid"), frozen=True)
class InstructionColumns:
    """Which columns of data.file a language model is tuned on (task.kind=causal-lm)."""

    prompt: Annotated[
        str | None,
        Field(description="causal-lm: column with the prompt of data.file. None: prompt, where response is a column."),
    ] = None
    response: Annotated[
        str | None, Field(description="causal-lm: column with the response to learn. None: response.")
    ] = None
    context: Annotated[
        str | None,
        Field(description="causal-lm: column with text that belongs to the prompt; cells may be empty. None: none."),
    ] = None
    system: Annotated[
        str | None, Field(description="causal-lm: column with a system message; cells may be empty. None: none.")
    ] = None
    messages: Annotated[
        str | None,
        Field(
            description="causal-lm: column with a list of {role, content} turns, instead of prompt and response. "
            "None: prompt and response."
        ),
    ] = None
    group: Annotated[
        str | None,
        Field(
            description="causal-lm: column with a category, which Dirichlet partitions and stratified draws use. None: "
            "all examples are alike, or the category that a data set by name has."
        ),
    ] = None
    train_on: Annotated[
        Literal["response", "all"],
        Field(description="causal-lm: loss on the tokens of responses, end token included, or on all tokens."),
    ] = "response"


def task_name(config: "Config") -> str:
    """The kind of task: as set; else causal-lm for data of prompts and responses, and classification otherwise."""
    if config.task.kind is not None:
        return config.task.kind
    data = config.data
    asked = any(getattr(data, key) is not None for key in COLUMNS)
    named = data.file is None and data.name in INSTRUCTION_SETS
    return CAUSAL_LM if asked or named else CLASSIFICATION


def check_columns(data: "InstructionColumns | DeviceData") -> None:
    """Raise InputError where whole conversations and a part of one are both named."""
    both = next((key for key in COLUMNS if key != "messages" and getattr(data, key) is not None), None)
    if data.messages is not None and both is not None:
        raise InputError(f"data.messages holds whole conversations, and data.{both} a part of one; set one of them.")


def check_task(config: "Config") -> None:
    """Raise InputError for settings of data and model that belong to the other kind of task."""
    data, model, kind = config.data, config.model, task_name(config)
    if kind == CLASSIFICATION:
        for key in (*COLUMNS, "group"):
            if getattr(data, key) is not None:
                raise InputError(f"data.{key} is for task.kind=causal-lm; leave it out, or set task.kind=causal-lm.")
        if data.train_on != "response":
            raise InputError("data.train_on is for task.kind=causal-lm; leave it out, or set task.kind=causal-lm.")
        if config.evaluation.generate:
            raise InputError("evaluation.generate is for task.kind=causal-lm; a classifier answers nothing.")
        if config.curriculum.per_token:
            raise InputError("curriculum.per_token is for task.kind=causal-lm; a label is one prediction.")
        if config.warm_up.fall != WarmUpConfig().fall:
            raise InputError("warm_up.fall is for task.kind=causal-lm; set warm_up.accuracy.")
        if model.quantization != "none":
            raise InputError("model.quantization is for task.kind=causal-lm; leave it at none.")
        if data.file is None and data.name in INSTRUCTION_SETS:
            raise InputError(f"The data set '{data.name}' has prompts and responses; it needs task.kind=causal-lm.")
    if kind != CAUSAL_LM:
        return
    for key, default in _CLASSES_ONLY.items():
        if getattr(data, key) != default:
            raise InputError(
                f"data.{key} is for task.kind=classification; a language model learns data.response or data.messages."
            )
    if data.partition.habits:
        raise InputError("data.partition.habits swaps labels, and a language model has none; leave it out.")
    check_columns(data)
    if config.evaluation.generate and data.train_on != "response":
        raise InputError("evaluation.generate needs data.train_on=response, which tells prompts from responses.")
    if model.head != "pooled" or model.solves_head or model.pooling != "auto":
        raise InputError("model.head, head_init and pooling are for classifiers; a language model has its own head.")
    if config.curriculum.score == "fisher-model":
        raise InputError(
            "curriculum.score=fisher-model takes the mean over all labels, and responses are no fixed set; use fisher."
        )
    if config.warm_up.accuracy != WarmUpConfig().accuracy:
        raise InputError("warm_up.accuracy is for task.kind=classification; set warm_up.fall.")
    if config.curriculum.per_token and config.curriculum.score not in (None, "fisher", "loss"):
        raise InputError("curriculum.per_token divides Fisher scores and losses; set curriculum.score to one of them.")
    if config.training.loss not in (None, "cross_entropy"):
        raise InputError(
            "training.loss=prior_corrected needs labels; a language model has training.loss=cross_entropy."
        )
    grouped = data.group is not None or (data.file is None and data.name in GROUPED_SETS)
    if config.sharing.count == "sites" and not grouped:
        raise InputError("sharing.count=sites compares mixes of groups; set data.group, or take another count.")
    if config.personal.head not in (None, "none"):
        raise InputError("personal.head is about a trained head, and that of a language model is frozen; leave it out.")
    if config.sharing.head == "local":
        raise InputError("sharing.head=local has nothing to keep: the head of a language model is frozen.")
