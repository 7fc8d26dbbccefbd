"""Optimizers are found in whatever wraps them, and no library is imported before it is asked for."""

import copy
import subprocess
import sys
import textwrap

import pytest
import torch

from nvrm_fast import NVRMSGD, NVRMAdam
from nvrm_fast.integrations import clean_weights, find_optimizers
from nvrm_fast.optim import VariabilityScheduler


class Wrapper:
    def __init__(self, **inner):
        vars(self).update(inner)


def parameter():
    p = torch.nn.Parameter(torch.ones(5))
    p.grad = torch.ones(5)
    return p


def test_found_in_wrappers():
    one, two = NVRMSGD([parameter()]), NVRMAdam([parameter()])
    plain = torch.optim.SGD([parameter()])
    assert find_optimizers(one) == [one]
    assert find_optimizers(Wrapper(optimizer=Wrapper(optimizer=one))) == [one]
    assert find_optimizers(Wrapper(optimizers=[one, plain, Wrapper(optimizer=two), one])) == [one, two]
    assert find_optimizers(VariabilityScheduler(one, lambda epoch: 1.0)) == [one]
    assert find_optimizers(plain) == find_optimizers([]) == []
    for wrong in (torch.nn.Linear(1, 1), "optimizer", 3, [one, 3], Wrapper(optimizer=None)):
        with pytest.raises(TypeError, match="expected an optimizer"):
            find_optimizers(wrong)


def test_clean_inside_and_as_before_outside():
    params = [parameter() for _ in range(3)]
    optimizers = [NVRMSGD([params[0]], lr=0.0, variability=0.5), NVRMAdam([params[1]], lr=0.0, variability=0.5)]
    everything = [*optimizers, torch.optim.SGD([params[2]], lr=0.0)]
    for optimizer in everything:
        optimizer.step()
    noisy = [p.detach().clone() for p in params]
    with pytest.raises(KeyError), clean_weights(everything):
        for p in params:
            torch.testing.assert_close(p.detach(), torch.ones(5), rtol=0, atol=1e-6)
        raise KeyError
    assert all(torch.equal(p, q) for p, q in zip(params, noisy))
    assert not torch.equal(noisy[0], params[2])


def run(code):
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300)


def test_no_library_is_imported_unasked():
    done = run("""
        import sys
        import nvrm_fast, nvrm_fast.integrations
        libraries = {"lightning", "pytorch_lightning", "accelerate", "transformers"}
        assert not libraries & set(sys.modules), libraries & set(sys.modules)
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module, missing, package",
    [
        ("lightning", ["lightning", "pytorch_lightning"], "lightning"),
        ("accelerate", ["accelerate"], "accelerate"),
        ("transformers", ["transformers"], "transformers"),
    ],
)
def test_a_missing_library_is_named(module, missing, package):
    done = run(f"""
        import sys
        sys.modules.update(dict.fromkeys({missing!r}))
        import nvrm_fast.integrations.{module}
    """)
    assert done.returncode == 1
    assert f"ImportError: nvrm_fast.integrations.{module} needs" in done.stderr
    assert done.stderr.strip().endswith(f"pip install {package}")


class Sharp(torch.optim.Optimizer):
    """As SAM's implementations: the optimizer inside is under a name of its own."""

    def __init__(self, base, name):
        super().__init__([p for group in base.param_groups for p in group["params"]], {})
        if name is not None:
            setattr(self, name, base)


@pytest.mark.parametrize("name", ["base_optimizer", "original_optimizer", "base"])
def test_found_under_any_attribute(name):
    base = NVRMSGD([parameter()], lr=0.0, variability=0.5)
    assert find_optimizers(Sharp(base, name)) == [base]


def test_noise_whose_optimizer_is_not_found_is_refused():
    param = parameter()
    base = NVRMSGD([param], lr=0.0, variability=0.5)
    outer = Sharp(base, None)
    assert find_optimizers(outer) == []  # nothing is on yet
    base.step()
    with pytest.raises(TypeError, match="Sharp holds parameters that carry noise"), clean_weights(outer):
        pass
    base.denoise()
    with clean_weights(outer):
        pass


class Imitation:
    """As Lightning's optimizer: of the wrapped class, with what it has not got itself from the one inside."""

    def __init__(self, inner):
        self.inner = inner
        self.__class__ = type("Imitation", (Imitation, type(inner)), {})

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_the_mode_is_seen_through_a_wrapper_that_imitates_the_class():
    param = parameter()
    inner = NVRMSGD([param], lr=0.0, variability=0.5)
    inner.step()
    noisy = param.detach().clone()
    outer = Imitation(inner)
    outer.eval()
    with pytest.raises(RuntimeError, match="while the noise is off"):
        inner.step()
    saved = copy.deepcopy(inner.state_dict())
    outer.load_state_dict(saved)
    outer.train()
    assert torch.equal(param, noisy)
    inner.step()
    inner.denoise()
    torch.testing.assert_close(param.detach(), torch.ones(5), rtol=0, atol=1e-6)
