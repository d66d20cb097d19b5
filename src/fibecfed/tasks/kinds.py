"""The kinds of task by name. A kind of one's own is put into ``TASKS`` before a run is made."""

from fibecfed.config import Config, nearest_hint, not_offered, task_name
from fibecfed.errors import InputError
from fibecfed.tasks.base import Task
from fibecfed.tasks.causal_lm import CausalLanguageModel
from fibecfed.tasks.classification import Classification

TASKS: dict[str, type[Task]] = {kind.kind: kind for kind in (Classification, CausalLanguageModel)}


def task_kind(config: Config) -> type[Task]:
    """The kind of task that a configuration names. Raises InputError naming the nearest known one."""
    name = task_name(config)
    if name not in TASKS:
        hint = not_offered(name) + nearest_hint(name, TASKS)
        raise InputError(f"Unknown task '{name}' (task.kind).{hint} Known: {', '.join(TASKS)}.")
    return TASKS[name]
