"""The tasks: the name that ``bertorch.json`` holds -> the folder. The one registry; a new task is a line here.

The table imports nothing of them: who asks for a part of a task loads that part alone.
"""

import importlib
from types import ModuleType

TASKS = {
    "classification": "classification",
    "sentence_vectors": "sentences",
    "entities": "entities",
    "reading": "reading",
    "language_model": "pretraining",
}


def part(task: str, name: str) -> ModuleType:
    """The module ``name`` of a task's folder; ``contract.py`` lists the names that each folder has.

    Raises:
        KeyError: the task does not exist.
    """
    return importlib.import_module(f"bertorch.tasks.{TASKS[task]}.{name}")
