"""`import nvrm_fast` costs what `import torch` costs."""

import subprocess
import sys
from pathlib import Path

import nvrm_fast

CODE = """
import sys
import torch
before = set(sys.modules)
import nvrm_fast
heavy = ("torch._dynamo", "torch._inductor", "sympy", "triton")
print(*sorted(name for name in set(sys.modules) - before if name.startswith(heavy)))
"""


TORCH_ALONE = """
import importlib, pathlib, sys
for name in ("numpy", "scipy", "tqdm", "triton", "matplotlib", "lightning", "accelerate", "transformers"):
    sys.modules[name] = None  # any import of it fails
import torch, nvrm_fast
root = pathlib.Path(nvrm_fast.__file__).parent
for path in sorted(root.rglob("*.py")):
    parts = path.relative_to(root.parent).with_suffix("").parts
    if parts[1] not in ("triton", "integrations"):  # what needs a package of its own
        importlib.import_module(".".join(parts))
from nvrm_fast import nn as noisy, optim, probe
noise = noisy.Projected(0.1)
model = noisy.to_noisy(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)), direction=noise)
optimizer = nvrm_fast.NVRMSGD(model.parameters(), lr=0.1, variability=0.01)
model(torch.ones(5, 3)).sum().backward()
optimizer.step()
assert nvrm_fast.noise(3, seed=1).shape == (3,)
assert noisy.predict(model, torch.ones(5, 3), samples=3).entropy.isfinite().all()
x, y = torch.randn(40, 3), torch.randint(2, (40,))
plain = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
plan = probe.Plan((0.1, 1.0), "0", epochs=1)
assert len(probe.scan(plain, plan, torch.nn.functional.cross_entropy, (x, y), (x, y)).phases) == 2
try:
    probe.neural_variability(plain, torch.nn.functional.cross_entropy, (x, y), 0.1, samples=4)
except ModuleNotFoundError as error:
    print(error)
"""


def test_an_environment_with_torch_alone():
    """Every module but the integrations imports and works; what needs SciPy says how to get it."""
    root = str(Path(nvrm_fast.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {root!r})\n{TORCH_ALONE}"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'confidence intervals need SciPy: pip install "nvrm_fast[probe]"' in done.stdout


def test_no_compiler_is_imported():
    root = str(Path(nvrm_fast.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {root!r})\n{CODE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
