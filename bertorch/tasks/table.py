"""The registry of tasks: the name in ``bertorch.json`` -> the folder. A new task is one line here.

The table does not import the tasks: ``part`` loads only the module that is asked for.
"""

import importlib
from types import ModuleType

TASKS = {
    "classification": "classification",
    "sentence_vectors": "sentences",
    "entities": "entities",
    "reading": "reading",
    "choice": "choice",
    "language_model": "pretraining",
}


def part(task: str, name: str) -> ModuleType:
    """The module ``name`` of a task's folder; ``contract.py`` lists the names that each folder has.

    Raises:
        KeyError: the task does not exist.
    """
    return importlib.import_module(f"bertorch.tasks.{TASKS[task]}.{name}")
