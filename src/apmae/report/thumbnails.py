"""Small pictures of patterns for the page: indexed PNG, one byte per pixel, a few kilobytes each."""

import struct
import zlib

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from numpy import ndarray

from apmae.report.examples import attended
from apmae.study.exemplars import scaled

SIDE = 96
"""Most pixels along a side."""
_WHITE = 255
"""Palette entry of what cannot be attended to, white and transparent; the colours take the others."""


def thumbnail(log_pattern: Float[ndarray, "t t"]) -> bytes:
    """A log pattern as a PNG of at most 96 x 96 pixels, coloured as in the figures.

    Where several tokens share a pixel, it has their mean scaled value.
    """
    tokens = attended(log_pattern)
    return picture(np.where(np.isfinite(log_pattern), scaled(log_pattern), np.nan)[:tokens, :tokens])


def picture(shades: Float[ndarray, "t t"]) -> bytes:
    """The same for entries that are already on a colour scale of [0, 1]; NaN where there is nothing."""
    step = -(-len(shades) // SIDE)
    real = np.isfinite(shades)
    count = _blocks(real.astype(np.float64), step)
    mean = _blocks(np.where(real, shades, 0.0), step) / np.maximum(count, 1)
    pixels = np.where(count > 0, np.clip(mean, 0, 1) * (_WHITE - 1), _WHITE).round().astype(np.uint8)
    colors = colormaps["viridis"](np.linspace(0, 1, _WHITE), bytes=True)[:, :3]
    return _png(pixels, np.concatenate([colors, np.full((1, 3), 255, np.uint8)]).astype(np.uint8))


def _blocks(values: Float[ndarray, "t t"], step: int) -> Float[ndarray, "b b"]:
    """Sums over ``step x step`` tiles; the last ones may be smaller."""
    starts = np.arange(0, len(values), step)
    return np.add.reduceat(np.add.reduceat(values, starts, axis=0), starts, axis=1)


def _png(pixels: UInt8[ndarray, "b b"], palette: UInt8[ndarray, "c 3"]) -> bytes:
    """PNG 1.2, colour type 3: signature, IHDR, PLTE, tRNS (the last colour), IDAT, IEND."""
    height, width = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels], axis=1)  # each line begins with its filter, none
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    data = zlib.compress(lines.tobytes(), 9)
    clear = b"\xff" * (len(palette) - 1) + b"\x00"
    chunks = ((b"IHDR", header), (b"PLTE", palette.tobytes()), (b"tRNS", clear), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
