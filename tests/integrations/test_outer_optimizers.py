"""Optimizers around optimizers: SAM, Opacus, Lookahead, PostLocalSGD are right; ZeRO and schedule-free are refused."""

import pytest
import torch
from torch import nn

from nvrm_fast import NVRMSGD, NVRMAdam
from nvrm_fast.integrations import clean_weights, find_optimizers

STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])


def make():
    torch.manual_seed(0)
    return nn.Linear(16, 16)


def optimizer_of(model, masters=False, **options):
    return NVRMSGD(model.parameters(), **{"lr": 0.01, "variability": 0.1, "master_weights": masters, **options})


def steps(model, step, count=4):
    for i in range(count):
        for p in model.parameters():
            p.grad = torch.full_like(p, 1.0 + i)
        step()


def noise_is_on(model, clean):
    return (model.weight.detach() - clean).std() > 0.05


class Sharp(torch.optim.Optimizer):
    """SAM as it is written everywhere: to the top of the hill, a gradient there, and back for the step."""

    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, dict(rho=rho, **options))
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure):
        closure = torch.enable_grad()(closure)
        loss, old = closure(), {}
        for group in self.param_groups:
            for p in group["params"]:
                old[p] = p.detach().clone()
                p.add_(group["rho"] * p.grad / (p.grad.norm() + 1e-12))
        closure()
        for p, w in old.items():
            p.data = w
        self.base_optimizer.step()
        return loss


def constant_gradient(model):
    def closure():
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        return torch.zeros(())

    return closure


@STORAGES
def test_sam_of_ten_lines(masters):
    model, expected = make(), make().weight.detach() - 0.03
    outer = Sharp(list(model.parameters()), NVRMSGD, lr=0.01, variability=0.1, master_weights=masters)
    for _ in range(3):
        outer.step(constant_gradient(model))
    assert noise_is_on(model, expected)
    with clean_weights(outer):
        torch.testing.assert_close(model.weight.detach(), expected, rtol=0, atol=1e-6)


@STORAGES
def test_sam_of_a_package(masters):
    sam = pytest.importorskip("pytorch_optimizer").SAM
    model, expected = make(), make().weight.detach() - 0.03
    outer = sam(model.parameters(), NVRMSGD, lr=0.01, variability=0.1, master_weights=masters)
    closure = constant_gradient(model)
    for _ in range(3):
        closure()
        outer.step(closure)
    assert noise_is_on(model, expected)
    with clean_weights(outer):
        torch.testing.assert_close(model.weight.detach(), expected, rtol=0, atol=1e-6)


class Private(torch.optim.Optimizer):
    """As Opacus' DPOptimizer: of the inner one's groups and state, which it hands on; it makes the gradients itself."""

    def __init__(self, optimizer):
        self.original_optimizer = optimizer

    param_groups = property(lambda self: self.original_optimizer.param_groups)
    state = property(lambda self: self.original_optimizer.state)
    defaults = property(lambda self: self.original_optimizer.defaults)

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = p.grad.clamp(max=1.0)
        return self.original_optimizer.step()


@STORAGES
def test_opacus(masters):
    model, expected = make(), make().weight.detach() - 0.04
    outer = Private(optimizer_of(model, masters))
    steps(model, outer.step)
    assert noise_is_on(model, expected)
    with clean_weights(outer):
        torch.testing.assert_close(model.weight.detach(), expected, rtol=0, atol=1e-6)


class TimmLookahead(torch.optim.Optimizer):
    """As timm's: no attribute is called optimizer, and the slow weights begin at the first average."""

    def __init__(self, base, k=2, alpha=0.5):
        self._base_optimizer = base
        self.param_groups, self.defaults, self.state = base.param_groups, base.defaults, base.state
        self.slow, self.count = {}, 0
        for group in self.param_groups:
            group["lookahead_k"], group["lookahead_alpha"] = k, alpha

    @torch.no_grad()
    def step(self, closure=None):
        self._base_optimizer.step(closure)
        self.count += 1
        for group in self.param_groups:
            if self.count % group["lookahead_k"] == 0:
                for p in group["params"]:
                    slow = self.slow.setdefault(p, p.detach().clone())
                    slow.add_(p - slow, alpha=group["lookahead_alpha"])
                    p.copy_(slow)


TimmLookahead.__name__ = "Lookahead"


def lookahead_of_a_package(base, k):
    return pytest.importorskip("pytorch_optimizer").Lookahead(base, k=k)


@STORAGES
@pytest.mark.parametrize("wrap", [TimmLookahead, lookahead_of_a_package])
def test_lookahead_over_clean_weights_is_right(wrap, masters):
    left = []
    for cls, options in (
        (NVRMSGD, dict(variability=0.1, denoise_every=2, master_weights=masters)),
        (torch.optim.SGD, {}),
    ):
        model = make()
        outer = wrap(cls(model.parameters(), lr=0.01, **options), k=4)
        steps(model, outer.step, 15)
        with clean_weights(outer):
            left.append(model.weight.detach().clone())
    torch.testing.assert_close(*left, rtol=0, atol=2e-6)


