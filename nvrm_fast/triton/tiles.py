"""How the layers' kernels divide their work: by the tiles of direction_noise.py and stochastic.py."""

#: Tiles that one program of a forward pass does where there are enough: what it read of its neurons serves them all.
FORWARD_STEPS = 8
#: Tiles that keep a GPU busy by themselves: 132 multiprocessors with eight programs of four warps.
BUSY = 1056


def forward_steps(tiles: int) -> int:
    """Tiles of one program, so that there are enough programs."""
    return FORWARD_STEPS if tiles >= FORWARD_STEPS * BUSY else 1


def run_width(length: int) -> int:
    """Neighbors in memory that one thread may read at once, where runs of this length follow each other: its four
    elements, or one."""
    return 4 if length % 4 == 0 else 1
