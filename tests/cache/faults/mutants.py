"""Damage to a file: bits flipped, bytes replaced by noise, the end cut off, blocks exchanged."""

from collections.abc import Callable

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]


def flip(data: bytes, random: np.random.Generator) -> bytes:
    """One bit."""
    changed = bytearray(data)
    changed[random.integers(len(data))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def smash(data: bytes, random: np.random.Generator) -> bytes:
    """Up to 64 bytes, or more, of noise."""
    length = int(random.integers(1, random.choice([2, 64, len(data)]) + 1))
    start = int(random.integers(0, max(1, len(data) - length + 1)))
    return data[:start] + random.bytes(length)[: len(data) - start] + data[start + length :]


def cut(data: bytes, random: np.random.Generator) -> bytes:
    """The end is missing."""
    sizes = (int(random.integers(len(data))), len(data) - 1, len(data) // 1024 * 512, 0)
    return data[: sizes[random.integers(len(sizes))]]


def extend(data: bytes, random: np.random.Generator) -> bytes:
    """Zeros, noise or the file again after the end."""
    more = (bytes(512), random.bytes(512), data)
    return data + more[random.integers(len(more))]


def swap(data: bytes, random: np.random.Generator) -> bytes:
    """Two blocks are exchanged."""
    size = max(1, min(int(random.choice([8, 64, 512, 4096])), len(data) // 2))
    one, other = sorted(int(block) * size for block in random.integers(0, len(data) // size, 2))
    if one == other:
        return data
    first, second = data[one : one + size], data[other : other + size]
    return data[:one] + second + data[one + size : other] + first + data[other + size :]


MUTATIONS: tuple[Mutation, ...] = (flip, smash, cut, extend, swap)