@pytest.mark.parametrize("wrap", [TimmLookahead, lookahead_of_a_package])
@pytest.mark.parametrize("every", [None, 3])
def test_lookahead_over_noisy_weights_is_refused_before_anything_is_written(wrap, every):
    model = make()
    inner = optimizer_of(model, denoise_every=every)
    outer = wrap(inner, k=4)
    with pytest.raises(RuntimeError, match="Lookahead takes an average every k = 4 steps.*denoise_every=4"):
        steps(model, outer.step)
    assert torch.equal(model.weight, make().weight) and not inner.state
    inner.param_groups[0]["variability"] = 0.0
    steps(model, outer.step)  # the plain optimizer
    inner.param_groups[0]["variability"] = 0.1
    with pytest.raises(RuntimeError, match="Lookahead"):
        steps(model, outer.step)
    steps(model, inner.step)  # by itself it steps


class ScheduleFreeWrapper:
    def __init__(self, base):
        self.base = base

    def step(self):
        self.base.step()


def schedule_free_of_a_package(base):
    wrapper = pytest.importorskip("schedulefree").ScheduleFreeWrapper(base, momentum=0.9)
    wrapper.train()
    return wrapper


@pytest.mark.parametrize("wrap", [ScheduleFreeWrapper, schedule_free_of_a_package])
def test_schedule_free_is_refused(wrap):
    model = make()
    outer = wrap(optimizer_of(model))
    with pytest.raises(RuntimeError, match="ScheduleFreeWrapper averages the weights while they carry noise"):
        steps(model, outer.step)
    assert (model.weight - make().weight).abs().max() < 1e-6  # the package has swapped, nothing has stepped
    steps(model, optimizer_of(model).step, 1)


def test_schedule_free_without_noise_steps():
    model = make()
    steps(model, ScheduleFreeWrapper(optimizer_of(model, variability=0.0)).step)
    torch.testing.assert_close(model.weight, make().weight - 0.01 * (1 + 2 + 3 + 4), rtol=0, atol=1e-6)


def test_noise_in_a_schedule_free_average_is_refused():
    model = make()
    inner = optimizer_of(model)
    steps(model, inner.step)
    with pytest.raises(TypeError, match="ScheduleFreeWrapper has averaged weights that carried noise"):
        find_optimizers(ScheduleFreeWrapper(inner))


@pytest.fixture
def group():
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("torch without distributed")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("cls", [NVRMSGD, NVRMAdam])
def test_zero_is_refused(group, cls):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    with pytest.raises(ValueError, match="ZeroRedundancyOptimizer makes one optimizer in each process.*fully_shard"):
        ZeroRedundancyOptimizer(make().parameters(), cls, lr=0.01)


class TwoRanks:
    """An averager: the mean with another rank that has the same noise and other clean weights."""

    step = 0

    def average_parameters(self, params):
        for group in params:
            for p in group["params"]:
                p.data = p.data + 0.5  # torch's own assigns data too


@STORAGES
def test_post_local_sgd(masters):
    from torch.distributed.optim import PostLocalSGDOptimizer

    model = make()
    outer = PostLocalSGDOptimizer(optimizer_of(model, masters), TwoRanks())
    assert find_optimizers(outer) == [outer.optim]
    steps(model, outer.step)
    expected = make().weight.detach() - 0.01 * (1 + 2 + 3 + 4) + 4 * 0.5
    assert noise_is_on(model, expected)
    with clean_weights(outer):
        torch.testing.assert_close(model.weight.detach(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("cls", [NVRMSGD, NVRMAdam])
@STORAGES
def test_a_negative_of_other_memory(cls, masters):
    memory = torch.full((5,), -1.0)
    with pytest.raises(ValueError, match=r"parameter 0 .* is the negative of other memory .*resolve_neg"):
        cls([nn.Parameter(torch._neg_view(memory))], lr=0.1)
    param = nn.Parameter(torch.ones(5))
    optimizer = cls([param], lr=0.1, variability=0.1, master_weights=masters)
    param.data = torch._neg_view(memory)
    param.grad = torch.ones(5)
    with pytest.raises(ValueError, match="parameter 0 .*are the negative of other memory .*resolve_neg"):
        optimizer.step()
    assert torch.equal(memory, torch.full((5,), -1.0))


@STORAGES
def test_a_gradient_that_is_a_lazy_negative(masters):
    model = make()
    optimizer = optimizer_of(model, masters, variability=0.0)
    for p in model.parameters():
        p.grad = torch._neg_view(torch.ones_like(p))
    optimizer.step()
    torch.testing.assert_close(model.weight, make().weight + 0.01, rtol=0, atol=1e-7)
