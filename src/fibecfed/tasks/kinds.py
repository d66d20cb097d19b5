"""The kinds of task by name. A kind of one's own is put into ``TASKS`` before a run is made."""

from fibecfed.config import Config, nearest_hint, not_offered
from fibecfed.errors import InputError
from fibecfed.tasks.base import Task
from fibecfed.tasks.classification import Classification

TASKS: dict[str, type[Task]] = {Classification.kind: Classification}


def task_kind(config: Config) -> type[Task]:
    """The kind of task that a configuration names. Raises InputError naming the nearest known one."""
    name = config.task.kind
    if name not in TASKS:
        hint = not_offered(name) + nearest_hint(name, TASKS)
        raise InputError(f"Unknown task '{name}' (task.kind).{hint} Known: {', '.join(TASKS)}.")
    return TASKS[name]
