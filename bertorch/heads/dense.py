"""The layers that some families put between each token's state and its scores."""

from torch import Tensor, nn

from bertorch.encoder import EncoderConfig
from bertorch.encoder.layers import activation, norm


class DenseHead(nn.Module):
    """A linear map, its activation and perhaps a norm, in front of a score.

    Args:
        config: of the encoder.
        act: the activation.
        with_norm: whether there is a norm, as ModernBERT has it.
    """

    def __init__(self, config: EncoderConfig, act: str, with_norm: bool):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.classifier_bias)
        self.norm = norm(config, config.hidden_size) if with_norm else nn.Identity()
        self.act = act
        nn.init.normal_(self.dense.weight, std=config.initializer_range)
        if self.dense.bias is not None:
            nn.init.zeros_(self.dense.bias)

    def forward(self, states: Tensor) -> Tensor:  # [..., hidden_size] -> the same shape
        return self.norm(activation(self.act, self.dense(states)))


def token_head(config: EncoderConfig) -> nn.Module:
    """What the family's taggers and readers have in front of their scores; nothing in most families."""
    return DenseHead(config, config.classifier_act, True) if config.family.token_head else nn.Identity()
