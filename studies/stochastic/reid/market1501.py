"""Reader and scores of the Market-1501 benchmark (Zheng et al., 2015), in its official layout.

    FOLDER/bounding_box_train    pictures to train on
    FOLDER/query                 pictures to search with, of identities that are not trained on
    FOLDER/bounding_box_test     the gallery that is searched

A name such as 0002_c1s1_000451_03.jpg says: identity 2, camera 1, sequence 1, frame 451, box 3. In the gallery the
identity 0000 stands for distractors, which match no query, and -1 for junk, which is left out of every ranking.

How well queries find pictures of their identity is told by the benchmark's protocol, as mean average precision and
cumulative matching characteristics: for each query the gallery is sorted by Euclidean distance. Junk, and pictures of
the query's identity by the query's own camera, are taken out of the ranking; distractors stay in it.
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


RANKS = (1, 5, 10)
_QUERIES_A_PASS = 256  # bounds the distances held at once


def average_precisions(matches: Tensor) -> tuple[float, float]:
    """Average precision of one ranking by two rules.

    Args:
        matches: (G,) bool, which of the ranked pictures are right, best first; at least one is.

    Returns:
        That of the benchmark's own code, which joins the points of precision against recall by straight lines,
        starting from precision 1 at recall 0; and the mean of the precisions at the right pictures.
    """
    places = matches.nonzero().flatten().double()  # of right pictures, from 0
    before = torch.arange(len(places), dtype=torch.float64)  # right ones ranked above each
    at = (before + 1) / (places + 1)
    # Precision one place above the right picture; above the first place it counts as 1.
    above = torch.where(places > 0, before / places.clamp_min(1), 1.0)
    return float(((above + at) / 2).mean()), float(at.mean())


def ranking(distances: Tensor, query: tuple[int, int], gallery: Pictures) -> Tensor:
    """(G',) bool: the gallery as one query, (identity, camera), ranks it, without what does not count."""
    identity, camera = query
    own = gallery.identities == identity
    counts = (gallery.identities != JUNK) & ~(own & (gallery.cameras == camera))
    order = distances.argsort(stable=True)
    return own[order][counts[order]]


def scores(query_features: Tensor, gallery_features: Tensor, query: Pictures, gallery: Pictures) -> dict[str, float]:
    """mAP (the benchmark's own), mAP_steps (see ``average_precisions``) and rank1, rank5, rank10: the share of queries
    with a right picture among so many. Fractions, over the queries that have a right picture in the gallery.

    Args:
        query_features, gallery_features: (Q, K) and (G, K), floating-point, on one device.
        query, gallery: identities and cameras.

    Raises:
        StudyError: if no query has a right picture in the gallery.
    """
    precisions, first = [], []
    for start in range(0, len(query), _QUERIES_A_PASS):
        part = query_features[start : start + _QUERIES_A_PASS]
        distances = torch.cdist(part, gallery_features).cpu()
        for row, own in enumerate(distances):
            place = start + row
            matches = ranking(own, (int(query.identities[place]), int(query.cameras[place])), gallery)
            if bool(matches.any()):
                precisions.append(average_precisions(matches))
                first.append(int(matches.nonzero()[0]))
    if not first:
        raise StudyError("no query has a picture by another camera in the gallery: nothing can be found")
    official, steps = torch.tensor(precisions, dtype=torch.float64).mean(0).tolist()
    places = torch.tensor(first)
    cmc = {f"rank{rank}": float((places < rank).double().mean()) for rank in RANKS}
    return {"mAP": official, "mAP_steps": steps} | cmc
