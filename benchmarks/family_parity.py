"""How far each family's encoder and heads are from transformers' padded model, on random weights, in fp32, on the CPU.

    python benchmarks/family_parity.py                            # all families that this transformers has
    python benchmarks/family_parity.py deberta-v2 deberta-v3      # some
    python benchmarks/family_parity.py roformer_v2=RoFormer_pytorch/src/roformer/modeling_roformer.py  # its authors' code
    PYTHONPATH=/tmp/older python benchmarks/family_parity.py nezha  # transformers 4.57: see tests/encoder/record_nezha.py

Each family has models of three shapes, each batches of four kinds: one token, texts of one length, of unequal ones, and the
longest. Printed: numbers compared, and the largest difference, as part of the largest value (of the largest gradient for
gradients).
"""

import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers
from chunked_batch import ROOT
from loguru import logger
from safetensors.torch import save_file

sys.path.insert(0, str(ROOT))

from bertorch.encoder import TokenBatch, load_encoder  # noqa: E402
from bertorch.encoder.weights import hugging_face_names  # noqa: E402
from bertorch.tasks.classification.head import load_trained_classifier  # noqa: E402
from tests.encoder.record_roformer_v2 import CONFIG, AuthorsModel  # noqa: E402
from tests.padding import given_to, padded_left  # noqa: E402

FAMILIES = {
    "ernie": ("Ernie", {"use_task_id": True}), "camembert": ("Camembert", {}), "distilbert": ("DistilBert", {}),
    "megatron-bert": ("MegatronBert", {}), "roformer": ("RoFormer", {"embedding_size": 64}),
    "roformer, values turned": ("RoFormer", {"rotary_value": True}), "mpnet": ("MPNet", {}),
    "deberta-v2": (
        "DebertaV2",
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "conv_kernel_size": 3, "type_vocab_size": 2},
    ),
    "deberta-v3": (
        "DebertaV2",
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "position_buckets": 64,
         "norm_rel_ebd": "layer_norm", "position_biased_input": False},
    ),
    "nezha": ("Nezha", {"max_relative_position": 32}),
    "modernbert": ("ModernBert", {"local_attention": 32, "pad_token_id": 0, "classifier_pooling": "mean"}),
    "xlnet": ("XLNet", {"clamp_len": 100}),
}  # fmt: skip
SHAPES = ((2, 64, 4, 96), (4, 128, 2, 512), (6, 96, 12, 256))  # layers, width, heads, inner width
LENGTHS = ([1], [17] * 4, [60, 33, 33, 8, 2, 1], [254, 7])


def built(prefix: str, head: str, traits: dict, shape: tuple, directory: str) -> torch.nn.Module:
    """A random model of transformers, saved; every weight is drawn, layer norms and biases too."""
    layers, width, heads, inner = shape
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    sizes |= {"hidden_dim" if prefix == "DistilBert" else "intermediate_size": inner, "vocab_size": 500}
    if prefix == "XLNet":
        names = {"num_hidden_layers": "n_layer", "hidden_size": "d_model", "num_attention_heads": "n_head"}
        sizes = {{**names, "intermediate_size": "d_inner"}.get(name, name): size for name, size in sizes.items()}
    else:
        sizes["max_position_embeddings"] = 256
    config = getattr(transformers, f"{prefix}Config")(**sizes, **traits)
    kind = getattr(transformers, prefix + head)
    torch.manual_seed(layers)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(directory)
    return kind.from_pretrained(directory, attn_implementation="eager").eval()


def built_v2(path: str, shape: tuple, directory: str) -> AuthorsModel:
    """A random RoFormer-v2 of its authors' code, saved under its names."""
    layers, width, heads, inner = shape
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads, "intermediate_size": inner}
    config = {**CONFIG, **sizes, "vocab_size": 500, "max_position_embeddings": 256}
    torch.manual_seed(layers)
    model = AuthorsModel(path, config, num_labels=5, deviation=0.05)
    tied = {"cls.predictions.decoder.weight"}
    weights = {name: x.detach().contiguous() for name, x in model.weights().items() if name not in tied}
    save_file(weights, Path(directory) / "model.safetensors")
    (Path(directory) / "config.json").write_text(json.dumps(config))
    return model


def batch_of(lengths: list[int], theirs: torch.nn.Module) -> tuple[TokenBatch, dict[str, torch.Tensor]]:
    """A batch for us and for a model of transformers."""
    generator = torch.Generator().manual_seed(sum(lengths))
    ids = torch.randint(5, 500, (sum(lengths),), generator=generator)
    tokens = TokenBatch.from_lengths(ids, torch.randint(2, ids.shape, generator=generator), lengths)
    given = given_to(theirs, tokens)
    return tokens, padded_left(given) if theirs.config.model_type == "xlnet" else given


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logger.remove()
    logging.disable()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print("| family | hidden states | largest | gradients | largest | classifier's scores | largest |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    there = [family for family, (prefix, _) in FAMILIES.items() if hasattr(transformers, f"{prefix}Config")]
    for argument in sys.argv[1:] or there:
        family, _, path = argument.partition("=")
        prefix, traits = FAMILIES.get(family, (None, {}))
        base = "roformer." if path else ""
        counts, most = [0, 0, 0], [0.0, 0.0, 0.0]

        def compare(which: int, pairs: list, scale: torch.Tensor, counts=counts, most=most) -> None:
            for ours, theirs in pairs:
                counts[which] += theirs.numel()
                most[which] = max(most[which], float((ours - theirs).abs().max() / scale))

        for shape in SHAPES:
            with tempfile.TemporaryDirectory() as directory:
                theirs = built_v2(path, shape, directory) if path else built(prefix, "Model", traits, shape, directory)
                ours = load_encoder(directory)[0].eval()
                names = hugging_face_names(ours.config, [name for name, _ in ours.named_parameters()])
                for lengths in LENGTHS:
                    tokens, given = batch_of(lengths, theirs)
                    ours.zero_grad(), theirs.zero_grad()
                    states = ours(tokens)
                    expected = theirs(**given).last_hidden_state[given["attention_mask"].bool()]
                    compare(0, [(states, expected)], expected.abs().max())
                    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
                    (states * weight).sum().backward(), (expected * weight).sum().backward()
                    own, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
                    pairs = [(own[mine].grad, other[base + name].grad) for mine, name in names.items()]
                    compare(1, pairs, max(gradient.abs().max() for _, gradient in pairs))
            with tempfile.TemporaryDirectory() as directory, torch.no_grad():
                head = ("ForSequenceClassification", {**traits, "num_labels": 5}, shape, directory)
                theirs = built_v2(path, shape, directory) if path else built(prefix, *head)
                model = load_trained_classifier(directory, 5)
                for lengths in LENGTHS:
                    tokens, given = batch_of(lengths, theirs)
                    expected = theirs(**given).logits
                    compare(2, [(model.logits(tokens), expected)], expected.abs().max())
        cells = (f"{count:,} | {largest:.1e}" for count, largest in zip(counts, most, strict=True))
        print(f"| `{family}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
