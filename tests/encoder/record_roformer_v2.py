"""Record what the authors' PyTorch code of RoFormer-v2 computes, which needs a transformers of 2022; run once:

    git clone https://github.com/JunnYu/RoFormer_pytorch
    python tests/encoder/record_roformer_v2.py RoFormer_pytorch/src/roformer/modeling_roformer.py

Writes ``roformer_v2.safetensors`` beside this file: random weights under that code's names, a batch, and its states,
gradients, scores of masked tokens and scores of the classifier. Its layers are taken out of the file as they are; what
their file imports from that transformers is not needed by them.
"""

import ast
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Optional

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers.activations import ACT2FN

CONFIG = {
    "model_type": "roformer", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 32, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0, "rotary_value": False,
    "norm_type": "rms_norm", "use_bias": False,
}  # fmt: skip
LENGTHS = [1, 9, 32, 4, 9]
LAYERS = (
    "Norm", "RoFormerSinusoidalPositionalEmbedding", "RoFormerEmbeddings", "RoFormerSelfAttention", "RoFormerSelfOutput",
    "RoFormerAttention", "RoFormerIntermediate", "RoFormerOutput", "RoFormerLayer", "RoFormerEncoder",
    "RoFormerV2LMPredictionHead", "RoFormerClassificationHead",
)  # fmt: skip


def main(path: str) -> None:
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in LAYERS]
    found = {"nn": nn, "torch": torch, "np": np, "math": math, "ACT2FN": ACT2FN, "Optional": Optional}
    found["apply_chunking_to_forward"] = lambda function, _, __, x: function(x)
    found["BaseModelOutputWithPastAndCrossAttentions"] = SimpleNamespace
    exec(compile(tree, path, "exec"), found)
    config = SimpleNamespace(
        **CONFIG, embedding_size=CONFIG["hidden_size"], num_labels=3, is_decoder=False, chunk_size_feed_forward=0,
        add_cross_attention=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "roformer": nn.ModuleDict(
                {"embeddings": found["RoFormerEmbeddings"](config), "encoder": found["RoFormerEncoder"](config)}
            ),
            "cls": nn.ModuleDict({"predictions": found["RoFormerV2LMPredictionHead"](config)}),
            "classifier": found["RoFormerClassificationHead"](config),
        }
    ).eval()
    embeddings, encoder = model["roformer"]["embeddings"], model["roformer"]["encoder"]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.4)
    model["cls"]["predictions"].decoder.weight = embeddings.word_embeddings.weight
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(5, 40, mask.shape) * mask
    types = torch.randint(2, mask.shape) * mask
    bias = torch.zeros(mask.shape).masked_fill(~mask, -1e9)[:, None, None]
    states = encoder(embeddings(ids, types), bias).last_hidden_state
    weight = torch.randn(states[mask].shape)
    (states[mask] * weight).sum().backward()
    named = {name: x for name, x in model.named_parameters() if "embed_positions" not in name}
    tensors = {
        **named, **{f"gradient of {name}": x.grad for name, x in named.items() if x.grad is not None},
        "input_ids": ids[mask], "token_type_ids": types[mask], "states": states[mask], "weight": weight,
        "token_logits": model["cls"]["predictions"](states)[mask], "logits": model["classifier"](states),
    }  # fmt: skip
    tensors = {name: x.detach().contiguous() for name, x in tensors.items()}
    metadata = {"config": json.dumps(CONFIG), "lengths": json.dumps(LENGTHS)}
    save_file(tensors, Path(__file__).with_name("roformer_v2.safetensors"), metadata=metadata)


if __name__ == "__main__":
    main(sys.argv[1])
