"""Philox4x32-10 against the published known answers (Random123, tests/kat_vectors)."""

import torch

from nvrm_fast.reference.philox import philox4x32_10

KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def test_known_answers():
    for counter, key, expected in KNOWN_ANSWERS:
        words = philox4x32_10((torch.tensor([counter[0]]), *counter[1:]), key)
        assert tuple(int(word) for word in words) == expected


def test_broadcasts_counters():
    blocks = torch.arange(5)
    together = philox4x32_10((blocks, 0, 7, 9), (1, 2))
    for block in range(5):
        alone = philox4x32_10((torch.tensor(block), 0, 7, 9), (1, 2))
        assert [int(word[block]) for word in together] == [int(word) for word in alone]
