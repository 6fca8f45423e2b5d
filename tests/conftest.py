"""Fixtures for all tests: tiny random models, saved as transformers saves them, and the shared models and data."""

import json
import os
import signal
import string
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import HealthCheck, settings
from loguru import logger
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertTokenizer, PreTrainedTokenizerFast, XLNetTokenizer

from bertorch.encoder import Encoder, EncoderConfig
from bertorch.encoder.weights import encoder_tensors, write_weights
from tests.processes import pytest_configure, pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown  # noqa: F401

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background; children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
# On a busy machine an example may take any time, and so may drawing it.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 96, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
}  # fmt: skip
# What sets each tiny model apart: transformers' class prefix and the values of its config.
TINY = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", {"pad_token_id": 1}),
    "xlm-roberta": ("XLMRoberta", {"pad_token_id": 1}),
    "albert": ("Albert", {"embedding_size": 16, "hidden_act": "gelu_new"}),
    "albert-groups": ("Albert", {"embedding_size": 16, "num_hidden_groups": 2, "inner_group_num": 2}),
    "albert-equal": ("Albert", {"embedding_size": 32}),
    "electra": ("Electra", {"embedding_size": 16}),
    "electra-equal": ("Electra", {"embedding_size": 32}),
    "ernie": ("Ernie", {"use_task_id": True}),
    "camembert": ("Camembert", {}),
    "distilbert": ("DistilBert", {}),
    "megatron-bert": ("MegatronBert", {}),
    "modernbert": ("ModernBert", {"local_attention": 8, "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}),
    "xlnet": ("XLNet", {"clamp_len": 30}),
    "mpnet": ("MPNet", {}),
    "roformer": ("RoFormer", {"embedding_size": 16, "hidden_act": "gelu_new"}),
    "deberta-v3": (
        "DebertaV2",
        {
            "relative_attention": True,
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "legacy": False,
        },
    ),
    "deberta-v2": (
        "DebertaV2",
        {
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "type_vocab_size": 2,
            "embedding_size": 16,
            "conv_kernel_size": 3,
            "conv_act": "gelu",
            "max_relative_positions": 24,
        },
    ),
}
# Of configs whose keys are not BERT's.
_RENAMED = {
    "DistilBert": {
        "intermediate_size": "hidden_dim", "hidden_dropout_prob": "dropout", "hidden_act": "activation",
        "attention_probs_dropout_prob": "attention_dropout",
    },
    "XLNet": {
        "hidden_size": "d_model", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
        "intermediate_size": "d_inner", "hidden_act": "ff_activation", "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": None, "max_position_embeddings": None, "num_hidden_groups": None,
    },
    "ModernBert": {"hidden_dropout_prob": "mlp_dropout", "attention_probs_dropout_prob": "attention_dropout"},
}  # fmt: skip
# Families that transformers has no class for: the values of a tiny configuration.
OURS_ALONE = {"nezha": {"max_relative_position": 8}, "roformer_v2": {}}
AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")  # count positions from behind the padding's id
WITHOUT_POOLER = ("electra", "electra-equal", "distilbert", "roformer", "deberta-v2", "deberta-v3", "modernbert", "xlnet")
_CHARACTERS = (
    "的一是不了在人有我他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可里后小么心多天而能好都然没日于起"
    "还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月明其种声"
    "全工己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真听世气信北少关并内加化由却代军产"
    "房酒店服务员早餐干净差贵便宜喜欢推荐电影书质量价格，。？！、：；“”（）"
)


def _vocabulary(family: str) -> list[str]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if family in AFTER_PADDING:  # RoBERTa's order: its padding is 1
        special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
    ascii_signs = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    pieces = [f"##{sign}" for sign in string.ascii_lowercase + string.digits]
    return [*special, *ascii_signs, *pieces, *dict.fromkeys(_CHARACTERS)]


def _save_tokenizer(family: str, directory: Path) -> int:
    """``vocab.txt``; for RoBERTa ``tokenizer.json``, because a RoBERTa beside a ``vocab.txt`` is read as BERT."""
    if family == "modernbert":
        return save_byte_level(directory)
    if family == "xlnet":  # the classification token is the last
        special = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>", "▁"]
        words = [*special, *string.ascii_lowercase, *string.digits, *string.punctuation, *dict.fromkeys(_CHARACTERS)]
        words = list(dict.fromkeys(words))
        XLNetTokenizer(vocab=[(word, -1.0) for word in words]).save_pretrained(directory)
        return len(words)
    words = _vocabulary(family)
    if family in AFTER_PADDING:
        BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(directory)
    else:
        (directory / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return len(words)


def save_byte_level(directory: Path) -> int:
    """A ``tokenizer.json`` as ModernBERT has it: bytes, merged to the characters; all special tokens are words."""
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    as_signs = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merges: dict[tuple[str, str], None] = {}
    for character in dict.fromkeys(_CHARACTERS):
        ((sign, _),) = as_signs.pre_tokenize_str(character)
        merges |= {(sign[:place], sign[place]): None for place in range(1, len(sign))}
    words = [*special, *signs, *dict.fromkeys("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, list(merges)))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", [("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        mask_token=AddedToken("[MASK]", lstrip=True), model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(directory)  # fmt: skip
    return len(words)


def _save_ours(family: str, directory: Path, config: dict) -> None:
    """A random encoder and its configuration, saved by bertorch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder(EncoderConfig.from_dict({"model_type": family, **config}))
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    (directory / "config.json").write_text(json.dumps(encoder.config.to_dict()))
    write_weights(directory / "model.safetensors", encoder_tensors(encoder))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``-m quick``: all tests of the library and one script from end to end, no processes, no shared models."""
    for item in items:
        of_script = item.path.parent.name == "scripts" and item.path.name != "test_run_classifier.py"
        if not of_script and item.get_closest_marker("slow") is None and "shared" not in item.fixturenames:
            item.add_marker("quick")


@pytest.fixture(autouse=True, scope="session")
def _token_cache(tmp_path_factory: pytest.TempPathFactory):
    """No test reads or writes the user's token cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTORCH_CACHE", str(tmp_path_factory.mktemp("token-cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared models and data beside the checkout."""
    directory = Path(__file__).resolve().parents[2] / "shared"
    if not directory.is_dir():
        pytest.skip(f"{directory} is not there")
    return directory


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_model(family, head="Model", **config)`` -> directory with config.json, model.safetensors and tokenizer.

    ``family`` is a key of ``TINY``, or of ``OURS_ALONE`` for the head "Model"; ``head`` is what follows the prefix in
    transformers' class name, such as
    ``ForSequenceClassification``. Every weight is random, layer norms and biases too. Directories are kept for the
    session and shared: copy one before changing it.
    """
    built: dict[str, Path] = {}

    def build(family: str, head: str = "Model", **config) -> Path:
        key = repr((family, head, sorted(config.items())))
        if key not in built:
            directory = tmp_path_factory.mktemp(f"{family}-{head}")
            vocab_size = _save_tokenizer(family, directory)
            if family in OURS_ALONE:
                _save_ours(family, directory, {"vocab_size": vocab_size, **_SIZES, **OURS_ALONE[family], **config})
                built[key] = directory
                return directory
            prefix, traits = TINY[family]
            values = {"vocab_size": vocab_size, **_SIZES, **traits, **config}
            names = {key: _RENAMED.get(prefix, {}).get(key, key) for key in values}
            values = {names[key]: value for key, value in values.items() if names[key] is not None}
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = getattr(transformers, prefix + head)(getattr(transformers, f"{prefix}Config")(**values))
                with torch.no_grad():
                    for parameter in model.parameters():
                        if parameter.requires_grad:  # RoFormer's positions stay sines
                            parameter.add_(torch.randn_like(parameter), alpha=0.1)
            model.save_pretrained(directory)
            built[key] = directory
        return built[key]

    return build


@pytest.fixture(params=TINY)
def family(request: pytest.FixtureRequest) -> str:
    """Each tiny model's name in turn."""
    return request.param


@pytest.fixture
def messages():
    """What loguru logs during a test, one string a message."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="DEBUG")
    yield lines
    logger.remove(sink)


@pytest.fixture
def offline_environment(tmp_path: Path) -> dict[str, str]:
    """An environment for child processes: one thread, no network, a Hugging Face cache of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    return {
        **kept,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }
