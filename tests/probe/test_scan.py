import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from nvrm_fast import noise
from nvrm_fast.probe import CheckpointMismatch, NoiseInjection, Plan, Recorder, example_noise, probe, scan
from nvrm_fast.probe.example_noise import key_of_seed
from nvrm_fast.probe.scan import _order


def net(seed=0, *middle):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 32), *middle, nn.ReLU(), nn.Linear(32, 5))


def data(count=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 20, generator=generator)
    y = (x @ torch.randn(20, 5, generator=torch.Generator().manual_seed(9))).argmax(1)
    return (x, y), (x[:50] + 0.1, y[:50])


def plan(**more):
    return Plan(**({"sigmas": (0.1, 5.0, 20.0), "layer": "0", "lr": 0.1, "batch_size": 64, "epochs": 3} | more))


def same(one, other):
    assert torch.equal(one.steps, other.steps)
    for name, values in one.series.items():
        torch.testing.assert_close(values, other.series[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", ["redrawn", "fixed"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_scan_is_so_many_plain_runs(kind, optimizer):
    train, test = data()
    planned = plan(kind=kind, seed=3, next_layer="2", nodes=2, records=5)
    make = lambda parameters: optimizer(parameters, lr=0.05)  # noqa: E731
    start = net()
    together = scan(start, planned, cross_entropy, train, test, optimizer=make)
    assert [name for name, _ in start.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for k, sigma in enumerate(planned.sigmas):
        model = copy.deepcopy(start)
        torch.manual_seed(3)
        injection = NoiseInjection(model, "0", sigma, nodes=2)
        own, step = make(model.parameters()), 0
        for epoch in range(3):
            for batch in _order(200, 3, epoch).split(64):
                if kind == "fixed":
                    eps = sigma * example_noise(batch, 2, key_of_seed(3), stream=0)
                else:
                    eps = sigma * noise(2 * len(batch), seed=3, step=step).view(-1, 2)
                own.zero_grad()
                with injection.given(eps):
                    loss = cross_entropy(model(train[0][batch]), train[1][batch])
                if step == 0:
                    assert float(loss.detach()) == pytest.approx(
                        float(together.series["training_loss"][0, k]), rel=1e-5
                    )
                loss.backward()
                own.step()
                step += 1
        model.eval()
        # Batched and single matrix products round differently, which training carries on.
        for name, value in (
            ("noise_norm", injection.weight.norm()),
            ("next_norm", model[2].weight.norm()),
            ("test_loss", cross_entropy(model(test[0]), test[1])),
            ("train_loss", cross_entropy(model(train[0]), train[1])),
            ("test_accuracy", (model(test[0]).argmax(1) == test[1]).float().mean()),
        ):
            assert float(together.series[name][-1, k]) == pytest.approx(float(value.detach()), rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("optimizer", [None, lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)])
def test_a_scan_that_was_stopped_goes_on_bit_for_bit(tmp_path, optimizer):
    train, test = data()
    # The last network overflows on the way, so that the stack has shrunk when it is saved.
    arguments = (plan(sigmas=(0.1, 5.0, 1e5), epochs=6, records=12), cross_entropy, train, test)
    whole = scan(net(), *arguments, optimizer=optimizer)
    assert whole.phases[-1] == "divergent"
    file = tmp_path / "scan.pt"
    for stop in (1, 7, 17, None):
        stopped = scan(net(), *arguments, optimizer=optimizer, checkpoint=file, stop_after=stop)
    same(stopped, whole)
    same(scan(net(), *arguments, optimizer=optimizer, checkpoint=file), whole)  # there is nothing left to do


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    train, test = data()
    file = tmp_path / "scan.pt"
    scan(net(), plan(), cross_entropy, train, test, checkpoint=file, stop_after=2)
    for model, planned, examples in (
        (net(), plan(lr=0.2), train),
        (net(1), plan(), train),
        (net(), plan(), data(seed=1)[0]),
    ):
        with pytest.raises(CheckpointMismatch, match="another scan"):
            scan(model, planned, cross_entropy, examples, test, checkpoint=file)


def test_networks_do_not_disturb_each_other():
    train, test = data()
    alone = scan(net(), plan(sigmas=(5.0,)), cross_entropy, train, test)
    beside = scan(net(), plan(sigmas=(5.0, 1e6)), cross_entropy, train, test)
    assert beside.phases[1] == "divergent"
    torch.testing.assert_close(alone.series["test_loss"][:, 0], beside.series["test_loss"][:, 0], rtol=1e-4, atol=1e-5)


def test_when_all_have_died_the_rest_costs_nothing():
    train, test = data()
    diagram = scan(net(), plan(sigmas=(1e8, 1e9), epochs=20), cross_entropy, train, test)
    assert diagram.phases == ["divergent", "divergent"] and int(diagram.steps[-1]) == 80
    assert torch.isnan(diagram.series["noise_norm"][-1]).all()


def test_at_once_bounds_memory_and_changes_nothing():
    train, test = data()
    one, other = (scan(net(), plan(), cross_entropy, train, test, at_once=k) for k in (None, 2))
    torch.testing.assert_close(one.series["test_loss"], other.series["test_loss"], rtol=1e-4, atol=1e-5)


def test_batch_normalisation_keeps_statistics_for_each_network():
    train, test = data()
    start = net(0, nn.BatchNorm1d(32), nn.Dropout(0.1))
    before = copy.deepcopy(start.state_dict())
    diagram = scan(start, plan(sigmas=(0.1, 100.0), epochs=10), cross_entropy, train, test)
    assert torch.isfinite(diagram.series["test_loss"]).all()
    # Sharing statistics the weakest would fare like the strongest.
    assert float(diagram.series["test_accuracy"][-1, 0]) > float(diagram.series["test_accuracy"][-1, -1]) + 0.15
    for name, value in start.state_dict().items():
        assert torch.equal(value, before[name])


def test_regression_and_one_hot_targets():
    (x, y), (x_test, y_test) = data()
    rows = scan(net(), plan(), mse_loss, (x, one_hot(y, 5).float()), (x_test, one_hot(y_test, 5).float()))
    assert 0 < float(rows.series["test_accuracy"][-1, 0]) <= 1
    numbers = scan(net(), plan(), lambda out, wanted: mse_loss(out[:, 0], wanted), (x, x[:, 0]), (x_test, x_test[:, 0]))
    assert torch.isnan(numbers.series["test_accuracy"]).all()


def test_probe_finds_four_phases_of_a_small_network():
    train, test = data(500)
    diagram = probe(net(), "0", 3.0, train, test, lr=0.1, epochs=20, batch_size=50, next_layer="2", progress=False)
    assert list(dict.fromkeys(diagram.phases)) == ["decoupled", "decay", "catapult", "divergent"]
    assert len(diagram.sigmas) == 13 + 4 and list(diagram.sigmas) == sorted(diagram.sigmas)
    assert "Your sigma 3" in diagram.describe(3.0)


def test_bad_arguments():
    train, test = data()
    with pytest.raises(ValueError, match="sigmas must be"):
        plan(sigmas=())
    with pytest.raises(ValueError, match="epochs must be 1"):
        plan(epochs=0)
    with pytest.raises(KeyError, match="next_layer 'head'"):
        scan(net(), plan(next_layer="head"), cross_entropy, train, test)
    with pytest.raises(ValueError, match="200 training inputs, 199 targets"):
        scan(net(), plan(), cross_entropy, (train[0], train[1][1:]), test)
    with pytest.raises(ValueError, match="factors rise"):
        probe(net(), "0", 1.0, train, test, factors=(2.0, 1.0))
    with pytest.raises(ValueError, match="networks must be 2"):
        probe(net(), "0", 1.0, train, test, networks=1)


def test_a_recorder_beside_a_users_own_loop(tmp_path):
    import json

    (x, y), test = data(500)
    model = net()
    torch.manual_seed(0)
    injection = NoiseInjection(model, "0", sigma=10.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = Recorder(model, injection, cross_entropy, next_layer="2", lr=0.1)
    step = 0
    for _ in range(15):
        for batch in torch.randperm(500).split(50):
            if step % 10 == 0:
                state, gradients = torch.get_rng_state(), [parameter.grad for parameter in model.parameters()]
                recorder.record(step, (x, y), test, node=step % 50 == 0)
                assert torch.equal(torch.get_rng_state(), state) and model.training
                assert all(parameter.grad is grad for parameter, grad in zip(model.parameters(), gradients))
            optimizer.zero_grad()
            cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            step += 1
    assert recorder.phase() == "decay"
    times = recorder.decay_times()
    assert 0 < times["noise"].tau and 0 < times["train loss"].tau
    recorder.save(tmp_path / "run.json")
    series = json.loads((tmp_path / "run.json").read_text())
    assert series["hessian_trace"][0] > 0 and series["hessian_trace"][1] is None
    assert series["local_gradient"][0] > 0 and series["update_residual"][0] > 0 and series["hessian_share"][0] > 0
    assert series["test_accuracy"][-1] > series["test_accuracy"][0]
    with pytest.raises(KeyError, match="next_layer 'x'"):
        Recorder(model, injection, cross_entropy, next_layer="x")


def test_without_tqdm_there_is_no_bar_and_nothing_else_is_missing(monkeypatch):
    from nvrm_fast.probe import progress

    train, test = data()
    with_bar = scan(net(), plan(), cross_entropy, train, test)
    monkeypatch.setattr(progress, "tqdm", None)
    same(scan(net(), plan(), cross_entropy, train, test), with_bar)
