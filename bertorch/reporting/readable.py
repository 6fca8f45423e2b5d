"""Turn token ids into text that people can read."""

import re
from typing import Any

from transformers import PreTrainedTokenizerBase

_LONGEST = 400  # characters to keep of a text
_CHINESE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef“”‘’…—"
_BLANK = re.compile(f"(?<=[{_CHINESE}]) | (?=[{_CHINESE}])")


def texts_of(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> list[str]:
    """The texts between the special tokens, as the model reads them: with [UNK], and truncated if long."""
    borders = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    borders.add(tokenizer.pad_token_id)
    parts: list[list[int]] = [[]]
    for token in token_ids:
        if token in borders:
            parts.append([])
        else:
            parts[-1].append(token)
    texts = (tokenizer.convert_tokens_to_string(tokenizer.convert_ids_to_tokens(part)) for part in parts if part)
    return [shortened(_BLANK.sub("", text).strip()) for text in texts]


def with_texts(value: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return ``value`` with ``token_ids`` replaced by ``texts`` in each dict."""
    if isinstance(value, dict):
        plain = {name: with_texts(part, tokenizer) for name, part in value.items() if name != "token_ids"}
        return {**plain, "texts": texts_of(tokenizer, value["token_ids"])} if "token_ids" in value else plain
    return [with_texts(part, tokenizer) for part in value] if isinstance(value, list) else value


def shortened(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
