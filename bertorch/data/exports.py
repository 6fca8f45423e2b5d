"""What annotation tools export, as rows that every task reads: Label Studio's JSON and JSON-MIN.

doccano's exports need nothing of this: their keys are those that the readers know.
"""

from itertools import accumulate
from typing import Any

from bertorch.errors import UnusableRow

_ANNOTATIONS = ("annotations", "completions")  # the second up to Label Studio 0.9
_OF_THE_TOOL = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "entities", "relations"}


def plain_row(row: dict[str, Any]) -> dict[str, Any]:
    """A task of Label Studio as a plain row, any other row as it is.

    The row has the keys of the task's data, and beside them: ``label``, the choices, or a rating or number; ``entities``,
    the spans with ``start``, ``end`` (exclusive), ``text`` and ``label``; ``relations`` if there are any; and the values of
    each control under its name. If the data has one text under another name, ``text`` is that too. A task without
    annotation has none of these keys.

    Raises:
        UnusableRow: annotators disagree, or a span is not where it should be.
    """
    if isinstance(row.get("data"), dict) and (key := next((key for key in _ANNOTATIONS if key in row), None)):
        return _of_task({"id": row["id"], **row["data"]} if "id" in row else row["data"], row[key])
    return _of_small_task(row) if "annotation_id" in row else row


def _of_task(data: dict[str, Any], annotations: object) -> dict[str, Any]:
    given = [one for one in annotations if isinstance(one, dict)] if isinstance(annotations, list) else []
    given = [one for one in given if not one.get("was_cancelled") and isinstance(one.get("result"), list)]
    given = [one for one in given if one.get("ground_truth")] or given
    found = [_of_results(_with_text(data), one["result"]) for one in given]
    if any(one != found[0] for one in found):
        raise UnusableRow(f"{len(found)} annotations that differ", "mark one as ground truth in Label Studio")
    return found[0] if found else _with_text(data)


def _with_text(data: dict[str, Any]) -> dict[str, Any]:
    texts = [value for value in data.values() if isinstance(value, str)]
    return {"text": texts[0], **data} if "text" not in data and len(texts) == 1 else dict(data)


def _of_results(row: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    controls: dict[str, list[Any]] = {}
    spans: list[dict[str, Any]] = []
    relations = [one for one in results if isinstance(one, dict) and one.get("type") == "relation"]
    for one in results:
        value = one.get("value") if isinstance(one, dict) else None
        if not isinstance(value, dict):
            continue
        name = str(one.get("from_name", "label"))
        if "start" in value and "labels" in value:
            spans += _spans(row.get("text"), value)
        elif isinstance(value.get("choices"), list):
            controls.setdefault(name, []).extend(value["choices"])
        elif isinstance(value.get("taxonomy"), list):
            controls.setdefault(name, []).extend("/".join(map(str, path)) for path in value["taxonomy"])
        else:
            controls.setdefault(name, []).extend(value[kind] for kind in ("rating", "number") if kind in value)
    named = {name: values for name, values in controls.items() if values}
    row = {**row, **named, "entities": spans, "label": next(iter(named.values())) if len(named) == 1 else []}
    if len(named) > 1:
        row.pop("label")
        row.update({"label": named["label"]} if "label" in named else {})
    return {**row, **({"relations": relations} if relations else {})}


def _of_small_task(row: dict[str, Any]) -> dict[str, Any]:
    """A row of JSON-MIN: data and values of controls side by side."""
    row, spans = _with_text({key: value["choices"] if _has_choices(value) else value for key, value in row.items()}), []
    for key, value in list(row.items()):
        if isinstance(value, list) and value and all(isinstance(one, dict) and "labels" in one for one in value):
            spans += [span for one in value for span in _spans(row.get("text"), one)]
            del row[key]
    others = [key for key in row if key not in _OF_THE_TOOL and key != "text"]
    if "label" not in row and len(others) == 1:
        row["label"] = row[others[0]]
    return {**row, "entities": spans}


def _has_choices(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("choices"), list)


def _spans(text: object, value: dict[str, Any]) -> list[dict[str, Any]]:
    """A span of each label. Browsers count characters beyond U+FFFF twice: such places are corrected by the span's text."""
    start, end, surface = value.get("start"), value.get("end"), value.get("text")
    if isinstance(text, str) and isinstance(surface, str) and type(start) is int and type(end) is int:
        if text[start:end] != surface:
            units = {unit: place for place, unit in enumerate(accumulate([0, *(1 + (sign > "\uffff") for sign in text)]))}
            start, end = units.get(start, -1), units.get(end, -1)
        if start < 0 or text[start:end] != surface:
            raise UnusableRow(f"{surface[:20]!r} is not at {value['start']} to {value['end']} of its text", "correct it")
    labels = value["labels"] if isinstance(value["labels"], list) else [value["labels"]]
    return [{"start": start, "end": end, "label": label, "text": surface} for label in labels]
