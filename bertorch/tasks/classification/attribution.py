"""Which characters decided a label: integrated gradients over the word embeddings.

Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", section 3, eq. 1, for each dimension i of a token:

    attribution_i = (x_i - b_i) * integral from 0 to 1 of dF(b + a (x - b)) / dx_i  da

x are the word embeddings of a row's tokens, b those of the baseline, F the logit of the predicted class; the attribution
of a token is the sum over its dimensions. All tokens add up to F(x) - F(b) (completeness, proposition 1); any gap is the
error of the numerical integral, and is reported.

The baseline is [MASK] in place of every token of the texts; special tokens, positions and segments stay. Pretraining
taught the model to read [MASK] as "something unknown stands here", which is what a baseline should say; [PAD] is never
attended to, and its embedding is never trained. A vocabulary without [MASK] uses [PAD] nevertheless.

F is the logit, not the probability: the softmax is flat where the model is sure, and a probability also depends on the
logits of the other classes.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from loguru import logger
from scipy.special import softmax
from torch import Tensor, nn

from bertorch.data.rows import Row
from bertorch.data.tokenizing import Samples, TextTokenizer
from bertorch.encoder import Encoder, TokenBatch

EXPLAINED_AT_ONCE = 16  # rows of a block: each takes as long as dozens of answers
_TOKENS = 2048  # per forward and backward pass; a base-sized model needs about a gigabyte for them
_LARGE_GAP = 0.05  # the paper's section 5 asks for less
_NO_DIFFERENCE = 1e-3  # smaller differences of logits decide nothing, and are partly rounding

Span = tuple[int, int, float]  # start and end in characters of the text, attribution


@dataclass
class Attribution:
    """What each token of a row adds to a logit.

    Attributes:
        tokens: float64 ``[total_tokens]``.
        logit: F(x), for the row.
        baseline_logit: F(b), for the row with its texts masked.
    """

    tokens: np.ndarray
    logit: float
    baseline_logit: float

    @property
    def gap(self) -> float:
        """How far the sum of all attributions is from F(x) - F(b), as a share of it."""
        difference = self.logit - self.baseline_logit
        return abs(float(self.tokens.sum()) - difference) / max(abs(difference), _NO_DIFFERENCE)


@dataclass
class Explanation:
    """Why a row has its label.

    Attributes:
        probabilities: of the labels, ``[num_labels]``.
        logit, baseline_logit, gap: as in ``Attribution``.
        spans: of each text, what its characters add to the logit of the likeliest label, in the order of the text.
        left_out: of each text, start and end of the characters that truncation removed; None if it removed none.
    """

    probabilities: np.ndarray
    logit: float
    baseline_logit: float
    gap: float
    spans: list[list[Span]]
    left_out: list[tuple[int, int] | None]

    @property
    def label(self) -> int:
        return int(self.probabilities.argmax())

    @property
    def strength(self) -> float:
        """The sum of the absolute attributions of all spans of all texts."""
        return sum(abs(value) for spans in self.spans for _, _, value in spans)


def integrated_gradients(
    encoder: Encoder,
    logits: Callable[[TokenBatch], Tensor],
    row: TokenBatch,
    of_text: Tensor,
    target: int,
    baseline_id: int,
    steps: int,
) -> Attribution:
    """Attribute one logit of one row to its tokens, with Gauss-Legendre quadrature for the integral.

    Points of the path are packed into batches of up to ``_TOKENS`` tokens.

    Args:
        encoder: its word embeddings are replaced meanwhile; in evaluation mode, like the whole model.
        logits: computes ``[points, num_labels]`` from a batch with ``points`` copies of each sequence of the row: all
            copies of the first, then those of the next.
        row: its sequences, on the CPU.
        of_text: the tokens to mask, BoolTensor ``[total_tokens]``, on the CPU; the others get an attribution of 0.
        target: the class.
        baseline_id: the token to mask with.
        steps: nodes of the quadrature.
    """
    nodes, node_weights = np.polynomial.legendre.leggauss(steps)
    # Place and weight of each point, ``[2, points]``; the ends give F(b) and F(x) and have weight 0.
    path = np.array([[0.0, *(nodes + 1) / 2, 1.0], [0.0, *node_weights / 2, 0.0]], dtype=np.float32)
    word = encoder.embeddings.word.weight.detach()
    words = word[row.input_ids.to(word.device)]
    change = words - word[torch.where(of_text, baseline_id, row.input_ids).to(word.device)]
    gradients = torch.zeros_like(change)  # [total_tokens, embedding_size]
    values = []
    for part in torch.from_numpy(path).split(max(_TOKENS // row.total_tokens, 1), dim=1):
        tokens, origin, shares = (one.to(word.device) for one in _copies(row, part))
        points = (words[origin] - (1 - shares[0, :, None]) * change[origin]).requires_grad_()
        with _reading(encoder, points):
            of_points = logits(tokens)[:, target]
        (gradient,) = torch.autograd.grad(of_points.sum(), points)
        gradients.index_add_(0, origin, gradient * shares[1, :, None])
        values += of_points.tolist()
    return Attribution((gradients * change).double().sum(dim=1).cpu().numpy(), values[-1], values[0])


def _copies(row: TokenBatch, part: Tensor) -> tuple[TokenBatch, Tensor, Tensor]:
    """A copy of each sequence for every point of ``part``, ``[2, points]``.

    Returns:
        The batch; for each of its tokens, the token of ``row`` that it copies, ``[tokens]``, and the column of ``part``,
        ``[2, tokens]``.
    """
    points = part.shape[1]
    origin = torch.cat([tokens.repeat(points) for tokens in torch.arange(row.total_tokens).split(row.lengths)])
    shares = torch.cat([part.repeat_interleave(length, dim=1) for length in row.lengths], dim=1)
    lengths = [length for length in row.lengths for _ in range(points)]
    return TokenBatch.from_lengths(row.input_ids[origin], row.token_type_ids[origin], lengths), origin, shares


@contextlib.contextmanager
def _reading(encoder: Encoder, embeddings: Tensor) -> Iterator[None]:
    """Make ``encoder`` use ``embeddings`` ``[total_tokens, embedding_size]`` in place of those of its tokens.

    A hook, so that neither the encoder nor any head needs an argument for this alone.
    """
    hook = encoder.embeddings.word.register_forward_hook(lambda *_: embeddings)
    try:
        yield
    finally:
        hook.remove()


def explain_rows(
    model: nn.Module,
    logits: Callable[[TokenBatch], Tensor],
    rows: Sequence[Row],
    samples: Samples,
    row_logits: np.ndarray,
    text_encoder: TextTokenizer,
    steps: int,
) -> list[Explanation | None]:
    """Explain the likeliest label of every row; None for a row without texts.

    Args:
        model: has an ``encoder``; gradients of its parameters are switched off.
        logits: as in ``integrated_gradients``.
        rows: the input.
        samples: those of ``rows`` that have texts, tokenized by ``text_encoder``.
        row_logits: of ``samples``, ``[samples, num_labels]``.
        text_encoder: says where tokens stand in the texts.
        steps: nodes of the quadrature.
    """
    model.eval().requires_grad_(False)
    mask = text_encoder.pretrained.mask_token_id
    baseline_id = model.encoder.config.pad_token_id if mask is None else mask
    explanations: list[Explanation | None] = []
    sample = 0
    for row in rows:
        if not row.texts:
            explanations.append(None)
            continue
        batch, places, left_out = _row(samples, sample, row.texts, text_encoder)
        of_text = torch.tensor([place is not None for place in places])
        target = int(row_logits[sample].argmax())
        found = integrated_gradients(model.encoder, logits, batch, of_text, target, baseline_id, steps)
        probabilities, spans = softmax(row_logits[sample].astype(np.float64)), _spans(row.texts, places, found.tokens)
        explanations.append(Explanation(probabilities, found.logit, found.baseline_logit, found.gap, spans, left_out))
        sample += 1
    return explanations


def _row(
    samples: Samples, row: int, texts: tuple[str, ...], text_encoder: TextTokenizer
) -> tuple[TokenBatch, list[tuple[int, int, int] | None], list[tuple[int, int] | None]]:
    """The sequences of a row, in order; the text, start and end of each token; and what each text lost by truncation."""
    first, last = samples.row_starts[row : row + 2]
    lengths = samples.lengths[first:last]
    ids = samples.input_ids[samples.offsets[first] : samples.offsets[last]].astype(np.int64)
    types = np.concatenate(
        [np.arange(length) >= second for length, second in zip(lengths, samples.second[first:last], strict=True)]
    )
    batch = TokenBatch.from_lengths(torch.from_numpy(ids), torch.from_numpy(types.astype(np.int64)), lengths.tolist())
    if last - first == 1:
        return batch, *text_encoder.places(texts)
    places, left_out = [], []
    for number, text in enumerate(texts):  # each text is its own sequence
        own, cut = text_encoder.places((text,))
        places += [place and (number, *place[1:]) for place in own]
        left_out += cut
    return batch, places, left_out


def _spans(texts: tuple[str, ...], places: list[tuple[int, int, int] | None], values: np.ndarray) -> list[list[Span]]:
    """Turn attributions of tokens into spans of characters; tokens that share a character form one span."""
    spans: list[list[Span]] = [[] for _ in texts]
    for place, value in zip(places, values.tolist(), strict=True):
        if place is None:
            continue
        number, start, end = place
        surface, own = texts[number][start:end], spans[number]
        if surface.strip():  # a SentencePiece token begins with the space before its word
            start, end = end - len(surface.lstrip()), start + len(surface.rstrip())
        # The bytes of one character all have its place. A token without characters joins its neighbour.
        if own and (start < own[-1][1] or start == end or own[-1][0] == own[-1][1]):
            own[-1] = (own[-1][0], max(end, own[-1][1]), own[-1][2] + value)
        else:
            own.append((start, end, value))
    return spans


def gaps_of(rows: Sequence[Row], explanations: Sequence[Explanation | None]) -> list[tuple[int, float, bool]]:
    """Line, gap and whether a text was cut, of each explained row."""
    pairs = zip(rows, explanations, strict=True)
    return [(row.line, one.gap, any(one.left_out)) for row, one in pairs if one is not None]


def report_gaps(gaps: list[tuple[int, float, bool]], max_seq_length: int, steps: int) -> None:
    """Log how complete the attributions of all rows are, and how many rows were cut; ``gaps`` as ``gaps_of`` gives them."""
    line, worst, _ = max(gaps, key=lambda one: one[1])
    large = sum(gap > _LARGE_GAP for _, gap, _ in gaps)
    gap = f"{worst:.1%}, in line {line}"
    if large:
        logger.warning(
            f"in {large} of {len(gaps)} rows the attributions miss the difference of the logits by more than "
            f"{_LARGE_GAP:.0%} (most by {gap}); raise --explain_steps {steps} to bring them nearer"
        )
    else:
        logger.info(f"the attributions add up to the difference of the logits; the largest gap is {gap}")
    cut = sum(was_cut for _, _, was_cut in gaps)
    if cut:
        logger.warning(f"{cut} rows have more than {max_seq_length} tokens; the text cut off has no attribution")
