"""Classifier: one label, several labels or a score for a text or text pair."""

from pathlib import Path
from typing import Any

from loguru import logger
from torch import Tensor, nn

from bertorch.data.batching import Batch
from bertorch.encoder import Encoder, EncoderConfig, TokenBatch, load_config
from bertorch.encoder.dropout import Dropout
from bertorch.encoder.layers import activation, norm
from bertorch.encoder.weights import wrapper_prefix
from bertorch.heads.loading import fill_layers, head_files, load_head, load_trained_head, own_names
from bertorch.heads.loss import ClassLoss, LabelsLoss, Loss, ScoreLoss, sampled
from bertorch.heads.pooling import Pooling


class Classifier(nn.Module):
    """Softmax over a vector of the text (Devlin et al. 2018, section 4.1).

    ``pooling_mode`` ``linear`` is what transformers' sequence classifiers compute, family by family: the pooler's vector
    for BERT and ALBERT, a dense layer of its own for RoBERTa and ELECTRA, for ModernBERT of the tokens' mean too. The other
    modes classify the pooled states directly.

    Args:
        encoder: with a pooler if ``needs_pooler``.
        num_labels: number of outputs.
        pooling_mode, pooling_layers: of ``Pooling``.
        head_layers: layers of the head; all but the last have an activation and as many outputs as the encoder is wide.
        head_activation: theirs.
    """

    architecture = "ForSequenceClassification"

    def __init__(
        self,
        encoder: Encoder,
        num_labels: int,
        pooling_mode: str = "linear",
        pooling_layers: int | None = None,
        head_layers: int = 1,
        head_activation: str = "tanh",
    ):
        super().__init__()
        config = encoder.config
        self.encoder = encoder
        self.pooling_mode = pooling_mode
        self.pooling = Pooling(config, pooling_mode, pooling_layers)
        if pooling_mode == "linear":
            self.pooling.mode = config.classifier_pooling
        self.dense_act = config.classifier_act if pooling_mode == "linear" else None
        width = config.hidden_size
        self.dense = nn.Linear(width, width, bias=config.classifier_bias) if self.dense_act else None
        self.norm = norm(config, width) if self.dense_act and "norm" in config.family.classifier else nn.Identity()
        widths = [self.pooling.width, *[width] * (head_layers - 1)]
        self.hidden = nn.ModuleList(nn.Linear(inner, width) for inner in widths[:-1])
        self.hidden_act = head_activation
        self.classifier = nn.Linear(widths[-1], num_labels)
        self.dropout = Dropout(config.text_classifier_dropout)
        self.input_dropout = Dropout(config.classifier_input_dropout)
        self.class_loss: ClassLoss | LabelsLoss | ScoreLoss = ClassLoss()
        self.dropout_samples = 1  # average the loss over this many dropout masks of the vectors (Inoue 2019)
        for layer in (self.dense, *self.hidden, self.classifier):
            if layer is not None:
                nn.init.normal_(layer.weight, std=config.initializer_range)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def logits(self, tokens: TokenBatch) -> Tensor:
        """Label scores before the softmax, ``[batch_size, num_labels]``."""
        return self.classifier(self.dropout(self._vectors(tokens)))

    def _vectors(self, tokens: TokenBatch) -> Tensor:  # [batch_size, what the classifier takes]
        vectors = self.pooling(self.encoder, tokens)
        if self.pooling_mode == "linear" and self.dense is None:
            vectors = self.encoder.pooler(vectors)
        elif self.dense is not None:
            vectors = self.norm(activation(self.dense_act, self.dense(self.input_dropout(vectors))))
        for layer in self.hidden:
            vectors = activation(self.hidden_act, layer(self.dropout(vectors)))
        return vectors

    def forward(self, batch: Batch) -> Loss:
        vectors = self._vectors(batch.tokens)
        logits, total = sampled(
            lambda: self.classifier(self.dropout(vectors)).float(),
            lambda logits: self.class_loss(logits, batch.labels),
            self.dropout_samples,
        )
        correct = self.class_loss.correct(logits.detach(), batch.labels)
        return Loss(total, batch.labels.numel(), correct, self.class_loss.distributions(logits))

    def saved_files(self, max_seq_length: int) -> dict[str, dict]:
        """See ``Head``."""
        files = head_files(self, max_seq_length)
        if self.class_loss.problem_type is not None:
            files["config.json"]["problem_type"] = self.class_loss.problem_type
        return files

    def weight_names(self) -> dict[str, str]:
        """The weight names of transformers' sequence classifier of this family; layers that it lacks have their own."""
        modules = self.encoder.config.family.classifier if self.pooling_mode == "linear" else {}
        parts = {name: name.partition(".") for name in own_names(self)}
        return {name: f"{modules.get(layer, layer)}.{kind}" for name, (layer, _, kind) in parts.items()}

    def fill_head(self, tensors: dict[str, Tensor], source: str | Path, required: bool) -> set[str]:
        """See ``Head``."""
        here = {name.removeprefix(wrapper_prefix(tensors)) for name in tensors}
        ours, further = set(self.weight_names().values()), ("hidden.", "pooling.")  # those that transformers lacks
        other = {name for name in ours ^ here if name.startswith(further)}
        if not required and other and ours & here:
            logger.warning(f"{source}: its head has other layers; its encoder is used, the head starts from scratch")
            return set()
        return fill_layers(self, self.weight_names(), tensors, source, required)


def needs_pooler(config: EncoderConfig, pooling_mode: str) -> bool:
    return pooling_mode == "linear" and config.family.classifier_act is None


def load_classifier(
    directory: str | Path,
    labels: list[str] | int,
    pooling_mode: str = "linear",
    init_from_ckpt: str | Path | None = None,
    **layers: Any,
) -> Classifier:
    """A classifier to train: the encoder from ``directory`` with a new head, or both from ``init_from_ckpt``.

    ``labels`` may be only their number; then a head for as many labels is taken, whatever they are. ``layers``: see
    ``Classifier``.

    Raises:
        UserError: weights are missing or do not fit.
    """
    num_labels, names = (labels, None) if isinstance(labels, int) else (len(labels), labels)
    with_pooler = needs_pooler(load_config(directory), pooling_mode)
    return load_head(
        directory,
        lambda encoder: Classifier(encoder, num_labels, pooling_mode, **layers),
        init_from_ckpt,
        with_pooler,
        names,
    )


def load_trained_classifier(
    directory: str | Path,
    num_labels: int,
    pooling_mode: str = "linear",
    weights: str | Path | None = None,
    **layers: Any,
) -> Classifier:
    """A classifier to predict with; ``directory`` or the file ``weights`` must hold every weight; see ``load_classifier``.

    Raises:
        UserError: weights are missing or do not fit.
    """
    with_pooler = needs_pooler(load_config(directory), pooling_mode)
    return load_trained_head(
        directory, lambda encoder: Classifier(encoder, num_labels, pooling_mode, **layers), weights, with_pooler
    )
