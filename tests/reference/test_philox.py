"""Philox4x32-7 against the published known answers (Random123, tests/kat_vectors)."""

import torch

from nvrm_fast.reference.philox import philox4x32

KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A),
    ),
]


def test_known_answers():
    for counter, key, expected in KNOWN_ANSWERS:
        words = philox4x32((torch.tensor([counter[0]]), *counter[1:]), key)
        assert tuple(int(word) for word in words) == expected


def test_broadcasts_counters():
    blocks = torch.arange(5)
    together = philox4x32((blocks, 0, 7, 9), (1, 2))
    for block in range(5):
        alone = philox4x32((torch.tensor(block), 0, 7, 9), (1, 2))
        assert [int(word[block]) for word in together] == [int(word) for word in alone]
