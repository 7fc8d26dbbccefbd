"""How well queries find pictures of their identity: mean average precision and cumulative matching characteristics,
by the protocol of Market-1501 (Zheng et al., 2015).

For each query the gallery is sorted by Euclidean distance. Junk, and pictures of the query's identity by the query's
own camera, are taken out of the ranking; distractors stay in it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from studies import StudyError
from studies.stochastic.reid.market1501 import JUNK, Pictures

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
