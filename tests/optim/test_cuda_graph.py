"""A captured training step on a GPU: every replay draws fresh noise and counts on."""

import pytest
import torch

from nvrm_fast import NVRMSGD, NVRMAdamW

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("cls, options", [(NVRMSGD, dict(lr=0.1, momentum=0.9)), (NVRMAdamW, {})])
@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("draws", ["independent", "cycle"])
def test_replays_are_steps(cls, options, masters, draws):
    left = []
    for captured in (False, True):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(size, device="cuda")) for size in ((300,), (33, 65))]
        optimizer = cls(params, variability=0.05, draws=draws, master_weights=masters, capturable=True, **options)
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()  # makes the state: from here on a step is the same work every time
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step()
            step = graph.replay
        else:
            step = optimizer.step
        for i in range(5):
            for p in params:
                p.grad.fill_(0.1 * i)
            step()
        noisy = [p.detach().clone() for p in params]
        optimizer.denoise()
        assert int(optimizer.state[params[0]]["step"]) == 6
        left.append(noisy + [p.detach().clone() for p in params])
    assert all(torch.equal(a, b) for a, b in zip(*left))


def test_a_first_step_in_a_real_capture_is_refused():
    """test_capture.py has every refusal, with a faked capture."""
    param = torch.nn.Parameter(torch.ones(300, device="cuda"))
    optimizer = NVRMSGD([param], lr=0.1, momentum=0.9, capturable=True)
    param.grad = torch.ones_like(param)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        with pytest.raises(RuntimeError, match="makes state for parameter"):
            optimizer.step()
        param.grad.add_(1)  # a capture of nothing would warn
    assert not optimizer.state[param] and (param == 1).all()
