"""Random sequences of everything that may happen to an optimizer, against a float64 twin of what it means.

python tests/helpers/state_fuzz.py --sequences 100000 --seed 1
"""

from __future__ import annotations

import argparse
import collections
import copy
import io
import pickle
import random
import warnings

import torch
from torch import Tensor, nn

from nvrm_fast import NVRMSGD, NVRMAdam, WeightNoise
from nvrm_fast.contract.cycles import DRAWS
from nvrm_fast.contract.distributions import DISTRIBUTIONS
from nvrm_fast.optim import base, measures, perturbation

SHAPES = {"a": (5, 7), "b": (33,), "c": (140,), "d": ()}
MOMENTUM, BETAS, EPS = 0.9, (0.9, 0.99), 1e-8


class Twin:
    """The clean weights and the rule in float64, without noise and without any of the library's code."""

    def __init__(self, weights: dict[str, Tensor], is_adam: bool) -> None:
        self.weights = {name: w.double() for name, w in weights.items()}
        self.is_adam = is_adam
        self.state: dict[str, tuple] = {}

    def step(self, name: str, g: Tensor, lr: float) -> None:
        g = g.double()
        if self.is_adam:
            m, v, t = self.state.get(name, (torch.zeros_like(g), torch.zeros_like(g), 0))
            m, v, t = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g * g, t + 1
            self.state[name] = m, v, t
            root = (v / (1 - BETAS[1] ** t)).sqrt() + EPS
            self.weights[name] = self.weights[name] - lr / (1 - BETAS[0] ** t) * m / root
        else:
            buffer = MOMENTUM * self.state[name][0] + g if name in self.state else g
            self.state[name] = (buffer,)
            self.weights[name] = self.weights[name] - lr * buffer


class Interrupted:
    """Inside the block the operators' call of this number raises KeyboardInterrupt."""

    def __init__(self, call: int, is_after: bool) -> None:
        self.left, self.is_after = call, is_after

    def wrap(self, operator):
        def wrapped(*args, **kwargs):
            self.left -= 1
            if self.left == -1 and not self.is_after:
                raise KeyboardInterrupt
            result = operator(*args, **kwargs)
            if self.left == -1 and self.is_after:
                raise KeyboardInterrupt
            return result

        return wrapped

    def __enter__(self) -> None:
        self.real = base.step_, base.steps_, perturbation.reperturb_, measures.measure_
        base.step_, base.steps_, perturbation.reperturb_, measures.measure_ = map(self.wrap, self.real)

    def __exit__(self, *_: object) -> None:
        base.step_, base.steps_, perturbation.reperturb_, measures.measure_ = self.real


