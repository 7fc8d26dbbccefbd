"""Reader of the Market-1501 benchmark (Zheng et al., 2015) in its official layout.

    FOLDER/bounding_box_train    pictures to train on
    FOLDER/query                 pictures to search with, of identities that are not trained on
    FOLDER/bounding_box_test     the gallery that is searched

A name such as 0002_c1s1_000451_03.jpg says: identity 2, camera 1, sequence 1, frame 451, box 3. In the gallery the
identity 0000 stands for distractors, which match no query, and -1 for junk, which is left out of every ranking.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from studies import StudyError

JUNK, DISTRACTOR = -1, 0
TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
_NAME = re.compile(r"(-1|\d{4})_c(\d)s\d_\d{6}_\d{2}\.jpg")


@dataclass(frozen=True)
class Pictures:
    """One part of the benchmark, sorted by file names. identities and cameras: (N,) int64."""

    paths: tuple[Path, ...]
    identities: Tensor
    cameras: Tensor

    def __len__(self) -> int:
        return len(self.identities)

    @property
    def labels(self) -> Tensor:
        """(N,) int64 from 0 on: the place of each identity among the sorted ones."""
        return self.identities.unique(return_inverse=True)[1]


@dataclass(frozen=True)
class Market:
    """The three parts."""

    train: Pictures
    query: Pictures
    gallery: Pictures


def read(folder: str | Path) -> Market:
    """The names of all pictures; none is opened.

    Raises:
        StudyError: for a missing or empty folder, a .jpg of another naming, a picture to train on or to search with
            that has no identity, or fewer than two identities to train on.
    """
    parts = {part: _read_part(Path(folder) / part, str(folder)) for part in (TRAIN, QUERY, GALLERY)}
    for part in (TRAIN, QUERY):
        nameless = (parts[part].identities <= 0).nonzero().flatten().tolist()
        if nameless:
            raise StudyError(f"{parts[part].paths[nameless[0]]} has no identity, which only the gallery may hold")
    if len(parts[TRAIN].identities.unique()) < 2:
        raise StudyError(f"{Path(folder) / TRAIN} has a single identity: labels can be wrong only between two")
    return Market(parts[TRAIN], parts[QUERY], parts[GALLERY])


def _read_part(folder: Path, root: str) -> Pictures:
    paths = tuple(sorted(folder.glob("*.jpg"))) if folder.is_dir() else ()
    if not paths:
        raise StudyError(
            f"--market {root} lacks pictures in {folder.name}: name the folder of the unpacked Market-1501, which has "
            f"{TRAIN}, {QUERY} and {GALLERY}"
        )
    identities, cameras = [], []
    for path in paths:
        found = _NAME.fullmatch(path.name)
        if found is None:
            raise StudyError(f"{path} is not named as Market-1501's pictures are, such as 0002_c1s1_000451_03.jpg")
        identities.append(int(found[1]))
        cameras.append(int(found[2]))
    return Pictures(paths, torch.tensor(identities), torch.tensor(cameras))


def decode(paths: Sequence[Path], size: tuple[int, int]) -> Tensor:
    """(N, 3, height, width) uint8: pictures in color, scaled (bilinear) to size = (height, width) where they differ.

    Raises:
        StudyError: for a file that is not a picture.
    """
    height, width = size
    pictures = torch.empty(len(paths), 3, height, width, dtype=torch.uint8)
    for place, path in enumerate(paths):
        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise StudyError(f"{path} cannot be read as a picture ({error}): get the data set again") from None
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        pictures[place] = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return pictures
