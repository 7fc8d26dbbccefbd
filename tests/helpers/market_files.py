"""A small retrieval task in Market-1501's layout: an identity is a pattern of colors, which every camera tints."""

import torch
from PIL import Image

PARTS = ("bounding_box_train", "query", "bounding_box_test")


def write_market(folder, identities=4, test_identities=3, cameras=6, size=(24, 24)):
    """Two pictures of each identity by each camera; distractors and junk in the gallery."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(identities + 2 * test_identities + 1, 4, 4, 3, generator=generator)
    tints = 0.5 + 0.5 * torch.rand(cameras, 3, generator=generator)
    for part in PARTS:
        (folder / part).mkdir(parents=True)

    def save(part, name, pattern, camera, frame):
        noisy = tints[camera] * pattern + 0.1 * torch.randn(4, 4, 3, generator=generator)
        picture = Image.fromarray((noisy.clamp(0, 1) * 255).to(torch.uint8).numpy()).resize(size)
        picture.save(folder / part / f"{name}_c{camera + 1}s1_{frame:06d}_01.jpg")

    for number in range(identities + test_identities):
        for camera in range(cameras):
            for frame, test_part in enumerate(PARTS[1:]):
                part = PARTS[0] if number < identities else test_part
                save(part, f"{number + 1:04d}", patterns[number], camera, frame)
    for number, pattern in enumerate(patterns[identities + test_identities :]):
        save(PARTS[2], "-1" if number == 0 else "0000", pattern, number % cameras, number)
    return folder
