"""Turn marked-up sentences into json lines with character offsets.

Usage: python data/entities/convert.py [FILE.txt ...]

A line holds one sentence, `[张伟|PER]昨天到了[北京|LOC]。`, and becomes
`{"text": "张伟昨天到了北京。", "entities": [[0, 2, "PER"], [6, 8, "LOC"]]}`: start, end (exclusive), type.
train.txt is written to train.jsonl beside it. Without file names, the train.txt, dev.txt and test.txt beside this script
are taken. The allowed types are the lines of labels.txt beside this script. If any line of any file is wrong, nothing is
written.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def parse(line: str, types: list[str]) -> dict:
    """Read one marked-up line; raise ValueError (what is wrong; remedy) if the markup is wrong."""
    text, entities, rest = "", [], line
    while "[" in rest:
        before, _, rest = rest.partition("[")
        inner, closed, rest = rest.partition("]")
        if not closed or "[" in inner:
            raise ValueError(f"the bracket before {inner[:10]!r} is not closed; write [name|TYPE], not nested")
        name, bar, kind = inner.partition("|")
        if not bar or not kind:
            raise ValueError(f"[{inner}] has no type; write [name|TYPE] with one of {', '.join(types)}")
        if kind not in types:
            raise ValueError(f"[{inner}] has the unknown type {kind!r}; use one of {', '.join(types)}")
        if not name.strip():
            raise ValueError(f"[{inner}] is an empty entity; put the name before the | or remove the brackets")
        if name != name.strip():
            raise ValueError(f"[{inner}] has a space at the edge of the name; move it out of the brackets")
        text += check_plain(before)
        entities.append([len(text), len(text) + len(name), kind])
        text += name
    text += check_plain(rest)
    if not text.strip():
        raise ValueError("the line is empty; remove it")
    return {"text": text, "entities": entities}


def check_plain(text: str) -> str:
    """Return text found outside of brackets, which must not hold any markup."""
    for mark in "]|":
        if mark in text:
            raise ValueError(f"there is a {mark} outside of an entity; write [name|TYPE] or remove it")
    return text


def convert(path: Path, types: list[str]) -> str:
    """Return the json lines for one markup file; stop the script at the first wrong line."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1):
        try:
            rows.append(json.dumps(parse(line, types), ensure_ascii=False))
        except ValueError as error:
            sys.exit(f"{path}:{number}: {error}")
    return "\n".join(rows) + "\n"


def main(names: list[str]) -> None:
    types = (HERE / "labels.txt").read_text(encoding="utf-8").split()
    paths = [Path(name) for name in names] or [HERE / f"{name}.txt" for name in ("train", "dev", "test")]
    for path in paths:
        if not path.is_file():
            sys.exit(f"{path}: there is no such file; give the path of a marked-up .txt file")
        if path.suffix != ".txt":
            sys.exit(f"{path}: the name does not end in .txt; rename it, so that the .jsonl is written beside it")
    converted = [convert(path, types) for path in paths]
    for path, lines in zip(paths, converted, strict=True):
        path.with_suffix(".jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
