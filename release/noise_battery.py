"""Tests the noise with dieharder and PractRand, in the orders in which the library uses it: `make battery`.

Orders: elements one after the other; the same element at one step after the other, in one stream after the other, under
seeds that differ in one bit; streams and steps interleaved. In each the random words themselves, the lowest bit of each
word (which the generator mixes last), and bytes of Gaussian values (floor(256 Phi(x))). Uniform and Laplace values are
increasing functions of 16 bits of a word (Laplace's up to the sign), so that the words' tests are theirs. Words and
values come from csrc/math itself, compiled for this command.

Needs a C++ compiler and `dieharder` (a Debian package), and PractRand's `RNG_test`; what is not on the PATH is left out
and said to be. In full about an hour on one core. Results are added to a file, one JSON object a line, and may so be
gathered in parts; the table of all of them is printed at the end.

With fewer rounds of Philox (`--rounds 4 5 6`) the tests must fail: that shows what they can see.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
ORDERS = ("elements", "steps", "streams", "seeds", "interleaved")
KINDS = ("words", "lowest", "gaussian")

#: dieharder's tests by number, with their parameter where they have one. Left out: those that its author marks as
#: suspect or not to be used (5, 6, 7, 14), and two that take minutes each (17, 201).
DIEHARDER: list[tuple[int, int]] = [
    *((test, 0) for test in (0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 15, 16, 100, 101, 102)),
    *((200, n) for n in range(1, 9)),
    *((202, n) for n in range(2, 6)),
    *((203, lag) for lag in (0, 1, 3, 7, 15, 31)),
    *((test, 0) for test in range(204, 210)),
]
#: dieharder calls a p-value weak outside (0.005, 0.995): 1 of 100 for a perfect generator; failed: 2 in a million.
WEAK, FAILED = 0.005, 1e-6


def compiled(rounds: int, folder: Path) -> Path:
    """The program that writes words, with so many rounds of Philox."""
    program = folder / f"noise_words_{rounds}"
    flags = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    compiler = os.environ.get("CXX", "c++").split()
    source = ROOT / "release/noise_words.cpp"
    subprocess.run([*compiler, *flags, f"-DNVRM_PHILOX_ROUNDS={rounds}", source, "-o", program], check=True)
    return program


def piped(words: list[str], test: list[str]) -> str:
    """What the test prints about the words."""
    source = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        return subprocess.run(
            test, stdin=source.stdout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ).stdout
    finally:
        source.kill()
        source.wait()
        source.stdout.close()


def dieharder(words: list[str], seed: int) -> dict[str, object]:
    """p-values of all tests, each on a seed of its own."""
    values: dict[str, float] = {}
    for index, (test, parameter) in enumerate(DIEHARDER):
        # -D: a column each for the test's name, its parameter and the p-value.
        command = ["dieharder", "-g", "200", "-d", str(test), "-n", str(parameter), "-D", "8", "-D", "16", "-D", "128"]
        text = piped([*words, str(seed + index)], command)
        found = re.findall(r"^\s*(\w+)\|\s*(\d+)\|\s*([\d.]+)\|?\s*$", text, re.MULTILINE)
        if not found:
            sys.exit(f"dieharder's test {test} gave no p-value:\n{text}")
        for k, (name, ntuple, p) in enumerate(found):
            values[f"{name} {ntuple} {k}"] = float(p)
    low = {name: p for name, p in values.items() if min(p, 1 - p) < WEAK}
    return {
        "results": len(values),
        "weak": low,
        "failed": [name for name, p in low.items() if min(p, 1 - p) < FAILED],
    }


def practrand(words: list[str], seed: int, size: str) -> dict[str, object]:
    """Results of PractRand's core tests up to the size, or where they first fail."""
    text = piped([*words, str(seed)], ["RNG_test", "stdin32", "-tlmin", "64MB", "-tlmax", size])
    parts = re.split(r"^length= ", text, flags=re.MULTILINE)[1:]
    if not parts:
        sys.exit(f"RNG_test gave no result:\n{text}")
    weak: dict[str, str] = {}
    failed: list[str] = []
    results, length = 0, ""
    for part in parts:
        length = part.partition(" (")[0]
        lines = re.findall(r"^  (\S+) +R= *\S+ +p ?~?=? *(\S+) +(\S.*?) *$", part, re.MULTILINE)
        rest = re.search(r"(?:and|in) (\d+) test result", part)
        results += len(lines) + int(rest[1] if rest else 0)
        for name, p, evaluation in lines:
            if "FAIL" in evaluation:
                failed.append(f"{name} at {length}")
            else:
                weak[f"{name} at {length}"] = f"{p} {evaluation}"
    return {"results": results, "weak": weak, "failed": failed, "length": length}


def table(lines: list[dict]) -> str:
    """A line for each number of rounds, kind and order."""
    out = [
        "| rounds | what | order | dieharder: failed, weak, of | PractRand: failed, unusual, of | up to |",
        "|--:|---|---|--:|--:|---|",
    ]
    keys = sorted({(x["rounds"], KINDS.index(x["kind"]), ORDERS.index(x["order"])) for x in lines})
    for rounds, kind, order in keys:
        mine = [x for x in lines if (x["rounds"], x["kind"], x["order"]) == (rounds, KINDS[kind], ORDERS[order])]
        cells = []
        for test in ("dieharder", "practrand"):
            some = [x for x in mine if x["test"] == test]
            counts = [sum(len(x["failed"]) for x in some), sum(len(x["weak"]) for x in some)]
            cells.append(f"{counts[0]}, {counts[1]}, {sum(x['results'] for x in some)}" if some else "")
        lengths = [x["length"] for x in mine if x["test"] == "practrand"]
        out.append(f"| {rounds} | {KINDS[kind]} | {ORDERS[order]} | {' | '.join(cells)} | {', '.join(lengths)} |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, nargs="+", default=[7], help="of Philox; at least 3")
    parser.add_argument("--orders", nargs="+", default=ORDERS, choices=ORDERS)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--tests", nargs="+", default=("dieharder", "practrand"), choices=("dieharder", "practrand"))
    parser.add_argument(
        "--size", default="8GB", help="how much PractRand reads of each sequence (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the noise (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "build/noise_battery.jsonl")
    arguments = parser.parse_args()
    programs = {"dieharder": "dieharder", "practrand": "RNG_test"}
    tests = [test for test in arguments.tests if shutil.which(programs[test])]
    for test in arguments.tests:
        if test not in tests:
            print(f"left out: {test}, as {programs[test]} is not on the PATH", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for rounds in arguments.rounds:
            program = compiled(rounds, Path(folder))
            for kind in arguments.kinds:
                for order in arguments.orders:
                    for test in tests:
                        start = time.monotonic()
                        words = [str(program), order, kind]
                        if test == "dieharder":
                            result = dieharder(words, arguments.seed)
                        else:
                            result = practrand(words, arguments.seed, arguments.size)
                        line = {"rounds": rounds, "kind": kind, "order": order, "test": test, "seed": arguments.seed}
                        line |= {**result, "seconds": round(time.monotonic() - start)}
                        with arguments.out.open("a") as file:
                            file.write(json.dumps(line) + "\n")
                        print(
                            rounds,
                            kind,
                            order,
                            test,
                            f"failed {len(result['failed'])} of {result['results']}",
                            flush=True,
                        )
    if arguments.out.exists():
        print(table([json.loads(line) for line in arguments.out.read_text().splitlines()]))


if __name__ == "__main__":
    main()
