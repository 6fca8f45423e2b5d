"""Classifier: one label, several labels or a score for a text or text pair."""

from pathlib import Path

from torch import Tensor, nn

from bertorch.data.batching import Batch
from bertorch.encoder import Encoder, EncoderConfig, TokenBatch, load_config
from bertorch.encoder.dropout import Dropout
from bertorch.encoder.layers import activation, norm
from bertorch.heads.loading import fill_layers, head_files, load_head, load_trained_head, own_names
from bertorch.heads.loss import ClassLoss, LabelsLoss, Loss, ScoreLoss, sampled
from bertorch.heads.pooling import pooled_states


class Classifier(nn.Module):
    """Softmax over a vector of the text (Devlin et al. 2018, section 4.1).

    ``pooling_mode`` ``linear`` is what transformers' sequence classifiers compute, family by family: the pooler's vector
    for BERT and ALBERT, a dense layer of its own for RoBERTa and ELECTRA, for ModernBERT of the tokens' mean too. The other
    modes classify the pooled states directly.
    """

    architecture = "ForSequenceClassification"

    def __init__(self, encoder: Encoder, num_labels: int, pooling_mode: str = "linear"):
        super().__init__()
        config = encoder.config
        self.encoder = encoder
        self.pooling_mode = pooling_mode
        self.dense_act = config.classifier_act if pooling_mode == "linear" else None
        width = config.hidden_size
        self.dense = nn.Linear(width, width, bias=config.classifier_bias) if self.dense_act else None
        self.norm = norm(config, width) if self.dense_act and "norm" in config.family.classifier else nn.Identity()
        self.classifier = nn.Linear(config.hidden_size, num_labels)
        self.dropout = Dropout(config.text_classifier_dropout)
        self.input_dropout = Dropout(config.classifier_input_dropout)
        self.class_loss: ClassLoss | LabelsLoss | ScoreLoss = ClassLoss()
        self.dropout_samples = 1  # average the loss over this many dropout masks of the vectors (Inoue 2019)
        for layer in (self.dense, self.classifier):
            if layer is not None:
                nn.init.normal_(layer.weight, std=config.initializer_range)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def logits(self, tokens: TokenBatch) -> Tensor:
        """Label scores before the softmax, ``[batch_size, num_labels]``."""
        return self.classifier(self.dropout(self._vectors(tokens)))

    def _vectors(self, tokens: TokenBatch) -> Tensor:  # [batch_size, hidden_size]
        if self.pooling_mode != "linear":
            return pooled_states(self.encoder, tokens, self.pooling_mode)
        vectors = pooled_states(self.encoder, tokens, self.encoder.config.classifier_pooling)
        if self.dense is None:
            return self.encoder.pooler(vectors)
        return self.norm(activation(self.dense_act, self.dense(self.input_dropout(vectors))))

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
        """The weight names of transformers' sequence classifier of this family."""
        modules = self.encoder.config.family.classifier if self.pooling_mode == "linear" else {"classifier": "classifier"}
        parts = {name: name.split(".") for name in own_names(self)}
        return {name: f"{modules[layer]}.{kind}" for name, (layer, kind) in parts.items()}

    def fill_head(self, tensors: dict[str, Tensor], source: str | Path, required: bool) -> set[str]:
        """See ``Head``."""
        return fill_layers(self, self.weight_names(), tensors, source, required)


def needs_pooler(config: EncoderConfig, pooling_mode: str) -> bool:
    return pooling_mode == "linear" and config.family.classifier_act is None


def load_classifier(
    directory: str | Path,
    labels: list[str] | int,
    pooling_mode: str = "linear",
    init_from_ckpt: str | Path | None = None,
) -> Classifier:
    """A classifier to train: the encoder from ``directory`` with a new head, or both from ``init_from_ckpt``.

    ``labels`` may be only their number; then a head for as many labels is taken, whatever they are.

    Raises:
        UserError: weights are missing or do not fit.
    """
    num_labels, names = (labels, None) if isinstance(labels, int) else (len(labels), labels)
    with_pooler = needs_pooler(load_config(directory), pooling_mode)
    return load_head(
        directory, lambda encoder: Classifier(encoder, num_labels, pooling_mode), init_from_ckpt, with_pooler, names
    )


def load_trained_classifier(
    directory: str | Path, num_labels: int, pooling_mode: str = "linear", weights: str | Path | None = None
) -> Classifier:
    """A classifier to predict with; ``directory`` or the file ``weights`` must hold every weight.

    Raises:
        UserError: weights are missing or do not fit.
    """
    with_pooler = needs_pooler(load_config(directory), pooling_mode)
    return load_trained_head(directory, lambda encoder: Classifier(encoder, num_labels, pooling_mode), weights, with_pooler)
