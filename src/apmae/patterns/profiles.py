"""Profiles of patterns: the mean mass at each lag and of each key, and what the descriptor reads of them.

A profile is a vector over the tokens of a pattern; whatever is after the prompt is 0. The first row, which has no
choice, and key 0, where sinks are, count in neither.

Axes: n patterns, t tokens, b bins of lag, r ranks.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

EDGES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Edges of the bins of lag, in tokens: two per octave. Whatever is further back is in the last bin."""
LAG_RANKS = (1, 2, 3, 5, 9, 17, 33)
COLUMN_RANKS = (*LAG_RANKS, 65)

_FIRST_PEAK = 4
"""Bins before this have one lag each, so that their peak is their sum."""
_COLUMN_BACK = 8
"""Rows nearer than this do not count in a column: what they draw is a matter of lag."""
_FEWEST_ROWS = 8
"""A mean over fewer rows than this counts as one over so many: a few rows at the end say little."""
_WINDOW = 31
"""Width of the moving mean that is taken away before a period is looked for."""
_FREQUENCIES = 256
"""Frequencies at which a period is looked for: the same for every length, whatever the padding."""


def lag_sums(p: Float[Tensor, "n t t"], causal: bool) -> tuple[Float[Tensor, "n t"], Float[Tensor, "n t"]]:
    """The sum of the mass so many keys back, and of the mass so many ahead.

    Args:
        p: patterns, with an empty first row.
        causal: False: patterns are square, and a lag counts on both sides.
    """
    size = p.shape[1]
    # Row q moved q places to the left in rows that are one longer: lags become columns.
    if causal:
        padded = F.pad(p, (size - 1, 0))
        moved = padded.as_strided((len(p), size, size), (size * (2 * size - 1), 2 * size, 1))
        return moved.sum(1).flip(-1), p.new_zeros(len(p), size)
    padded = F.pad(p, (size - 1, size))
    moved = padded.as_strided((len(p), size, 2 * size - 1), (size * (3 * size - 1), 3 * size, 1))
    sums = moved.sum(1)
    return sums[:, :size].flip(-1), F.pad(sums[:, size:], (1, 0))


def lag_profile(
    back: Float[Tensor, "n t"],
    ahead: Float[Tensor, "n t"],
    first: Float[Tensor, "n t"],
    length: Int[Tensor, " n"],
    causal: bool,
) -> Float[Tensor, "n t"]:
    """Mean mass at each lag, over the rows that have a key there.

    Args:
        back: from :func:`lag_sums`.
        ahead: from :func:`lag_sums`.
        first: mass on key 0; for row q it is q keys back.
        length: tokens of each.
        causal: as for :func:`lag_sums`.
    """
    have = (length[:, None] - 1 - torch.arange(back.shape[1], device=back.device)).clamp(min=0)
    have = have if causal else (2 * have).minimum(length[:, None] - 1)
    return (back + ahead - first) / have.clamp(min=_FEWEST_ROWS)


def far_sums(drawn: Float[Tensor, "n t"], p: Float[Tensor, "n t t"], causal: bool) -> Float[Tensor, "n t"]:
    """The mass that each key draws from rows 8 or more tokens away.

    Args:
        drawn: from all rows.
        p: as for :func:`lag_sums`.
        causal: as for :func:`lag_sums`.
    """
    size, drawn = p.shape[1], drawn.clone()
    for lag in range(min(_COLUMN_BACK, size)):
        drawn[:, : size - lag] -= p.diagonal(-lag, 1, 2)
        if not causal and lag:
            drawn[:, lag:] -= p.diagonal(lag, 1, 2)
    return drawn


def column_profile(far: Float[Tensor, "n t"], length: Int[Tensor, " n"], causal: bool) -> Float[Tensor, "n t"]:
    """Mean mass that each key draws from rows 8 or more tokens away.

    Args:
        far: from :func:`far_sums`.
        length: tokens of each.
        causal: as for :func:`lag_sums`.
    """
    key = torch.arange(far.shape[1], device=far.device)
    count = (length[:, None] - key - _COLUMN_BACK).clamp(min=0)
    if not causal:
        count = count + (key - _COLUMN_BACK).clamp(min=0)
    return (far.clamp(min=0) / count.clamp(min=_FEWEST_ROWS)) * ((key > 0) & (count > 0))


def binned(lags: Float[Tensor, "n t"]) -> Float[Tensor, "n b"]:
    """Sums of a lag profile in the 16 bins of lag."""
    edges = torch.tensor(EDGES[1:-1], device=lags.device)
    number = torch.bucketize(torch.arange(lags.shape[1], device=lags.device), edges, right=True)
    return lags.new_zeros(len(lags), len(EDGES) - 1).index_add_(1, number, lags)


def peaks(lags: Float[Tensor, "n t"]) -> Float[Tensor, "n b"]:
    """The largest value of a lag profile in each of the upper 12 bins; 0 in those beyond it."""
    found = []
    for begin, end in zip(EDGES[_FIRST_PEAK:-1], EDGES[_FIRST_PEAK + 1 :], strict=True):
        part = lags[:, begin : end if end < EDGES[-1] else None]
        found.append(part.amax(1) if part.shape[1] else lags.new_zeros(len(lags)))
    return torch.stack(found, 1)


def ranked(profile: Float[Tensor, "n t"], ranks: tuple[int, ...]) -> Float[Tensor, "n r"]:
    """A profile's largest values, at the given ranks; 0 at those beyond it."""
    most = max(ranks)
    ordered = F.pad(profile, (0, max(most - profile.shape[1], 0))).topk(most).values
    return ordered[:, [rank - 1 for rank in ranks]]


def periodicity(profile: Float[Tensor, "n t"], length: Int[Tensor, " n"]) -> Float[Tensor, "n 2"]:
    """How periodic a profile is, less its moving mean and without its first number. In [0, 1].

    The first number is the largest autocorrelation at shifts from 2 to half the length; the second the share of the
    strongest of 256 frequencies, times 256 / length: a sine has 1/2 at any length.
    """
    size = profile.shape[1]
    position = torch.arange(size, device=profile.device)
    inside = ((position > 0) & (position < length[:, None])).to(profile.dtype)
    around = F.avg_pool1d(torch.stack([profile * inside, inside], 1), _WINDOW, 1, _WINDOW // 2)
    rest = (profile - around[:, 0] / around[:, 1].clamp(min=1e-9)) * inside
    step = -(-size // _FREQUENCIES)
    bins = 2 * _FREQUENCIES * step
    power = torch.fft.rfft(rest, n=bins).abs().square()
    correlation = torch.fft.irfft(power, n=bins)[:, :size]
    variance = correlation[:, :1].clamp(min=1e-12)
    pairs = (length[:, None] - position).clamp(min=1) / length[:, None].clamp(min=1)
    near = (position < 2) | (position > length[:, None] // 2)
    peak = (correlation / pairs / variance).masked_fill(near, 0.0).amax(1).clamp(0, 1)
    own = power[:, step::step]
    share = own.amax(1) / own.sum(1).clamp(min=1e-12) * _FREQUENCIES / length.clamp(min=1)
    return torch.stack([peak, share], 1)
