"""Reader: where in a passage the answer to a question begins and ends, or that it is yes, no, or not there."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertorch.encoder import Encoder, TokenBatch, to_padded
from bertorch.encoder.dropout import Dropout
from bertorch.encoder.layers import first_tokens
from bertorch.heads.dense import token_head
from bertorch.heads.loading import fill_own_layers, head_files, own_names
from bertorch.heads.loss import Loss
from bertorch.tasks.reading.rows import ReadingBatch


class Reader(nn.Module):
    """Two scores per token: of being the first and the last token of the answer (Devlin et al. 2018, sections 4.2 and 4.3).

    The first special token stands for no answer, as in BERT's recipe for SQuAD v2. Yes and no are two more places in the
    same softmax, scored from the first special token's state, so that all answers of a window compete.

    Args:
        encoder: without pooler.
        with_yes_no: yes and no are possible answers.
    """

    architecture = "ForQuestionAnswering"
    fill_head, saved_files = fill_own_layers, head_files

    def __init__(self, encoder: Encoder, with_yes_no: bool = False):
        super().__init__()
        config = encoder.config
        self.encoder = encoder
        self.head = token_head(config)
        self.dropout = Dropout(config.reader_dropout)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.yes_no = nn.Linear(config.hidden_size, 2) if with_yes_no else None
        for layer in (self.qa_outputs, self.yes_no):
            if layer is not None:
                nn.init.normal_(layer.weight, std=config.initializer_range)
                nn.init.zeros_(layer.bias)

    def logits(self, tokens: TokenBatch) -> Tensor:
        """Scores of first and last token, then of yes and no if possible, ``[total_tokens, 2 or 4]``.

        Scores of yes and no count only at the first token of each window.
        """
        states = self.dropout(self.head(self.encoder(tokens)))
        outputs = self.qa_outputs(states)
        return outputs if self.yes_no is None else torch.cat([outputs, self.yes_no(states)], dim=1)

    def forward(self, batch: ReadingBatch) -> Loss:
        return self.loss(self.logits(batch.tokens).float(), batch)

    def weight_names(self) -> dict[str, str]:
        """See ``Head``; the layer of ends has the family's name."""
        names = self.encoder.config.family.reader
        parts = {name: name.split(".") for name in own_names(self)}
        return {name: ".".join([names.get(layer, layer), *rest]) for name, (layer, *rest) in parts.items()}

    def loss(self, logits: Tensor, batch: ReadingBatch) -> Loss:
        """The mean of two cross-entropies over all places of a window, that of the first and that of the last token.

        Windows whose answer is unknown, or of a kind that the model cannot give, add nothing.
        """
        places, _ = to_padded(logits[:, :2], batch.tokens, fill=-torch.inf)  # [batch_size, max_seqlen, 2]
        if self.yes_no is not None:
            others = first_tokens(logits[:, 2:], batch.tokens)  # [batch_size, 2]
            places = torch.cat([places, others.unsqueeze(2).expand(-1, -1, 2)], dim=1)
        targets = (at.masked_fill(at >= places.shape[1], -1) for at in (batch.starts, batch.ends))
        total = sum(
            F.cross_entropy(places[:, :, end], target, ignore_index=-1, reduction="sum")
            for end, target in enumerate(targets)
        )
        return Loss(total / 2, batch.tokens.batch_size, logits=places.transpose(1, 2))
