"""A small retrieval task in Market-1501's layout, made from a data set at hand.

An identity is one image; six cameras, each with a position, colours and exposure of its own, see it twice. Images of
training and test identities are different ones. As in the benchmark some views are poor (here: a bar hides a part, or
the image has slipped half out of its frame), and the gallery holds distractors (other images) and junk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from nvrm_fast.experiments import StudyError
from nvrm_fast.experiments.data import ImageData
from nvrm_fast.experiments.stochastic.reid import market1501

SIZE = 24
VIEWS = 2  # of each identity by each camera
POOR = 0.1  # the share of poor views
POOR_LIST = "poor_views.txt"  # their file names, one a line


@dataclass(frozen=True)
class Camera:
    """turn in degrees; zoom; shear; colours (red, green, blue) of what is white and what is black in an image."""

    turn: float
    zoom: float
    shear: float
    white: tuple[float, float, float]
    black: tuple[float, float, float]


CAMERAS = (
    Camera(0, 1.0, 0.0, (0.95, 0.95, 0.95), (0.10, 0.10, 0.10)),
    Camera(12, 0.9, 0.0, (0.95, 0.80, 0.55), (0.25, 0.15, 0.05)),
    Camera(-10, 1.1, 0.1, (0.55, 0.70, 0.80), (0.05, 0.10, 0.25)),
    Camera(5, 0.85, -0.15, (0.60, 0.60, 0.60), (0.30, 0.30, 0.30)),
    Camera(-16, 1.0, 0.05, (0.80, 0.95, 0.75), (0.15, 0.30, 0.15)),
    Camera(18, 0.9, 0.12, (0.75, 0.55, 0.75), (0.05, 0.02, 0.10)),
)


def view(image: Tensor, camera: Camera, poor: bool, generator: torch.Generator) -> Tensor:
    """One view: (3, SIZE, SIZE) uint8 from a grey image (height, width), float from 0 to 1."""
    jitter = 2 * torch.rand(5, generator=generator) - 1
    turn = math.radians(camera.turn + 6 * float(jitter[0]))
    zoom = camera.zoom * (1 + 0.06 * float(jitter[1]))
    shift = 0.08 * jitter[2:4]
    slipped = poor and float(jitter[4]) > 0
    if slipped:
        shift = shift + torch.tensor([0.9, 0.0] if float(jitter[2]) > 0 else [0.0, 0.9])
    cosine, sine = math.cos(turn) / zoom, math.sin(turn) / zoom
    place = torch.tensor(
        [[cosine, -sine + camera.shear * cosine, shift[0]], [sine, cosine + camera.shear * sine, shift[1]]]
    )
    grid = affine_grid(place[None], [1, 1, SIZE, SIZE], align_corners=False)
    grey = grid_sample(image[None, None], grid, align_corners=False)[0, 0]
    black, white = (torch.tensor(colour)[:, None, None] for colour in (camera.black, camera.white))
    picture = black + (white - black) * grey
    if poor and not slipped:
        begin = int(torch.randint(SIZE // 2, (), generator=generator))
        bar = torch.rand(3, 1, 1, generator=generator)
        along = slice(begin, begin + SIZE // 2)
        if float(jitter[0]) > 0:
            picture[:, along] = bar
        else:
            picture[:, :, along] = bar
    picture = picture + 0.03 * torch.randn(picture.shape, generator=generator)
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


def write(folder: Path, data: ImageData, identities: int, test_identities: int, seed: int = 0) -> None:
    """Writes the whole task as JPEG files, and the names of the poor views among them.

    Args:
        folder: made if need be.
        data: images of one channel or three (then averaged), uint8.
        identities, test_identities: how many to train on and to search for; as many distractors as the latter and half
            as much junk come into the gallery.

    Raises:
        StudyError: if the data set has fewer images, or there are more identities than four digits can name.
    """
    images = torch.cat([data.train_images, data.test_images])
    people = identities + test_identities
    junk = test_identities // 2
    if people > 9999 or people + test_identities + junk > len(images):
        raise StudyError(
            f"--identities {identities} and --test-identities {test_identities} are too many for the {len(images)} "
            f"images of {data.name} and the four digits of their names: choose fewer"
        )
    generator = torch.Generator().manual_seed(seed)
    images = images[torch.randperm(len(images), generator=generator)].float().mean(1) / 255
    for part in (market1501.TRAIN, market1501.QUERY, market1501.GALLERY):
        (folder / part).mkdir(parents=True, exist_ok=True)
    poor_views: list[str] = []

    def save(part: str, identity: int, camera: int, frame: int, image: Tensor, poor: bool) -> None:
        name = f"{'-1' if identity == market1501.JUNK else f'{identity:04d}'}_c{camera + 1}s1_{frame:06d}_01.jpg"
        pixels = view(image, CAMERAS[camera], poor, generator)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / part / name, quality=95)
        if poor:
            poor_views.append(name)

    def poor() -> bool:
        return float(torch.rand((), generator=generator)) < POOR

    for number in range(people):
        for camera in range(len(CAMERAS)):
            for frame in range(VIEWS):
                test = market1501.QUERY if frame == 0 else market1501.GALLERY
                part = market1501.TRAIN if number < identities else test
                save(part, number + 1, camera, frame, images[number], poor())
    for number in range(test_identities):
        save(market1501.GALLERY, market1501.DISTRACTOR, number % 6, number, images[people + number], poor())
    for number in range(junk):
        image = images[people + test_identities + number]
        save(market1501.GALLERY, market1501.JUNK, number % 6, number, image, True)
    (folder / POOR_LIST).write_text("\n".join(poor_views) + "\n", encoding="utf-8")
