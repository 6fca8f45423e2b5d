"""Damaged and hostile files for tests: arbitrary bytes, mutated text, JSON with an odd node, a pickle that runs code."""

import copy
import json
import os
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# FUZZ_FACTOR=100 pytest tests/test_untrusted_files.py tries a hundred times as many.
FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))

_NUMBERS = st.sampled_from(
    (0, 1, -1, 2, 10**6, 10**12, 2**63, -(10**30), 10**400, 0.5, -1.5, 1e308, float("nan"), float("inf"))
)
_TEXTS = st.sampled_from(
    ("", " ", "a", "O", "B-PER", "ж\u0301", "\x00", "\ud83d", "../../x", "/etc/passwd", "bert", "x" * 300)
)
_LEAVES = st.none() | st.booleans() | _NUMBERS | _TEXTS | st.text(max_size=5)
ANY_JSON = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3), max_leaves=5
)


def examples(count: int):
    """Settings of a test that tries ``count`` damaged files."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count * FACTOR, deadline=None, suppress_health_check=checks)


@st.composite
def damaged_bytes(draw, valid: bytes) -> bytes:
    """Arbitrary bytes or text; or ``valid`` cut off, with bytes changed, or with lines left out, doubled or changed."""
    kind = draw(st.sampled_from(("bytes", "text", "cut", "changed", "lines")))
    if kind == "bytes":
        return draw(st.binary(max_size=80))
    if kind == "text":
        signs = st.sampled_from('\t\n\r "{}[],:0-.eO\u2028\ufeff\x00') | st.characters(codec="utf-8")
        return draw(st.text(signs, max_size=40)).encode()
    if kind == "cut":
        return valid[: draw(st.integers(0, len(valid)))]
    if kind == "changed":
        content = bytearray(valid)
        for _ in range(draw(st.integers(1, 4))):
            content[draw(st.integers(0, len(content) - 1))] ^= draw(st.integers(1, 255))
        return bytes(content)
    lines = valid.split(b"\n")
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        lines[place : place + 1] = draw(
            st.sampled_from(([], [lines[place]] * 2, [lines[place][::-1]], [lines[place] + b"\tx"], [b"\xff"], [b""]))
        )
        lines = lines or [b""]
    return b"\n".join(lines)


@st.composite
def damaged_json(draw, valid: Any) -> bytes:
    """``valid`` as JSON, where one or two of its nodes are another value, or are left out."""
    content = [copy.deepcopy(valid)]
    for _ in range(draw(st.integers(1, 2))):
        parent, key = draw(st.sampled_from(_nodes(content)))
        if parent is not content and draw(st.booleans()) and draw(st.booleans()):
            del parent[key]
        else:
            parent[key] = draw(ANY_JSON)
    return json.dumps(content[0]).encode()


def _nodes(content: Any) -> list[tuple[Any, Any]]:
    """``(container, key)`` of every node."""
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    return [node for key in keys for node in ((content, key), *_nodes(content[key]))]


class Malice:
    """Unpickled naively it makes a folder."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)
