"""The encoders: configuration, packed batches, attention, layers, weights in and out."""

from bertorch.encoder.config import EncoderConfig, load_config
from bertorch.encoder.model import Encoder
from bertorch.encoder.tokens import TokenBatch, from_padded, to_padded
from bertorch.encoder.weights import load_encoder

__all__ = ["Encoder", "EncoderConfig", "TokenBatch", "from_padded", "load_config", "load_encoder", "to_padded"]
