"""Linear-chain conditional random field (Lafferty, McCallum & Pereira 2001) over packed texts.

It needs no padding and no loop over the batch. Texts are laid out step by step: the first places of all texts, then all
second places, and so on. The longest text comes first, so the texts that reach a step are its first rows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bertorch.copies import to_device

_FORBIDDEN = -1e200  # instead of -inf where that would give NaN gradients
_LEAST = 1e-300  # instead of 0 before a logarithm


@dataclass
class Steps:
    """Packed texts laid out step by step.

    Attributes:
        sizes: for each step, the number of texts that reach it.
        places: the position in the packed texts of each row of the layout, ``[total]``.
        previous: the row one step earlier, for rows from the second step on, ``[total - texts]``.
        last: the row of each text's last step, in the layout's order, ``[texts]``.
        texts: the text (in the layout's order) that each row belongs to, ``[total]``.
        padded: the place of each row in a flattened rectangle, ``[texts * longest]``, ``[total]``.
        given: where each text is in the layout's order, ``[texts]``.
    """

    sizes: list[int]
    places: Tensor
    previous: Tensor
    last: Tensor
    texts: Tensor
    padded: Tensor
    given: Tensor

    @classmethod
    def of(cls, lengths: list[int], device: torch.device) -> "Steps":
        sizes = np.asarray(lengths, dtype=np.int64)
        if not len(sizes) or sizes.min() < 1:
            raise ValueError("a CRF needs a text, and every text a place at least")
        order = np.argsort(-sizes, kind="stable")
        sizes = sizes[order]
        starts = np.concatenate([[0], np.cumsum(lengths)])[order]
        active = len(sizes) - np.searchsorted(sizes[::-1], np.arange(sizes[0]), side="right")
        firsts = np.concatenate([[0], np.cumsum(active)])
        step = np.repeat(np.arange(sizes[0]), active)
        text = np.arange(firsts[-1]) - firsts[step]
        later = step > 0
        parts = (
            starts[text] + step, (firsts[step - 1] + text)[later], firsts[sizes - 1] + np.arange(len(sizes)), text,
            text * sizes[0] + step, np.argsort(order),
        )  # fmt: skip
        moved = to_device(torch.from_numpy(np.concatenate(parts)), device)  # one copy for all
        return cls(active.tolist(), *moved.split([len(part) for part in parts]))

    def as_given(self, values: Tensor) -> Tensor:
        """Reorder ``[texts, ...]`` from the layout's order to that of ``lengths``."""
        return values.index_select(0, self.given)


def forward_backward(
    emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor, steps: Steps
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the sum-product recursions as matrix products, in double precision, rescaled at each step (Rabiner 1989, V.A).

    Args:
        emissions: laid out by ``steps``, ``[total, tags]``.
        start, end: ``[tags]``; -inf forbids.
        transitions: from a row's tag to a column's, ``[tags, tags]``; -inf forbids.
        steps: the layout.

    Returns:
        The log-partition of each text ``[texts]`` in the layout's order; ``alpha`` (rows sum to 1) and ``beta``, whose
        product is the probability of each tag, ``[total, tags]`` each; ``beta`` times the emission factor, rescaled,
        ``[total, tags]``; the log of the factor by which ``alpha`` was rescaled at each row, ``[total]``.
    """
    total, tags = emissions.shape
    texts = steps.sizes[0]
    factors = emissions.clone()
    factors[:texts] += start
    top = factors.amax(dim=1, keepdim=True)
    factors.sub_(top).exp_()
    transition_factors, end_factors = transitions.exp(), end.exp()

    alpha, scale = torch.empty_like(factors), factors.new_empty(total, 1)
    alphas, scales, by_step = alpha.split(steps.sizes), scale.split(steps.sizes), factors.split(steps.sizes)
    reached = by_step[0]
    for step, size in enumerate(steps.sizes):
        if step:
            reached = torch.mm(alphas[step - 1][:size], transition_factors).mul_(by_step[step])
        torch.sum(reached, dim=1, keepdim=True, out=scales[step])
        torch.div(reached, scales[step], out=alphas[step])
    ended = (alpha[steps.last] * end_factors).sum(dim=1, keepdim=True)  # [texts, 1]
    logs = (scale.log() + top).squeeze(1)
    result = logs.new_zeros(texts).index_add_(0, steps.texts, logs) + ended.log().squeeze(1)

    factors.div_(scale)  # in place of the emission factors, which alpha no longer needs
    beta, arriving = torch.empty_like(factors), torch.empty_like(factors)
    beta[steps.last] = end_factors / ended
    betas, arrivings = beta.split(steps.sizes), arriving.split(steps.sizes)
    backwards = transition_factors.t().contiguous()
    for step in range(len(steps.sizes) - 1, 0, -1):
        torch.mul(by_step[step], betas[step], out=arrivings[step])
        torch.mm(arrivings[step], backwards, out=betas[step - 1][: steps.sizes[step]])
    torch.mul(by_step[0], betas[0], out=arrivings[0])
    return result, alpha, beta, arriving, logs


class _LogPartition(torch.autograd.Function):
    """The log-partition of each text; its gradient is the probability of each tag and of each transition."""

    @staticmethod
    def forward(ctx, emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor, steps: Steps) -> Tensor:
        result, alpha, beta, arriving, _ = forward_backward(emissions, start, transitions, end, steps)
        ctx.save_for_backward(alpha, beta, arriving, transitions)
        ctx.steps = steps
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        alpha, beta, arriving, transitions = ctx.saved_tensors
        steps = ctx.steps
        texts = steps.sizes[0]
        tag_probability = alpha * beta
        weighted = tag_probability * gradient[steps.texts].unsqueeze(1)
        before = alpha[steps.previous] * gradient[steps.texts[texts:]].unsqueeze(1)
        of_transitions = transitions.exp() * (before.t() @ arriving[texts:])
        return weighted, weighted[:texts].sum(0), of_transitions, weighted[steps.last].sum(0), None


def _log_partition_in_logs(emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor, steps: Steps) -> Tensor:
    """The same for scores so far apart that their exponentials vanish: slower, but exact for any finite score."""
    start, transitions, end = (scores.clamp(min=_FORBIDDEN) for scores in (start, transitions, end))
    by_step = emissions.split(steps.sizes)
    alpha = by_step[0] + start
    ended = []
    for step, size in enumerate(steps.sizes):
        if step:
            ended.append(alpha[size:])
            alpha = torch.logsumexp(alpha[:size].unsqueeze(2) + transitions, dim=1) + by_step[step]
    ended.append(alpha)
    return torch.logsumexp(torch.cat(ended[::-1]) + end, dim=1)


def _log_partition_by_halves(emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor, steps: Steps) -> Tensor:
    """The same for a GPU, where each operator costs a launch: log2(longest) products for all steps and texts at once.

    A step is a matrix of scores from tag to tag, and the sum over the tags between two steps is their product; neighbours
    are multiplied until one matrix is left (Särkkä & García-Fernández 2021, section III). A text of 128 places takes 216
    launches with the gradient, where step by step takes 850. Exact where the scores at a place are up to about 230 apart;
    beyond that, a tag that constraints force counts as less unlikely than it is, and the result is still finite.
    """
    tags, texts, longest = len(start), steps.sizes[0], len(steps.sizes)
    start, transitions, end = (scores.clamp(min=_FORBIDDEN) for scores in (start, transitions, end))
    padded = emissions.new_zeros(texts * longest, tags).index_copy(0, steps.padded, emissions).view(texts, longest, tags)
    is_real = torch.zeros(texts * longest, dtype=torch.bool, device=emissions.device).index_fill(0, steps.padded, True)
    nothing = emissions.new_full((tags, tags), _FORBIDDEN).fill_diagonal_(0.0)  # behind a text's end: each tag stays
    scores = torch.where(
        is_real.view(texts, longest, 1, 1)[:, 1:], transitions + padded[:, 1:, None, :], nothing
    )  # [texts, longest - 1, from, to]
    while scores.shape[1] > 1:
        if scores.shape[1] % 2:
            scores = torch.cat([scores, nothing.expand(texts, 1, tags, tags)], dim=1)
        scores = _log_product(scores[:, ::2], scores[:, 1::2])
    reached = (start + padded[:, 0]).unsqueeze(1)  # [texts, 1, to]
    if longest > 1:
        reached = _log_product(reached, scores[:, 0])
    return torch.logsumexp(reached.squeeze(1) + end, dim=1)


def _log_product(left: Tensor, right: Tensor) -> Tensor:
    """``log(exp(left) @ exp(right))``, ``[..., n, m]`` and ``[..., m, k]``."""
    row, column = left.detach().amax(dim=-1, keepdim=True), right.detach().amax(dim=-2, keepdim=True)
    product = (left - row).exp() @ (right - column).exp()
    return product.clamp(min=_LEAST).log() + row + column


def log_partition(emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor, steps: Steps) -> Tensor:
    """The log of the sum over all tag sequences, ``[texts]`` in the layout's order; arguments as in ``forward_backward``."""
    if emissions.device.type != "cpu":  # to look at the scores, the host would wait for them
        return _log_partition_by_halves(emissions, start, transitions, end, steps)
    with torch.no_grad():
        apart = (emissions.amax(dim=1) - emissions.amin(dim=1)).max()
        for scores in (start, transitions, end):
            apart = apart + 2 * scores.masked_fill(scores == -torch.inf, 0.0).abs().max()
    # e^-700 is about the smallest double; a path that constraints force around a tag may meet the difference three times.
    recursion = _LogPartition.apply if apart < 200 else _log_partition_in_logs
    return recursion(emissions, start, transitions, end, steps)


class CRF(nn.Module):
    """Scores of whole tag sequences: emissions, plus scores of each pair of neighbouring tags, the first tag and the last.

    Methods take texts packed one after the other, real tokens only: ``emissions`` ``[total, num_tags]`` and ``lengths``, the
    number of places of each text. All sums use double precision, even under autocast.

    Args:
        num_tags: the number of tags.
        allowed: which tag may follow which (bool ``[num_tags, num_tags]``, from row to column), begin a text, and end it
            (bool ``[num_tags]``); None allows everything. A forbidden sequence has probability zero.
    """

    def __init__(self, num_tags: int, allowed: tuple[Tensor, Tensor, Tensor] | None = None):
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(num_tags, num_tags))
        self.start_transitions = nn.Parameter(torch.zeros(num_tags))
        self.end_transitions = nn.Parameter(torch.zeros(num_tags))
        masks = (None, None, None) if allowed is None else tuple(~one for one in allowed)
        for name, mask in zip(("forbidden", "forbidden_start", "forbidden_end"), masks, strict=True):
            self.register_buffer(name, mask, persistent=False)

    def scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """``start``, ``transitions`` and ``end`` in double precision, -inf where forbidden."""
        start, transitions, end = self.start_transitions, self.transitions, self.end_transitions
        if self.forbidden is not None:
            start = start.masked_fill(self.forbidden_start, -torch.inf)
            transitions = transitions.masked_fill(self.forbidden, -torch.inf)
            end = end.masked_fill(self.forbidden_end, -torch.inf)
        return start.double(), transitions.double(), end.double()

    def log_likelihood(self, emissions: Tensor, tags: Tensor, lengths: list[int]) -> Tensor:
        """Log-probability of the given tags, ``[texts]``, float64.

        Args:
            emissions: ``[total, num_tags]``.
            tags: LongTensor ``[total]``.
            lengths: places of each text, at least 1 each.
        """
        steps = Steps.of(lengths, emissions.device)
        start, transitions, end = self.scores()
        emissions = emissions.double().index_select(0, steps.places)
        tags = tags.index_select(0, steps.places)
        texts = len(lengths)
        at_place = emissions.gather(1, tags.unsqueeze(1)).squeeze(1)
        at_place = at_place + torch.cat([start[tags[:texts]], transitions[tags[steps.previous], tags[texts:]]])
        given = at_place.new_zeros(texts).index_add(0, steps.texts, at_place) + end[tags[steps.last]]
        return steps.as_given(given - log_partition(emissions, start, transitions, end, steps))

    @torch.no_grad()
    def decode(self, emissions: Tensor, lengths: list[int]) -> Tensor:
        """The most probable tags of each text (Viterbi 1967), LongTensor ``[total]``, packed like ``emissions``."""
        steps = Steps.of(lengths, emissions.device)
        start, transitions, end = self.scores()
        arriving = transitions.t().contiguous()  # [to, from]
        best = emissions.double().index_select(0, steps.places)  # becomes the score of the best path to each tag
        by_step = best.split(steps.sizes)
        by_step[0].add_(start)
        for step in range(1, len(steps.sizes)):
            before = by_step[step - 1][: steps.sizes[step]].unsqueeze(1)  # [texts, 1, from]
            by_step[step].add_((before + arriving).amax(dim=2))
        last = (best[steps.last] + end).argmax(dim=1)
        tags = torch.empty_like(steps.places)
        tags_by_step = tags.split(steps.sizes)
        for step in range(len(steps.sizes) - 1, -1, -1):
            goes_on = steps.sizes[step + 1] if step + 1 < len(steps.sizes) else 0
            if goes_on:
                after = tags_by_step[step + 1]
                torch.argmax(by_step[step][:goes_on] + arriving[after], dim=1, out=tags_by_step[step][:goes_on])
            tags_by_step[step][goes_on:] = last[goes_on : steps.sizes[step]]
        return torch.empty_like(tags).index_copy_(0, steps.places, tags)

    @torch.no_grad()
    def n_best(self, emissions: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """The ``n`` most probable tag sequences of one text, the best first, and their log-probabilities.

        Args:
            emissions: ``[length, num_tags]``.
            n: how many to find; a short text may have fewer.

        Returns:
            LongTensor ``[found, length]`` and float64 ``[found]``.
        """
        start, transitions, end = self.scores()
        emissions = emissions.double()
        length, tags = emissions.shape
        steps = Steps.of([length], emissions.device)
        best = torch.full((tags, n), -torch.inf, dtype=torch.float64, device=emissions.device)
        best[:, 0] = emissions[0] + start
        back = []
        for step in range(1, length):
            candidates = best.unsqueeze(0) + transitions.t().unsqueeze(2)  # [to, from, n]
            best, origin = candidates.reshape(tags, tags * n).topk(n, dim=1)
            best = best + emissions[step].unsqueeze(1)
            back.append(origin)
        scores, at = (best + end.unsqueeze(1)).flatten().topk(min(n, best.numel()))
        at = at[scores > -torch.inf]
        paths = [at // n]
        for origin in reversed(back):
            at = origin.flatten()[at]
            paths.append(at // n)
        total = log_partition(emissions, start, transitions, end, steps)
        return torch.stack(paths[::-1], dim=1), scores[scores > -torch.inf] - total
