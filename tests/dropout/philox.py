"""Which elements dropout drops, by a Philox generator of its own: NumPy's 64-bit integers alone."""

from __future__ import annotations

import numpy as np

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
SUPERBLOCK = 128


def philox(counter, key):
    """Philox4x32-10 of (..., 4) counters under a key of two words: (..., 4) words, in uint64."""
    words = [np.asarray(counter, np.uint64)[..., i] for i in range(4)]
    keys = [np.uint64(word) for word in key]
    for round_ in range(10):
        if round_:
            keys = [(k + np.uint64(w)) & _LOW for k, w in zip(keys, _WEYL, strict=True)]
        first = words[0] * np.uint64(_MULTIPLIERS[0])
        second = words[2] * np.uint64(_MULTIPLIERS[1])
        words = [
            (second >> np.uint64(32)) ^ words[1] ^ keys[0],
            second & _LOW,
            (first >> np.uint64(32)) ^ words[3] ^ keys[1],
            first & _LOW,
        ]
    return np.stack(words, -1)


def halves(n, seed, stream, first=0):
    """The 16 bits that n elements from ``first`` on, a multiple of 128, draw from a stream."""
    blocks = -(-n // SUPERBLOCK)
    number = np.uint64(first // SUPERBLOCK * 16) + np.arange(blocks * 16, dtype=np.uint64)
    counter = np.zeros((len(number), 4), np.uint64)
    counter[:, 0], counter[:, 1] = number & _LOW, number >> np.uint64(32)
    counter[:, 2] = stream
    seed %= 2**64
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32))
    both = np.stack([words & np.uint64(0xFFFF), words >> np.uint64(16)], -1)  # counter, word, half
    lanes = both.reshape(blocks, 16, 8).transpose(
        0, 2, 1
    )  # half h of sixteen counters: 16 elements
    return lanes.reshape(-1)[:n].astype(np.int64)


def threshold(p):
    """Draws of 32 bits below this one drop."""
    return round(p * 2**32)


def keep(n, p, seed, first=0):
    """What is kept: True for elements whose draw is not below the threshold."""
    draw = halves(n, seed, 0, first) << 16 | halves(n, seed, 1, first)
    return draw >= threshold(p)
