"""One word for one thing: former names of the noise that parameters carry are gone, keys of old checkpoints apart."""

import re

from pages import ROOT

#: The noise that parameters carry between steps is the perturbation, what says which it is the record, and parameters
#: that one call serves are a batch.
FORMER = re.compile(
    r"(?<![a-z])(coats?|wears?|wearing|worn|resting|buckets?|verdicts?|beliefs?|doors?|noisy_param(?!s))(?![a-z])", re.I
)
PLACES = ("nvrm_fast", "csrc", "docs", "bench", "examples", "studies", "tests", "README.md", "CONTRIBUTING.md")
SUFFIXES = (".py", ".md", ".h", ".cpp", ".cu", ".cuh", ".sh", ".svg", ".toml", ".css")
#: Keys of checkpoints of version 1, which are read; and this file.
ALLOWED = {
    "nvrm_fast/optim/checkpoint.py": {"coat", "resting", "noisy_param"},
    "tests/optim/test_checkpoints.py": {"coat", "resting", "noisy_param"},
    "tests/docs/test_words.py": None,
}


def files():
    for place in PLACES:
        path = ROOT / place
        yield from sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES) if path.is_dir() else [path]


def test_no_former_words():
    found, seen = [], 0
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        allowed = ALLOWED.get(name, set())
        seen += 1
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            words = {match[0].lower() for match in FORMER.finditer(line)}
            if allowed is not None and words - allowed:
                found.append(f"{name}:{number}: {line.strip()}")
    assert not found, "\n".join(found)
    assert seen > 300


def test_every_allowed_place_needs_it():
    for name, words in ALLOWED.items():
        present = {match[0].lower() for match in FORMER.finditer((ROOT / name).read_text(encoding="utf-8"))}
        assert present and (words is None or present == words), name


def test_this_search():
    for text in ("coat_scale", "COAT_DISTRIBUTION", "class Verdicts", "the coat: on", "noisy_param"):
        assert FORMER.search(text), text
    for text in ("swear", "outdoors", "arresting", "noisy_params"):
        assert not FORMER.search(text), text
