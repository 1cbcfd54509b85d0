"""Pictures of cells as a fluorescence microscope shows them, with exact masks, drawn by chance.

Cells differ in size, shape and brightness, touch and overlap (their light adds up), and are cut by
the picture's edge. The light between them is uneven, so that no threshold tells cells from
background; the optics blur, and the camera counts few photons.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter


def draw(random: np.random.Generator, size: int) -> np.ndarray:
    """One picture (0) and its mask (1), uint8 2×size×size; all chance is taken from ``random``."""
    margin = 14  # cells are cut by the picture's edge
    wide = size + 2 * margin
    light, mask = np.zeros((wide, wide)), np.zeros((wide, wide), bool)
    texture = (1 + 0.25 * _uneven(random, wide, wide // 5)).clip(0.4)
    centre = np.full(2, -1.0)
    for _ in range(max(3, round(random.uniform(10, 26) * (wide / 160) ** 2))):
        turn = random.uniform(0, 2 * np.pi)
        centre = centre + random.uniform(10, 18) * np.array([np.sin(turn), np.cos(turn)])
        if random.random() < 0.5 or not (0 < centre.min() and centre.max() < wide):
            centre = random.uniform(0, wide, 2)  # else it touches the one before
        window, inside, height = _cell(random, centre, wide)
        light[window] += inside * height * texture[window] * 2 ** random.uniform(-1.6, 0.6)
        mask[window] |= inside
    haze = 0.42 + 0.24 * _uneven(random, wide, 3) + 0.1 * _uneven(random, wide, 6)
    seen = gaussian_filter(light, random.uniform(0.8, 1.8)) + haze.clip(0.05)
    # few photons make a noisy picture, and reading them out adds to it
    deviation = np.sqrt(seen / random.uniform(30, 90) + 0.04**2)
    seen += deviation * random.normal(size=seen.shape)
    picture = np.clip(seen * 100 * random.uniform(0.8, 1.2), 0, 255).astype(np.uint8)
    return np.stack([picture, mask])[:, margin:-margin, margin:-margin]


def _cell(random: np.random.Generator, centre: np.ndarray, wide: int):
    """Where a cell lies (two slices), which pixels there are inside, and how bright they are."""
    axes = random.uniform(7, 15) * np.array([1, random.uniform(0.6, 1)])
    low = np.clip(np.floor(centre - 1.4 * axes[0]), 0, wide).astype(int)
    high = np.clip(np.ceil(centre + 1.4 * axes[0]), 0, wide).astype(int)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    rows, columns = (np.arange(a, b) - c for a, b, c in zip(low, high, centre, strict=True))
    offsets = columns + 1j * rows[:, None]
    offsets = offsets * np.exp(1j * random.uniform(0, 2 * np.pi))
    offsets = offsets.real / axes[0] + 1j * (offsets.imag / axes[1])
    angle = np.angle(offsets)
    edge = 1 + sum(
        random.normal(0, 0.12 / k) * np.cos(k * angle + random.uniform(0, 2 * np.pi))
        for k in (2, 3, 4)
    )
    depth = (np.abs(offsets) / edge).clip(0, 1)
    return window, np.abs(offsets) < edge, 0.5 + 0.5 * np.sqrt(1 - depth**2)


def _uneven(random: np.random.Generator, wide: int, coarse: int) -> np.ndarray:
    """A smooth random field about 0: ``coarse`` × ``coarse`` normal numbers, enlarged."""
    field = Image.fromarray(random.normal(size=(coarse, coarse)).astype(np.float32))
    return np.asarray(field.resize((wide, wide), Image.Resampling.BICUBIC))
