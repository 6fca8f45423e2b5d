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
from typing import Any, Optional

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
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


class AuthorsModel(nn.Module):
    """Encoder, masked-token head and classifier of the authors' file ``path``, under its names, with random weights."""

    def __init__(self, path: str, config: dict[str, Any], num_labels: int = 3, deviation: float = 0.4):
        super().__init__()
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
        tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in LAYERS]
        found = {"nn": nn, "torch": torch, "np": np, "math": math, "ACT2FN": ACT2FN, "Optional": Optional}
        found["apply_chunking_to_forward"] = lambda function, _, __, x: function(x)
        found["BaseModelOutputWithPastAndCrossAttentions"] = SimpleNamespace
        exec(compile(tree, path, "exec"), found)
        self.config = SimpleNamespace(
            **config, embedding_size=config["hidden_size"], num_labels=num_labels, is_decoder=False,
            chunk_size_feed_forward=0, add_cross_attention=False,
        )  # fmt: skip
        parts = {"embeddings": found["RoFormerEmbeddings"], "encoder": found["RoFormerEncoder"]}
        self.roformer = nn.ModuleDict({name: kind(self.config) for name, kind in parts.items()})
        self.cls = nn.ModuleDict({"predictions": found["RoFormerV2LMPredictionHead"](self.config)})
        self.classifier = found["RoFormerClassificationHead"](self.config)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=deviation)
        self.cls["predictions"].decoder.weight = self.roformer["embeddings"].word_embeddings.weight
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> SimpleNamespace:
        bias = torch.zeros(attention_mask.shape).masked_fill(attention_mask == 0, -1e9)[:, None, None]
        embedded = self.roformer["embeddings"](input_ids, token_type_ids)
        states = self.roformer["encoder"](embedded, bias).last_hidden_state
        tokens = self.cls["predictions"](states)
        return SimpleNamespace(last_hidden_state=states, token_logits=tokens, logits=self.classifier(states))

    def weights(self) -> dict[str, Tensor]:
        """Their names -> the weights, without the table of sines."""
        return {name: x for name, x in self.named_parameters() if "embed_positions" not in name}


def main(path: str) -> None:
    torch.manual_seed(0)
    model = AuthorsModel(path, CONFIG)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(5, 40, mask.shape) * mask
    types = torch.randint(2, mask.shape) * mask
    out = model(ids, mask.long(), types)
    weight = torch.randn(out.last_hidden_state[mask].shape)
    (out.last_hidden_state[mask] * weight).sum().backward()
    named = model.weights()
    tensors = {
        **named, **{f"gradient of {name}": x.grad for name, x in named.items() if x.grad is not None},
        "input_ids": ids[mask], "token_type_ids": types[mask], "states": out.last_hidden_state[mask], "weight": weight,
        "token_logits": out.token_logits[mask], "logits": out.logits,
    }  # fmt: skip
    tensors = {name: x.detach().contiguous() for name, x in tensors.items()}
    metadata = {"config": json.dumps(CONFIG), "lengths": json.dumps(LENGTHS)}
    save_file(tensors, Path(__file__).with_name("roformer_v2.safetensors"), metadata=metadata)


if __name__ == "__main__":
    main(sys.argv[1])
