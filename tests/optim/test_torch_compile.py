"""torch.compile of the training step: no graph break in step(), nothing compiled again, the same bits."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from training import Model, loss_of, same, weights

from nvrm_fast import NVRMSGD, NVRMAdamW, PerturbedSGD

CLASSES = [
    (NVRMSGD, dict(lr=0.1, momentum=0.9, nesterov=True)),
    (NVRMSGD, dict(lr=0.1, draws="cycle")),
    (NVRMAdamW, dict(amsgrad=True)),
    (NVRMAdamW, dict(master_weights=True, denoise_every=3)),
    (PerturbedSGD, dict(lr=0.1)),
    (NVRMSGD, dict(lr=0.1, relative="rms", per="row")),
    (NVRMAdamW, dict(relative="absmax", master_weights=True, start_step=2)),
]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def train(cls, options, compiler=None, steps=7):
    """With everything changed that a schedule may change; the first step, which makes the state, is compiled too."""
    model = Model()
    optimizer = cls(model.parameters(), variability=0.05, **options)
    step = (
        optimizer.step
        if compiler is None
        else torch.compile(lambda: optimizer.step(), fullgraph=True, backend=compiler)
    )
    for i in range(steps):
        optimizer.zero_grad()
        loss_of(model, i).backward()
        group = optimizer.param_groups[0]
        group["lr"] = 0.1 / (i + 1)
        group["variability"] = 0.05 / (i + 1)
        group["seed"] = i // 3
        group["noise"] = ("gaussian", "laplace")[i // 4]
        step()
    noisy = weights(model)
    if hasattr(optimizer, "denoise"):
        optimizer.denoise()
    return {**{f"noisy {name}": value for name, value in noisy.items()}, **weights(model)}


@pytest.mark.parametrize("cls, options", CLASSES)
def test_one_graph_for_a_whole_schedule(cls, options):
    counter = CompileCounterWithBackend("aot_eager")
    assert same(train(cls, options), train(cls, options, counter))
    assert counter.frame_count == 1


def test_inductor():
    assert same(train(*CLASSES[1]), train(*CLASSES[1], "inductor"))


def test_forward_and_step_in_one_graph():
    """The weights that the graph's forward pass reads are those before the step, the ones after it are read by what
    follows: the operator says what it writes."""

    def run(wrap):
        torch.manual_seed(0)
        model = torch.nn.Linear(6, 3)
        optimizer = NVRMSGD(model.parameters(), lr=0.1, variability=0.05)

        def step(x):
            before = model(x).sum()
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
            with torch.no_grad():
                return before, model(x).sum()

        step = wrap(step)
        return [torch.stack(step(torch.full((2, 6), float(i)))) for i in range(3)]

    eager = run(lambda f: f)
    counter = CompileCounterWithBackend("aot_eager")
    for a, b in zip(eager, run(lambda f: torch.compile(f, backend=counter))):
        torch.testing.assert_close(a, b)


def test_gradients_that_come_late_and_two_optimizers():
    """Which parameters have gradients is part of the graph; other optimizers have graphs of their own."""
    left = []
    for compile_step in (False, True):
        params = [torch.nn.Parameter(torch.ones(5)) for _ in range(3)]
        optimizers = [NVRMSGD(params[:2], lr=0.1, seed=1), NVRMAdamW(params[2:], seed=2)]

        def step(optimizers=optimizers):
            for optimizer in optimizers:
                optimizer.step()

        if compile_step:
            step = torch.compile(step, fullgraph=True, backend="aot_eager")
        for i in range(4):
            for p in params[: 2 if i < 2 else 3]:
                p.grad = torch.full_like(p, 0.1 * i)
            step()
        left.append({str(i): p.detach().clone() for i, p in enumerate(params)})
    assert same(*left)


def test_errors_come_through():
    param = torch.nn.Parameter(torch.ones(5))
    optimizer = NVRMSGD([param], lr=0.1)
    step = torch.compile(lambda: optimizer.step(), fullgraph=True, backend="aot_eager")
    param.grad = torch.ones(5)
    step()
    optimizer.param_groups[0]["variability"] = float("nan")
    before = param.detach().clone()
    with pytest.raises(ValueError, match="Invalid variability"):
        step()
    assert torch.equal(param, before)


def test_scaled_gradients():
    left = []
    for compile_step in (False, True):
        param = torch.nn.Parameter(torch.ones(5))
        optimizer = NVRMSGD([param], lr=0.1)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.tensor(0.0)
        step = (
            torch.compile(lambda o=optimizer: o.step(), fullgraph=True, backend="aot_eager")
            if compile_step
            else optimizer.step
        )
        for flag in (1.0, 0.0, 0.0, 1.0):
            param.grad = torch.full_like(param, 8.0)
            optimizer.found_inf.fill_(flag)
            step()
        assert int(optimizer.state[param]["step"]) == 2
        left.append({"": param.detach().clone()})
    assert same(*left)


def test_a_mesh_breaks_the_graph_and_still_steps():
    """DTensor parameters: the step runs outside of the graph."""
    pytest.importorskip("torch.distributed.tensor")
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import DTensor, Shard

        mesh = init_device_mesh("cpu", (1,))
        left = []
        for compile_step in (False, True):
            param = torch.nn.Parameter(DTensor.from_local(torch.ones(5, 3), mesh, [Shard(0)]))
            optimizer = NVRMSGD([param], lr=0.1)
            step = torch.compile(lambda o=optimizer: o.step(), backend="aot_eager") if compile_step else optimizer.step
            for _ in range(3):
                param.grad = torch.ones_like(param)
                step()
            left.append({"": param.to_local().detach().clone()})
        assert same(*left)
    finally:
        torch.distributed.destroy_process_group()


def first_taken_out(params, optimizer):
    optimizer.param_groups[0]["params"].pop(0)


def moved_to_another_group(params, optimizer):
    optimizer.param_groups[1]["params"].append(optimizer.param_groups[0]["params"].pop(0))


def put_into_the_list(params, optimizer):
    optimizer.param_groups[0]["params"].insert(0, params[4])


def group_added(params, optimizer):
    optimizer.add_param_group({"params": [params[4]], "lr": 0.3})


def state_loaded(params, optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def state_loaded_with_another_rate(params, optimizer):
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["lr"] = 0.5
    optimizer.load_state_dict(state)


def reset(params, optimizer):
    optimizer.reset_state()


def denoised(params, optimizer):
    with optimizer.denoised():
        pass


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize(
    "edit",
    [
        first_taken_out, moved_to_another_group, put_into_the_list, group_added, state_loaded,
        state_loaded_with_another_rate, reset, denoised,
    ],
)  # fmt: skip
def test_groups_that_are_edited_and_states_that_are_loaded(edit, masters):
    """Parameters of one shape: nothing but their identity tells them apart."""
    left = []
    for compile_step in (False, True):
        params = [torch.nn.Parameter(torch.full((5,), float(i))) for i in range(5)]
        optimizer = NVRMSGD(
            [{"params": params[:2]}, {"params": params[2:4], "lr": 0.2}], lr=0.1, momentum=0.9, variability=0.05,
            master_weights=masters,
        )  # fmt: skip

        def step(optimizer=optimizer):
            optimizer.step()

        if compile_step:
            step = torch.compile(step, fullgraph=True, backend="aot_eager")
        for i in range(5):
            if i == 2:
                edit(params, optimizer)
            if i == 3:
                optimizer.param_groups[0]["lr"] *= 0.5
            for k, p in enumerate(params):
                p.grad = torch.full_like(p, 0.1 * i + k)
            step()
        left.append({str(i): p.detach().clone() for i, p in enumerate(params)})
    assert same(*left)