class Run:
    """One sequence."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.is_adam = self.random.random() < 0.5
        self.is_wrapper = self.random.random() < 0.33  # WeightNoise around torch's optimizer of the rule
        self.masters = self.random.choice([False, True])
        self.relative = self.random.choice([None, None, "rms", "absmax"])
        self.per = self.random.choice(["tensor", "row"])
        self.draws = self.random.choice(DRAWS)
        self.names = self.random.choice([True, False])
        self.params = {
            name: nn.Parameter(torch.randn(shape, generator=self.generator) * 0.3) for name, shape in SHAPES.items()
        }
        self.twin = Twin({name: p.detach() for name, p in self.params.items()}, self.is_adam)
        self.order = list(SHAPES)
        self.random.shuffle(self.order)
        self.held = self.order[: self.random.choice([3, 4])]  # the others come as a new group
        self.optimizer = self.make(self.held)
        self.log: list[str] = []

    def make(self, names: list[str]):
        params = [(name, self.params[name]) if self.names else self.params[name] for name in names]
        cut = self.random.randrange(1, len(params) + 1)
        groups = [{"params": part} for part in (params[:cut], params[cut:]) if part]
        options = {"seed": self.random.randrange(2**64), "relative": self.relative, "per": self.per}
        return self.optimizer_of(groups, draws=self.draws, **options)

    def optimizer_of(self, groups, **options):
        rule = dict(betas=BETAS, eps=EPS) if self.is_adam else dict(momentum=MOMENTUM)
        options = {"variability": 0.1, "master_weights": self.masters, **options}
        if self.is_wrapper:
            inner = torch.optim.Adam if self.is_adam else torch.optim.SGD
            return WeightNoise(inner(groups, lr=0.01, **rule), **options)
        return (NVRMAdam if self.is_adam else NVRMSGD)(groups, lr=0.01, **rule, **options)

    def is_evaluating(self) -> bool:
        return self.optimizer._is_evaluating()

    # What may happen. Every method is one operation.

    def step(self) -> None:
        if self.is_evaluating():
            self.optimizer.train()
        chosen = [name for name in self.held if self.random.random() < 0.8]
        for name, p in self.params.items():
            p.grad = torch.randn(p.shape, generator=self.generator) if name in chosen else None
        lrs = {id(p): group["lr"] for group in self.optimizer.param_groups for p in group["params"]}
        before = {name: self.steps_of(name) for name in chosen}
        inner_steps: list[object] = []
        if self.is_wrapper:
            hook = self.optimizer.optimizer.register_step_post_hook(lambda *_: inner_steps.append(None))

        def is_done(name: str) -> bool:
            return len(inner_steps) == 1 if self.is_wrapper else self.steps_of(name) == before[name] + 1

        try:
            self.optimizer.step()
        finally:  # an interrupted step has been done for the parameters of some operator calls
            if self.is_wrapper:
                hook.remove()
            for name in chosen:
                if is_done(name):
                    self.twin.step(name, self.params[name].grad, lrs[id(self.params[name])])
        assert all(map(is_done, chosen))

    def steps_of(self, name: str) -> int:
        return int(self.optimizer.state.get(self.params[name], {}).get("step", 0))

    def signal(self) -> None:
        """Ctrl-C while an operator runs: Python raises before it or after it. Then training goes on."""
        action = self.random.choice([self.step, self.optimizer.eval, self.optimizer.train, self.optimizer.denoise])
        with Interrupted(self.random.randrange(3), is_after=self.random.random() < 0.5):
            try:
                action()
            except KeyboardInterrupt:
                pass

    def eval(self) -> None:
        self.optimizer.eval()
        self.check()

    def train(self) -> None:
        self.optimizer.train()

    def denoise(self) -> None:
        self.optimizer.denoise()
        self.check()

    def denoised(self) -> None:
        with self.optimizer.denoised():
            self.check()
            if self.random.random() < 0.5:
                self.write()

    def write(self) -> None:
        """Other weights into one parameter while no noise is on, by one of several ways."""
        if self.optimizer.is_perturbed():  # also where train() was interrupted
            self.optimizer.eval() if self.is_evaluating() else self.optimizer.denoise()
        name = self.random.choice(list(self.params))
        p, value = self.params[name], torch.randn(SHAPES[name], generator=self.generator) * 0.3
        way = self.random.randrange(4)
        with torch.no_grad():
            if way == 0:
                p.copy_(value)
            elif way == 1:
                p.data.copy_(value)
            elif way == 2:
                p.data = value.clone()
            else:
                torch.from_numpy(p.detach().numpy()).copy_(value)
        self.twin.weights[name] = value.double()

    def change(self) -> None:
        for group in self.optimizer.param_groups:
            group[self.random.choice(["variability"])] = self.random.choice([0.0, 0.03, 0.1, 0.5])
            group["noise"] = self.random.choice(list(DISTRIBUTIONS))
            if self.random.random() < 0.5:
                group["seed"] = self.random.randrange(2**64)
            group["draws"] = self.random.choice(DRAWS)
            group["lr"] = self.random.choice([0.0, 1e-3, 1e-2])
            group["denoise_every"] = self.random.choice([None, None, 2])
            if self.relative is not None:
                group["relative"] = self.random.choice([None, "rms", "absmax"])
                group["per"] = self.random.choice(["tensor", "row"])

    def load(self) -> None:
        """Through a file, into a new optimizer with the same groups."""
        file = io.BytesIO()
        torch.save(self.optimizer.state_dict(), file)
        file.seek(0)
        old = self.optimizer
        new = self.empty([[p for p in group["params"]] for group in old.param_groups])
        new.load_state_dict(torch.load(file, weights_only=True))
        self.optimizer = new

    def empty(self, lists):
        by_id = {id(p): name for name, p in self.params.items()}
        groups = [{"params": [(by_id[id(p)], p) if self.names else p for p in params]} for params in lists if params]
        return self.optimizer_of(groups)

    def load_by_name(self) -> None:
        """Into another order and other groups: the states are matched by the parameters that they belong to."""
        old = self.optimizer
        saved = copy.deepcopy(old.state_dict())
        flat = [p for group in old.param_groups for p in group["params"]]
        order = list(flat)
        self.random.shuffle(order)
        new = self.empty([order])
        place = {id(p): i for i, p in enumerate(flat)}
        mine = new.state_dict()
        mine["state"] = {i: saved["state"][place[id(p)]] for i, p in enumerate(order) if place[id(p)] in saved["state"]}
        new.load_state_dict(mine)
        self.optimizer = new

    def copy_or_pickle(self) -> None:
        both = self.params, self.optimizer
        self.params, self.optimizer = (
            copy.deepcopy(both) if self.random.random() < 0.5 else pickle.loads(pickle.dumps(both))
        )

    def add_group(self) -> None:
        rest = [name for name in self.order if name not in self.held]
        if rest:
            self.optimizer.add_param_group(
                {"params": [(name, self.params[name]) if self.names else self.params[name] for name in rest]}
            )
            self.held = [*self.held, *rest]

    def regroup(self) -> None:
        """Parameters change their group, noise on."""
        groups = self.optimizer.param_groups
        if len(groups) < 2:
            return
        first, second = groups[:2]
        if len(first["params"]) > 1:
            second["params"].append(first["params"].pop())
            if self.names:
                second["param_names"].append(first["param_names"].pop())

    def reset(self) -> None:
        self.optimizer.reset_state()
        self.twin.state.clear()
        self.check()

    def lose_state(self) -> None:
        """The state is deleted while noise is on: it is taken off by what the process knows."""
        if self.is_evaluating():
            self.optimizer.train()
        self.optimizer.state.clear()
        if self.is_wrapper:
            self.optimizer.optimizer.state.clear()
        self.twin.state.clear()
        for p in self.params.values():
            p.grad = None
        for name in self.held:
            self.params[name].grad = torch.zeros_like(self.params[name])
            self.twin.step(name, self.params[name].grad, 0.0)
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-3  # with 0 a first step only makes the state
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.optimizer.step()

    def check(self) -> None:
        """All weights that carry no noise are the twin's, up to the roundings of float32 with noise of b = 0.5."""
        for name, p in self.params.items():
            off = (p.detach().double() - self.twin.weights[name]).abs().max()
            # Sixty operations, two roundings each of values below 8 (half a spacing: 2.4e-7).
            assert off < 60 * 2 * 2.4e-7, f"{name} is off by {off:.3g} after {self.log}"

    OPERATIONS = (
        "step", "step", "step", "step", "eval", "train", "denoise", "denoised", "write", "change", "load",
        "load_by_name", "signal", "copy_or_pickle", "add_group", "regroup", "reset", "lose_state",
    )  # fmt: skip

    def __call__(self, length: int = 30) -> None:
        for _ in range(length):
            operation = self.random.choice(self.OPERATIONS)
            self.log.append(operation)
            getattr(self, operation)()
        with self.optimizer.denoised():
            self.check()


def fuzz(sequences: int, seed: int, drawn: collections.Counter[str] | None = None) -> list[str]:
    """The failures of so many sequences, each with the seed that repeats it; counts in `drawn` what they did."""
    failures = []
    for i in range(sequences):
        try:
            run = Run(seed + i)
            run()
            if drawn is not None:
                drawn.update(run.log)
        except Exception as error:  # whatever it is, it is a finding
            failures.append(f"sequence {seed + i}: {type(error).__name__}: {error}")
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    failures = fuzz(options.sequences, options.seed)
    print("\n".join(failures[:20]))
    print(f"{options.sequences} sequences from seed {options.seed} on, {len(failures)} failed")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
