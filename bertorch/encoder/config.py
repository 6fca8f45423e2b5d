"""EncoderConfig: the sizes and traits of an encoder, read from a Hugging Face ``config.json``."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertorch.encoder.families import FAMILIES, Family
from bertorch.errors import UserError
from bertorch.memory import check_memory, total_memory

_MOST_BLOCKS = 10_000  # shared ones count each time they are used; the deepest transformer published has 1,000 layers
_SIZES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "type_vocab_size", "embedding_size", "num_hidden_groups", "inner_group_num",
    "task_type_vocab_size", "relative_attention_num_buckets", "max_relative_position", "max_relative_positions",
    "position_buckets", "conv_kernel_size", "conv_groups", "local_attention",
)  # fmt: skip
_LEAST = {"max_relative_positions": -1, "position_buckets": -1, "conv_kernel_size": 0}  # of those that may be below 1
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_python", "relu", "silu", "tanh")

# Parts of a block that all blocks may share -> their layers.
SHARED = {
    "attention": ("query", "key", "value", "attention_output", "attention_norm"),
    "feed_forward": ("intermediate", "output", "output_norm"),
}
# A family has one of these only if its row lists it.
_NOT_OF_BERT = {
    "embedding_size",
    "num_hidden_groups",
    "inner_group_num",
    "use_task_id",
    "task_type_vocab_size",
    "rotary_value",
    "relative_attention_num_buckets",
    "max_relative_position",
    "relative_attention",
    "pos_att_type",
    "share_att_key",
    "max_relative_positions",
    "position_buckets",
    "norm_rel_ebd",
    "position_biased_input",
    "conv_kernel_size",
    "conv_groups",
    "conv_act",
    "embedding_dropout",
    "attention_bias",
    "mlp_bias",
    "norm_bias",
    "classifier_bias",
    "decoder_bias",
    "local_attention",
}
_YES_OR_NO = (
    "use_task_id", "rotary_value", "relative_attention", "share_att_key", "position_biased_input", "attention_bias",
    "mlp_bias", "norm_bias", "classifier_bias", "decoder_bias",
)  # fmt: skip
_LAYER_TYPES = {"full_attention": ("global_rope_theta", 160_000.0), "sliding_attention": ("local_rope_theta", 10_000.0)}

# Keys that describe the file a config was read from, or a head: saving writes them again; they are never copied.
_NOT_CARRIED = {
    "_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "num_labels", "problem_type",
    "torch_dtype", "transformers_version",
}  # fmt: skip


@dataclass
class EncoderConfig:
    """Sizes and traits of an encoder, under the names of Hugging Face's ``config.json``.

    A family has a key that BERT lacks only if its row lists it. ``embedding_size``, ``num_hidden_groups`` and
    ``inner_group_num`` are ALBERT's (Lan et al. 2019, section 3.1) and ELECTRA's; for the others they take the values that
    BERT implies: as wide as the model, one group per layer, one block per group. ``use_task_id`` and
    ``task_type_vocab_size`` are ERNIE's (Sun et al. 2020, section 4.2). ``rotary_value``, whether values are rotated too, is
    RoFormer's, ``relative_attention_num_buckets`` is MPNet's, and ``max_relative_position``, beyond which distances are
    cut, is NEZHA's. The keys from ``relative_attention`` on are DeBERTa's (He et al. 2020, section 3.1; those of its second
    version as in the authors' code): with ``max_relative_positions`` below 1, ``max_position_embeddings`` applies, and
    there are no ``position_buckets`` below 1 and no convolution of ``conv_kernel_size`` 0. The keys from
    ``embedding_dropout`` on are ModernBERT's: which layers have a bias, and ``local_attention``, the width of a window.

    ``other`` keeps the keys that the encoder does not use or that have several forms, so that a saved config loses nothing.
    ``larger_than`` is never saved: it holds the sizes of the checkpoint of a model that grows, see ``larger_tables.py``.
    """

    model_type: str = "bert"
    vocab_size: int = 21128
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    embedding_size: int | None = None
    num_hidden_groups: int | None = None
    inner_group_num: int = 1
    use_task_id: bool = False
    task_type_vocab_size: int = 3
    rotary_value: bool = False
    relative_attention_num_buckets: int = 32
    max_relative_position: int = 64
    relative_attention: bool = False
    pos_att_type: str | list[str] | None = None
    share_att_key: bool = False
    max_relative_positions: int = -1
    position_buckets: int = -1
    norm_rel_ebd: str = "none"
    position_biased_input: bool = True
    conv_kernel_size: int = 0
    conv_groups: int = 1
    conv_act: str = "tanh"
    embedding_dropout: float | None = None
    attention_bias: bool = True
    mlp_bias: bool = True
    norm_bias: bool = True
    classifier_bias: bool = True
    decoder_bias: bool = True
    local_attention: int = 128
    other: dict[str, Any] = field(default_factory=dict)
    larger_than: dict[str, int] | None = None

    def __post_init__(self) -> None:
        if self.embedding_size is None:
            self.embedding_size = self.family.embedding_size or self.hidden_size
        if self.num_hidden_groups is None:
            self.num_hidden_groups = 1 if self.family.shares_blocks else self.num_hidden_layers
        if self.embedding_dropout is None:
            self.embedding_dropout = self.hidden_dropout_prob

    @property
    def family(self) -> Family:
        """The row in ``FAMILIES``."""
        return FAMILIES[self.model_type]

    @property
    def keys(self) -> dict[str, str]:
        """The fields that the family has -> their keys in ``config.json``."""
        return _keys(self.family)

    def has(self, module: str) -> bool:
        """Whether the model has this embedding, norm or layer, for example ``embeddings.token_type``."""
        apart = self.relative_attention and not self.share_att_key  # distances have layers of their own
        if_configured = {
            "embeddings.position": self.position_biased_input,
            "embeddings.token_type": self.type_vocab_size > 0,
            "embeddings.task_type": self.use_task_id,
            "embeddings.distance": self.relative_attention,
            "embeddings.distance_norm": self.relative_attention and "layer_norm" in _parts(self.norm_rel_ebd),
            "blocks.{block}.distance_key": apart and "c2p" in self.distance_terms,
            "blocks.{block}.distance_query": apart and "p2c" in self.distance_terms,
            "blocks.{block}.convolution.kernel": self.conv_kernel_size > 0,
        }
        return module in self.family.weights and if_configured.get(module, True)

    @property
    def distance_terms(self) -> list[str]:
        """DeBERTa's terms of a score: ``c2p``, of query and distance, and ``p2c``, of key and distance."""
        return self.pos_att_type if isinstance(self.pos_att_type, list) else _parts(self.pos_att_type or "")

    @property
    def distance_span(self) -> int:
        """How many rows DeBERTa's table of distances has for either direction."""
        return self.position_buckets if self.position_buckets > 0 else self.farthest_distance

    @property
    def farthest_distance(self) -> int:
        """The distance from which on DeBERTa's are one."""
        return self.max_relative_positions if self.max_relative_positions > 0 else self.max_position_embeddings

    @property
    def sharing(self) -> str | None:
        """What all layers of an ALBERT share, while each has the rest for itself (Lan et al. 2019, table 4): ``attention``
        or ``feed_forward``, each with the norm after it. None: groups of layers share all, as the configuration says.
        """
        return self.other.get("sharing") if self.family.shares_blocks else None

    @property
    def projects_embeddings(self) -> bool:
        """Whether embeddings are mapped to the hidden width."""
        return self.family.always_projects or self.embedding_size != self.hidden_size

    @property
    def head_size(self) -> int:
        """The width of an attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def norm_serves_first_block(self) -> bool:
        """Whether the norm of the embeddings is that before the first attention too."""
        return self.family.norm_first and self.has("embeddings.norm")

    @property
    def attention_output_dropout(self) -> float:
        """The dropout of what attention adds to the states."""
        return self.attention_probs_dropout_prob if self.family.gated else self.hidden_dropout_prob

    @property
    def layer_types(self) -> list[str]:
        """``full_attention`` or ``sliding_attention`` of each layer."""
        if not self.family.local_layers:
            return ["full_attention"] * self.num_hidden_layers
        every = self.other.get("global_attn_every_n_layers", 3)
        return self.other.get("layer_types") or [
            "sliding_attention" if layer % every else "full_attention" for layer in range(self.num_hidden_layers)
        ]

    @property
    def windows(self) -> list[int | None]:
        """``attention``'s window of each layer."""
        return [self.local_attention // 2 if kind == "sliding_attention" else None for kind in self.layer_types]

    @property
    def clamp_len(self) -> int:
        """The distance beyond which XLNet's distances are cut; below 1: none is."""
        return self.other.get("clamp_len", -1)

    @property
    def rotary_bases(self) -> list[float | None]:
        """The base of each layer's rotary positions; None: it has none."""
        if not self.family.local_layers:
            return [10_000.0 if self.family.rotates else None] * self.num_hidden_layers
        given = self.other.get("rope_parameters") or {}
        bases = {
            kind: (given.get(kind) or {}).get("rope_theta", self.other.get(key, usual))
            for kind, (key, usual) in _LAYER_TYPES.items()
        }
        return [bases[kind] for kind in self.layer_types]

    @property
    def position_offset(self) -> int:
        """The number of the first position."""
        return self.pad_token_id + 1 if self.family.positions_after_padding else 0

    @property
    def max_seq_length(self) -> int:
        """The longest sequence, special tokens included, that the position table has room for."""
        return self.max_position_embeddings - self.position_offset

    @property
    def classifier_act(self) -> str | None:
        """The activation of the sequence classifier's dense layer; None: it uses the pooler instead."""
        return self._act(self.family.classifier_act)

    @property
    def pretraining_act(self) -> str:
        """The activation of the masked-token head."""
        return self._act(self.family.pretraining_act or "hidden_act")

    def _act(self, of_family: str | tuple[str, str] | None) -> str | None:
        if isinstance(of_family, tuple):
            return self.other.get(*of_family)
        return self.hidden_act if of_family == "hidden_act" else of_family

    @property
    def classifier_pooling(self) -> str:
        """The mode of ``heads/pooling.py`` for the vector that the sequence classifier of transformers takes."""
        return self.other.get("classifier_pooling", "cls") if self.family.token_head else "cls"

    @property
    def classifier_input_dropout(self) -> float:
        """The dropout before that dense layer."""
        return self._dropout(self.family.classifier_input_dropout, self.text_classifier_dropout)

    @property
    def classifier_dropout(self) -> float:
        """The dropout before a token classifier, as transformers reads it from this family's configuration."""
        given = self.other.get(self.family.classifier_dropout)
        return self.hidden_dropout_prob if given is None else given

    @property
    def text_classifier_dropout(self) -> float:
        """The dropout before a text classifier."""
        return self._dropout(self.family.text_classifier_dropout, self.classifier_dropout)

    @property
    def choice(self) -> dict[str, str]:
        """Layers of the multiple-choice head -> their names; without ``dense`` it uses the encoder's pooler."""
        return self.family.classifier if self.family.choice is None else self.family.choice

    @property
    def choice_act(self) -> str | None:
        """The activation of its dense layer."""
        return self._act(self.family.choice_act or self.family.classifier_act)

    @property
    def choice_input_dropout(self) -> float:
        """The dropout before that dense layer."""
        return self.classifier_input_dropout if self.family.choice is None else 0.0

    @property
    def choice_dropout(self) -> float:
        """The dropout before its score."""
        usual = self.text_classifier_dropout if self.family.choice is None else self.hidden_dropout_prob
        return self._dropout(self.family.choice_dropout, usual)

    @property
    def reader_dropout(self) -> float:
        """The dropout before the scores of an answer's first and last token."""
        return self._dropout(self.family.reader_dropout, 0.0)

    def _dropout(self, own: tuple[str | None, float | None] | None, otherwise: float) -> float:
        """The configuration's value under the family's ``own`` key, else the usual one, else ``otherwise``."""
        key, usual = own or (None, None)
        of_fields = {key: getattr(self, ours) for ours, key in self.keys.items()}
        given = {**self.other, **of_fields}.get(key, usual)
        return otherwise if given is None else given

    @property
    def pretraining(self) -> dict[str, str]:
        """Layers of the pretraining heads -> their names."""
        own = self.family.own_pretraining
        return own if own is not None and self.other.get("legacy", True) is False else self.family.pretraining

    def check_length(self, max_seq_length: int, directory: str | Path) -> None:
        """Raises UserError if the model in ``directory`` has no positions for ``max_seq_length`` tokens."""
        if max_seq_length > self.max_seq_length and self.has("embeddings.position"):
            raise UserError(
                f"--max_seq_length {max_seq_length}: {directory} has positions for {self.max_seq_length} tokens; "
                "--extend_positions of the training scripts makes more"
            )

    def check_vocabulary(self, highest_id: int, directory: str | Path) -> None:
        """Raises UserError if the tokenizer in ``directory`` gives ids, up to ``highest_id``, that have no embedding."""
        if highest_id >= self.vocab_size:
            raise UserError(
                f"{directory}: its tokenizer gives ids up to {highest_id}, and config.json says vocab_size "
                f"{self.vocab_size}; take the vocabulary of this model"
            )

    @classmethod
    def from_dict(cls, raw: dict[str, Any], path: str | Path = "config.json") -> "EncoderConfig":
        """Read the keys of a Hugging Face ``config.json``.

        Raises:
            UserError: a family, an activation or a kind of position that this encoder does not support, or a size that
                does not fit the others.
        """
        # Configs from before transformers 3 do not name their family.
        model_type = raw.get("model_type", "albert" if "num_hidden_groups" in raw else "bert")
        if model_type == "bert" and raw.get("use_relative_position") is True:  # so Huawei describes NEZHA
            model_type = "nezha"
        if not isinstance(model_type, str) or model_type not in FAMILIES:
            raise UserError(f"{path}: model_type {_shown(model_type)} is not supported; supported are {', '.join(FAMILIES)}")
        if model_type.startswith("roformer"):
            raw = _roformer_kind(raw, path)
            model_type = raw["model_type"]
        family = FAMILIES[model_type]
        keys = _keys(family)
        values = {ours: raw[key] for ours, key in keys.items() if key in raw}
        values = {**family.usual, **values, "model_type": model_type}
        # Some BERT configs have an embedding_size that is never read.
        values["larger_than"] = raw.get("larger_than")
        if not isinstance(values["larger_than"], dict | None):
            raise UserError(f"{path}: larger_than must be an object, found {_shown(values['larger_than'])}")
        known = {"other", *cls.__dataclass_fields__, *keys.values()} | _NOT_CARRIED
        values["other"] = {key: value for key, value in raw.items() if key not in known}
        for ours in _SIZES:
            key, value = keys.get(ours, ours), values.get(ours, 1)
            if value is None and ours in ("embedding_size", "num_hidden_groups"):  # null: the family's default
                continue
            least = 0 if family.usual.get(ours) == 0 else _LEAST.get(ours, 1)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
                raise UserError(f"{path}: {key} must be a whole number above {least - 1}, found {_shown(value)}")
        rates = ("hidden_dropout_prob", "attention_probs_dropout_prob", "embedding_dropout")
        for ours in (*rates, "initializer_range", "layer_norm_eps"):
            key, value = keys.get(ours, ours), values.get(ours, 0.0)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
                raise UserError(f"{path}: {key} must be a number from 0 to below 1, found {_shown(value)}")
        own = (
            family.text_classifier_dropout, family.reader_dropout, family.classifier_input_dropout, family.choice_dropout
        )  # fmt: skip
        own = [given[0] for given in own if given is not None and given[0] is not None]
        for key in ("classifier_dropout", "classifier_dropout_prob", *own):
            value = raw.get(key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1):
                raise UserError(f"{path}: {key} must be a number from 0 to 1, or null, found {_shown(value)}")
        if values.get("pad_token_id") is None:
            values["pad_token_id"] = 1 if family.positions_after_padding else 0
        if not isinstance(values["pad_token_id"], int) or isinstance(values["pad_token_id"], bool):
            raise UserError(f"{path}: pad_token_id must be a whole number, found {_shown(values['pad_token_id'])}")
        for key in _YES_OR_NO:
            if not isinstance(values.get(key, False), bool):
                raise UserError(f"{path}: {key} must be true or false, found {_shown(values[key])}")
        config = cls(**values)
        if config.sharing not in (None, *SHARED):
            raise UserError(f"{path}: sharing must be {' or '.join(SHARED)}, or null, found {_shown(config.sharing)}")
        if config.sharing and (config.num_hidden_groups, config.inner_group_num) != (config.num_hidden_layers, 1):
            raise UserError(f"{path}: with sharing, num_hidden_groups must be num_hidden_layers, and inner_group_num 1")
        config._check_distances(path)
        if config.has("embeddings.relative") and (config.pad_token_id != 1 or config.relative_attention_num_buckets < 32):
            raise UserError(
                f"{path}: MPNet counts positions from 2 and distances in 32 buckets: pad_token_id must be 1, and "
                "relative_attention_num_buckets at least 32"
            )
        if not 0 <= config.position_offset < config.max_position_embeddings:
            raise UserError(
                f"{path}: pad_token_id {config.pad_token_id} leaves no positions; they are counted from the one after it"
            )
        if family.transformer_xl:
            config._check_xlnet(path)
        if family.local_layers:
            config._check_layers(path)
        elif raw.get("position_embedding_type", "absolute") not in ("absolute", None):
            kind = raw["position_embedding_type"]
            raise UserError(f"{path}: position_embedding_type {_shown(kind)} is not supported, only 'absolute'")
        acts = {keys["hidden_act"]: config.hidden_act, "conv_act": config.conv_act}
        for given, act in ((family.classifier_act, config.classifier_act), (family.choice_act, config.choice_act)):
            if isinstance(given, tuple):
                acts[given[0]] = act
        for key, act in acts.items():
            if act not in ACTIVATIONS:
                known = ", ".join(ACTIVATIONS)
                raise UserError(f"{path}: {key} {_shown(act)} is not supported; known: {known}")
        if config.hidden_size % config.num_attention_heads:
            raise UserError(
                f"{path}: {keys['hidden_size']} {config.hidden_size} is not a multiple of "
                f"{keys['num_attention_heads']} {config.num_attention_heads}"
            )
        if family.rotates and config.head_size % 2:
            raise UserError(f"{path}: rotary positions turn pairs: hidden_size / num_attention_heads must be even")
        if family.distance_sines and config.head_size % 2:
            raise UserError(f"{path}: distances are pairs of sines: hidden_size / num_attention_heads must be even")
        config._check_sizes(values, path)
        return config

    def _check_distances(self, path: str | Path) -> None:
        """Raises UserError for kinds of DeBERTa's attention or convolution that there are not."""
        terms = self.pos_att_type
        if not isinstance(terms, str | list | None) or any(term not in ("c2p", "p2c") for term in self.distance_terms):
            raise UserError(f"{path}: pos_att_type {_shown(terms)} is not supported, only c2p and p2c")
        if self.relative_attention and not self.distance_terms:
            raise UserError(f"{path}: relative_attention is true, but pos_att_type names neither c2p nor p2c")
        if not isinstance(self.norm_rel_ebd, str):
            raise UserError(f"{path}: norm_rel_ebd must be a text, found {_shown(self.norm_rel_ebd)}")
        own_width = self.other.get("attention_head_size")
        if "pos_att_type" in self.keys and own_width not in (None, self.hidden_size // self.num_attention_heads):
            raise UserError(
                f"{path}: attention_head_size {_shown(own_width)} is not supported, only hidden_size / num_attention_heads"
            )
        if self.position_buckets == 1:
            raise UserError(f"{path}: position_buckets must be at least 2, or below 1 for none")
        if self.conv_kernel_size > 0 and self.conv_kernel_size % 2 == 0:
            raise UserError(f"{path}: conv_kernel_size {self.conv_kernel_size} must be odd, or 0")
        if self.hidden_size % self.conv_groups:
            raise UserError(f"{path}: hidden_size {self.hidden_size} is not a multiple of conv_groups {self.conv_groups}")

    def _check_xlnet(self, path: str | Path) -> None:
        """Raises UserError if attention or the classifier are not those of the published XLNets."""
        only = {
            "attn_type": "bi", "bi_data": False, "summary_type": "last", "summary_use_proj": True,
            "d_head": self.hidden_size // self.num_attention_heads,
        }  # fmt: skip
        for key, value in only.items():
            given = self.other.get(key, value)
            if given != value and not (given is None and key == "d_head"):
                raise UserError(f"{path}: {key} {_shown(given)} is not supported, only {value!r}")
        if not isinstance(self.clamp_len, int):
            raise UserError(f"{path}: clamp_len must be a whole number, found {_shown(self.clamp_len)}")

    def _check_layers(self, path: str | Path) -> None:
        """Raises UserError if what the configuration says of layers and their positions is not ModernBERT's."""
        every, kinds = self.other.get("global_attn_every_n_layers", 3), self.other.get("layer_types")
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise UserError(f"{path}: global_attn_every_n_layers must be a whole number above 0, found {_shown(every)}")
        if kinds is not None and (
            not isinstance(kinds, list)
            or len(kinds) != self.num_hidden_layers
            or any(not isinstance(kind, str) or kind not in _LAYER_TYPES for kind in kinds)
        ):
            raise UserError(
                f"{path}: layer_types must name {' or '.join(_LAYER_TYPES)} for each of {self.num_hidden_layers} layers, "
                f"found {_shown(kinds)}"
            )
        given = self.other.get("rope_parameters") or {}
        kinds = given.values() if isinstance(given, dict) else [given]
        if self.other.get("rope_scaling") or not all(
            kind is None or (isinstance(kind, dict) and kind.get("rope_type", "default") == "default") for kind in kinds
        ):
            raise UserError(f"{path}: rotary positions that are scaled are not supported, only those of rope_type default")
        for base in self.rotary_bases:
            if not isinstance(base, int | float) or isinstance(base, bool) or not 1 <= base < 1e30:
                raise UserError(f"{path}: a base of rotary positions must be a number from 1, found {_shown(base)}")
        if self.classifier_pooling not in ("cls", "mean"):
            raise UserError(
                f"{path}: classifier_pooling {_shown(self.classifier_pooling)} is not supported, only cls and mean"
            )

    def _check_sizes(self, values: dict[str, Any], path: str | Path) -> None:
        """Raises UserError, naming the keys, for too many layers or weights, before any memory is allocated."""
        for keys, blocks in (
            (("num_hidden_layers", "inner_group_num"), self.num_hidden_layers * self.inner_group_num),
            (("num_hidden_groups", "inner_group_num"), self.num_hidden_groups * self.inner_group_num),
        ):
            if blocks > _MOST_BLOCKS:
                named = " and ".join(f"{self.keys[key]} {values[key]}" for key in keys if values.get(key, 1) > 1)
                raise UserError(f"{path}: {named}: {blocks:,} blocks of layers; at most {_MOST_BLOCKS:,} are allowed")
        if 4 * self._num_saved <= total_memory():
            return
        usual = EncoderConfig(**{"model_type": self.model_type, **self.family.usual})
        larger = [key for key in _SIZES if key in self.keys and (values.get(key) or 0) > getattr(usual, key)]
        # Those that make it too large on their own, if any.
        alone = [
            key for key in larger if 4 * EncoderConfig(**{**values, key: getattr(usual, key)})._num_saved <= total_memory()
        ]
        named = ", ".join(f"{self.keys[key]} {values[key]}" for key in alone or larger)
        check_memory(path, f"an encoder of {named or self.model_type}", 4 * self._num_saved)

    @property
    def _num_saved(self) -> int:
        """How many numbers the encoder's file holds: weights, and the table of rotary positions."""
        table = self.max_position_embeddings * self.head_size if self.family.rotary else 0
        return self.num_parameters + self._num_repeated + table

    @property
    def _num_repeated(self) -> int:
        """How many numbers a file holds again, because blocks share them."""
        width, inner = self.hidden_size, self.intermediate_size
        shared = {"attention": 4 * width * (width + 1), "feed_forward": (2 * inner + 1) * width + inner}
        return (self.num_hidden_groups - 1) * (shared[self.sharing] + 2 * width) if self.sharing else 0

    @property
    def num_parameters(self) -> int:
        """The encoder's number of weights, without a pooler."""
        width, inner, embedding = self.hidden_size, self.intermediate_size, self.embedding_size
        rows = {
            "embeddings.word": self.vocab_size, "embeddings.position": self.max_position_embeddings,
            "embeddings.token_type": self.type_vocab_size, "embeddings.task_type": self.task_type_vocab_size,
        }  # fmt: skip
        first = self.family.projects_first
        embeddings = sum(size for module, size in rows.items() if self.has(module)) * embedding
        gates = 1 + self.family.gated
        norm = 0 if self.family.rms_norm else 1 + self.norm_bias
        embeddings += norm * (width if first else embedding) if self.has("embeddings.norm") else 0
        projection = (embedding + (not first)) * width if self.projects_embeddings else 0
        block = 4 * width * (width + self.attention_bias) + (1 + gates) * width * inner + 2 * norm * width
        block += (gates * inner + width) * self.mlp_bias
        relative = self.relative_attention_num_buckets * self.num_attention_heads if self.has("embeddings.relative") else 0
        relative += 2 * self.distance_span * width if self.has("embeddings.distance") else 0
        relative += norm * width if self.has("embeddings.distance_norm") else 0
        if self.family.transformer_xl:
            block += width * width + 5 * width
        for layer in ("blocks.{block}.distance_key", "blocks.{block}.distance_query"):
            block += (width + 1) * width if self.has(layer) else 0
        if self.has("blocks.{block}.convolution.kernel"):
            relative += width * (width // self.conv_groups * self.conv_kernel_size + 1) + norm * width
        last = relative + norm * width * (self.has("norm") - self.norm_serves_first_block)
        blocks = self.num_hidden_groups * self.inner_group_num * block - self._num_repeated
        return embeddings + projection + last + blocks

    def to_dict(self) -> dict[str, Any]:
        """The keys of a Hugging Face ``config.json``, without those that name a head."""
        return {**self.other, **{key: getattr(self, ours) for ours, key in self.keys.items()}}


def _parts(text: str) -> list[str]:
    """The names in a text such as ``p2c|c2p``."""
    return [part.strip() for part in text.lower().split("|") if part.strip()]


def _keys(family: Family) -> dict[str, str]:
    """The fields of an ``EncoderConfig`` that a family has -> their keys in ``config.json``."""
    keys = {}
    for ours in EncoderConfig.__dataclass_fields__:
        key = family.renamed_keys.get(ours, ours)
        of_family = ours not in _NOT_OF_BERT or ours in family.own_keys
        if of_family and key is not None and ours not in ("other", "larger_than"):
            keys[ours] = key
    return keys


def _roformer_kind(raw: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The keys of a RoFormer, with the ``model_type`` of the version that they describe.

    RoFormer-v2 has the type ``roformer`` and the keys ``norm_type`` and ``use_bias`` in RoFormer_pytorch, and the type
    ``roformer_v2`` in bert4torch. It keeps both: transformers refuses the type, where it would otherwise compute the first
    version without a word.

    Raises:
        UserError: something between the two versions.
    """
    v2 = {"norm_type": "rms_norm", "use_bias": False}
    if raw["model_type"] == "roformer":
        found = (raw.get("norm_type", "layer_norm") != "layer_norm", raw.get("use_bias", True) is not True)
        if found == (False, False):
            return raw
        if found != (True, True):
            raise UserError(f"{path}: norm_type and use_bias must be those of RoFormer, or both those of RoFormer-v2")
    if raw.get("embedding_size", raw.get("hidden_size")) not in (None, raw.get("hidden_size")):
        raise UserError(f"{path}: embedding_size must be hidden_size in RoFormer-v2, found {_shown(raw['embedding_size'])}")
    return {**v2, **raw, "model_type": "roformer_v2"}


def _shown(value: Any) -> str:
    """The value's ``repr``, cut short: a file may hold a value of any length."""
    return repr(value)[:60]


def config_path(directory: str | Path) -> Path:
    """``config.json`` of a model directory, or ``bert_config.json``, Google's name for it, if only that exists."""
    path = Path(directory) / "config.json"
    googles = path.with_name("bert_config.json")
    return googles if googles.is_file() and not path.is_file() else path


def load_config(directory: str | Path) -> EncoderConfig:
    """Read the configuration of a model directory, the file ``config_path`` gives.

    A config that says ``roberta`` beside a WordPiece ``vocab.txt`` is a Chinese RoBERTa and so a BERT: those checkpoints
    were trained with BERT's code and count positions from 0.

    Raises:
        UserError: no ``config.json``, not JSON, or an unsupported model.
    """
    path = config_path(directory)
    if not path.is_file():
        remedy = "a model directory holds config.json, a vocabulary and weights"
        if (path.parent / "pytorch_model.bin").is_file():  # a checkpoint of the original bertorch
            remedy = (
                "name the model that these weights were trained from with --pretrained_model_name_or_path, and this "
                "directory with --init_from_ckpt"
            )
        raise UserError(f"{directory}: contains no config.json; {remedy}")
    word_pieces = (path.parent / "vocab.txt").is_file() and not (path.parent / "merges.txt").is_file()
    return read_config(path, bert_for_roberta=word_pieces)


def read_config(path: str | Path, bert_for_roberta: bool = False) -> EncoderConfig:
    """Read a file like ``config.json``, under any name.

    Args:
        path: the file.
        bert_for_roberta: treat a model that says ``roberta`` as a BERT.

    Raises:
        UserError: no such file, not JSON, or an unsupported model.
    """
    raw = read_json_object(path)
    if raw.get("model_type") == "roberta" and bert_for_roberta:
        raw = {**raw, "model_type": "bert"}
    try:
        return EncoderConfig.from_dict(raw, path)
    except TypeError as error:
        raise UserError(f"{path}: a value has the wrong type ({error})") from None


def beside(path: str | Path, name: str) -> Path:
    """The file or folder that ``path`` names, which must lie in the directory of ``path`` or below.

    Raises:
        UserError: it lies elsewhere, or is not a name.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{path}: {_shown(name)} lies outside the model directory")
    part = Path(path).parent / name
    try:
        part.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # opening it reports the error
    except (OSError, ValueError) as error:  # too long, half a character, a zero byte
        raise UserError(f"{path}: {_shown(name)} cannot be opened ({error})") from None
    return part


def read_json_object(path: str | Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        UserError: no such file, not JSON, or another value.
    """
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # the second if it is nested too deeply
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: not a JSON object")
    return raw
