"""Record what the last transformers with NEZHA computes, 4.57, which newer ones have dropped; run once:

    pip install --target /tmp/older --no-deps 'transformers==4.57.6' 'huggingface_hub<1' 'tokenizers<0.23' \
        requests charset-normalizer idna urllib3 certifi
    PYTHONPATH=/tmp/older python tests/encoder/record_nezha.py

Writes ``nezha.safetensors`` beside this file: for each model random weights under that code's names, a batch, and its
states, pooled vectors, gradients, and the scores of every head. It computes in double precision; what is saved is rounded to
single.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers.models.deprecated import nezha

SIZES = {"vocab_size": 40, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MODELS = {
    "short": (  # distances of most pairs are beyond the longest that it tells apart
        {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40,
         "max_position_embeddings": 32, "max_relative_position": 5, "hidden_act": "gelu_new"},
        [1, 7, 32, 2, 19],
    ),
    "long": (
        {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
         "max_position_embeddings": 150, "max_relative_position": 64},
        [150, 3, 70],
    ),
}  # fmt: skip
HEADS = {"ForSequenceClassification": 3, "ForTokenClassification": 4, "ForQuestionAnswering": 2}  # and their labels


def record(sizes: dict, lengths: list[int]) -> tuple[dict[str, torch.Tensor], dict]:
    config = nezha.NezhaConfig(**{**SIZES, **sizes})
    model = nezha.NezhaForPreTraining(config).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) / 4)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    given = {
        "input_ids": torch.randint(5, 40, mask.shape) * mask, "token_type_ids": torch.randint(2, mask.shape) * mask,
        "attention_mask": mask.long(),
    }  # fmt: skip
    out = model.nezha(**given)
    weights = torch.randn(out.last_hidden_state[mask].shape), torch.randn(out.pooler_output.shape)
    ((out.last_hidden_state[mask] * weights[0]).sum() + (out.pooler_output * weights[1]).sum()).backward()
    token_logits, order_logits = model(**given)[:2]
    tensors = {
        **dict(model.named_parameters()),
        **{f"gradient of {name}": x.grad for name, x in model.nezha.named_parameters()},
        "input_ids": given["input_ids"][mask], "token_type_ids": given["token_type_ids"][mask],
        "states": out.last_hidden_state[mask], "weight of states": weights[0],
        "pooled": out.pooler_output, "weight of pooled": weights[1],
        "token_logits": token_logits[mask], "order_logits": order_logits,
    }  # fmt: skip
    for head, labels in HEADS.items():
        config.num_labels = labels
        kind = getattr(nezha, f"Nezha{head}")(config).eval().double()
        kind.nezha.load_state_dict(model.nezha.state_dict(), strict=False)  # some have no pooler
        layer: nn.Linear = kind.qa_outputs if head == "ForQuestionAnswering" else kind.classifier
        with torch.no_grad():
            layer.weight.copy_(torch.randn(layer.weight.shape)), layer.bias.copy_(torch.randn(layer.bias.shape))
        scores = kind(**given)
        scores = scores[0] if head != "ForQuestionAnswering" else torch.stack(scores[:2], dim=-1)
        tensors |= {f"{head} {name}": x for name, x in layer.named_parameters()}
        tensors[f"{head} scores"] = scores if head == "ForSequenceClassification" else scores[mask]
    kept = {key: value for key, value in config.to_dict().items() if key in {**SIZES, **sizes} or key == "model_type"}
    rounded = {name: x.detach() if x.dtype == torch.long else x.detach().float() for name, x in tensors.items()}
    return rounded, {"config": kept, "lengths": lengths}


def main() -> None:
    torch.manual_seed(0)
    tensors, metadata = {}, {}
    for name, (sizes, lengths) in MODELS.items():
        found, said = record(sizes, lengths)
        tensors |= {f"{name}/{key}": x.clone().contiguous() for key, x in found.items()}
        metadata[name] = json.dumps(said)
    save_file(tensors, Path(__file__).with_name("nezha.safetensors"), metadata=metadata)


if __name__ == "__main__":
    main()
