"""The descriptor by loops over rows and keys of one pattern, in float64: the oracle of ``patterns/descriptor.py``."""

from collections.abc import Iterable

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, np.inf]


def described_by_loops(p: np.ndarray, causal: bool) -> dict[str, np.ndarray]:
    """p: (t, t) of one prompt without padding; empty rows are no rows."""
    size = len(p)
    p = p.astype(np.float64)
    given = p.sum(1)
    p[:, 0] += np.where(given > 0, np.maximum(0.99 - given, 0), 0)  # what goes to no key
    rows = [q for q in range(1, size) if p[q].sum() > 0]
    options = {q: q + 1 if causal else size for q in range(size)}
    log = np.log(np.maximum(p, 1e-6))
    off = {q: p[q, 1:].sum() for q in range(size)}
    sink = {q: max(1 - off[q], 0) for q in range(size)}
    entropy = {}
    for q in rows:
        parts = [sink[q], *p[q, 1 : options[q]]]
        entropy[q] = min(max(-sum(x * np.log(max(x, 1e-6)) for x in parts) / np.log(options[q]), 0), 1)

    lags = np.zeros(size)
    for lag in range(size):
        total = sum(p[q, k] for q in rows for k in range(1, size) if abs(q - k) == lag)
        sides = (-1,) if causal else (-1, 1)
        having = [q for q in range(1, size) if any(1 <= q + side * lag < size for side in sides)]
        lags[lag] = total / max(len(having), 8)

    columns = np.zeros(size)
    for k in range(1, size):
        far = [q for q in range(1, size) if (q - k if causal else abs(q - k)) >= 8]
        columns[k] = sum(p[q, k] for q in far) / max(len(far), 8)

    standing = {q: (log[q, 0] - np.mean(log[q, : options[q]])) / np.log(1e6) for q in rows}
    found = {
        "lag": [sum(lags[int(a) : min(int(min(b, size)), size)]) ** 0.5 for a, b in zip(BINS, BINS[1:], strict=False)],
        "peak": [
            max(lags[int(a) : int(min(b, size))], default=0) ** 0.5 for a, b in zip(BINS[4:], BINS[5:], strict=False)
        ],
        "lag_rank": ranked(lags, (1, 2, 3, 5, 9, 17, 33)),
        "lag_period": period(lags),
        "column_rank": ranked(columns, (1, 2, 3, 5, 9, 17, 33, 65)),
        "column_period": period(columns),
        "rows": [
            *quantiles(entropy[q] for q in rows),
            *quantiles(sink[q] for q in rows),
            *quantiles(standing[q] for q in rows),
            *quantiles(p[q, 1:].max() for q in rows),
        ],
        "persistence": persistence(p, rows, causal),
        "roughness": roughness(np.log(np.maximum(p, 1e-6)), rows, causal),
        "where": where(p, rows, entropy, sink),
        "ahead": ahead(p, rows, causal),
    }
    return {name: np.array(values) for name, values in found.items()}


def quantiles(values: Iterable[float]) -> list[float]:
    values = list(values)
    return np.quantile(values, QUANTILES).tolist() if values else [0.0] * 5


def ranked(profile: np.ndarray, ranks: tuple[int, ...]) -> list[float]:
    ordered = sorted(profile, reverse=True)
    return [ordered[rank - 1] ** 0.5 if rank <= len(ordered) else 0.0 for rank in ranks]


def period(profile: np.ndarray) -> list[float]:
    """Without its first number, and less the mean of the 31 numbers around each."""
    size = len(profile)
    rest = np.zeros(size)
    for i in range(1, size):
        rest[i] = profile[i] - np.mean(profile[max(i - 15, 1) : i + 16])
    energy = (rest**2).sum()
    if energy < 1e-10:  # nothing but rounding
        return [0.0, 0.0]
    shifts = [
        (rest[shift:] @ rest[: size - shift]) / energy * size / (size - shift) for shift in range(2, size // 2 + 1)
    ]
    at = np.arange(size)
    power = [abs((rest * np.exp(-2j * np.pi * at * j / 512)).sum()) ** 2 for j in range(1, 257)]
    return [min(max([0, *shifts]), 1), max(power) / sum(power) * 256 / size]


def persistence(p: np.ndarray, rows: list[int], causal: bool) -> list[float]:
    size, values = len(p), []

    def pairs(distance: int) -> list[int]:
        return [q for q in rows if q + distance in rows]

    for moved in (0, 1):
        for distance in (1, 4, 16):
            overlaps = []
            for q in pairs(distance):
                later = q + distance
                keys = [k for k in range(1, q + 1 if causal else size) if k + moved * distance < size]
                common = sum((p[q, k] * p[later, k + moved * distance]) ** 0.5 for k in keys)
                share = (p[q, 1:].sum() * p[later, 1:].sum()) ** 0.5
                overlaps.append(min(common / max(share, 1e-6), 1))
            values += quantiles(overlaps)
    for moved in (0, 1):
        overlaps = []
        for q in pairs(1):
            keys = [k for k in range(q + 1 if causal else size) if k + moved < size]
            overlaps.append(sum((p[q, k] * p[q + 1, k + moved]) ** 0.5 for k in keys))
        values += quantiles(overlaps)
    return values


def roughness(log: np.ndarray, rows: list[int], causal: bool) -> list[float]:
    size = len(log)

    def exists(q: int, k: int) -> bool:
        return q in rows and 0 <= k < (q + 1 if causal else size)

    real = [(q, k) for q in rows for k in range(size) if exists(q, k)]
    spread = np.std([log[at] for at in real]) if real else 0.0
    sides = []
    for down, right in ((1, 0), (1, 1), (0, 1)):
        steps = [abs(log[q + down, k + right] - log[q, k]) for q, k in real if exists(q + down, k + right)]
        sides.append(np.mean(steps) if steps else 0.0)
    return [spread, *sides, *(side / max(spread, 1e-3) for side in sides)]


def where(p: np.ndarray, rows: list[int], entropy: dict[int, float], sink: dict[int, float]) -> list[float]:
    size = len(p)
    mass = sum(p[q, 1:].sum() for q in rows)
    keys, means, sinks = [], [], []
    for eighth in range(8):
        inside = [i for i in range(size) if i * 8 // size == eighth]
        keys.append((sum(p[q, k] for q in rows for k in inside if k > 0) / max(mass, 1e-6)) ** 0.5)
        own = [q for q in rows if q in inside]
        means.append(np.mean([entropy[q] for q in own]) if own else 0.0)
        sinks.append(np.mean([sink[q] for q in own]) if own else 0.0)
    return [*keys, *means, *sinks]


def ahead(p: np.ndarray, rows: list[int], causal: bool) -> list[float]:
    if causal:
        return [0.0] * 3
    masses = np.zeros(3)
    for q in rows:
        for k in range(q + 1, len(p)):
            masses[0 if k - q == 1 else 1 if k - q < 8 else 2] += p[q, k]
    return np.sqrt(masses / max(len(rows), 1)).tolist()
