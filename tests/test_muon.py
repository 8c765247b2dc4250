"""Muon against PyTorch's, and against the polynomial applied to singular values."""
import copy

import pytest
import torch
from torch import nn

from esrdgan.generator import RRDBNet
from esrdgan.muon import Muon, orthogonalize
from esrdgan.state import State, TrainingError, load, save


def by_svd(m, steps=5):
    u, s, vt = torch.linalg.svd(m / m.norm(), full_matrices=False)
    for _ in range(steps): s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ s.diag() @ vt


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (7, 7), (1, 9)])
def test_iteration_is_the_polynomial_of_the_singular_values(shape):
    torch.manual_seed(0)
    m = torch.randn(shape, dtype=torch.float64)
    for steps in (0, 1, 5, 8): assert torch.allclose(orthogonalize(m, steps), by_svd(m, steps), atol=1e-9)
    assert torch.allclose(orthogonalize(m.float()).double(), by_svd(m), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_few_bits_do_not_explode(dtype, autocast):
    "One strong direction, and one alone: rounding makes tiny negative eigenvalues, which each round multiplies by twelve."
    torch.manual_seed(0)
    thin = torch.outer(torch.randn(64), torch.randn(576))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for m in (thin, thin + .01 * torch.randn(64, 576)):
            even = orthogonalize((m / m.norm()).to(dtype))
            assert even.dtype == dtype and torch.linalg.svdvals(even.float()).max() < 1.3


def test_a_stack_is_done_one_by_one():
    torch.manual_seed(0)
    m = torch.randn(4, 6, 30)
    assert torch.allclose(orthogonalize(m), torch.stack([orthogonalize(x) for x in m]), atol=1e-6)


def gradients(net, seed):
    draw = torch.Generator().manual_seed(seed)
    for p in net.parameters(): p.grad = torch.randn(p.shape, generator=draw)


def test_ten_steps_are_pytorchs(monkeypatch):
    "With one iteration in both, what remains is momentum, Nesterov's look ahead, the length of the step, and Adam."
    module = pytest.importorskip("torch.optim._muon", reason="PyTorch has Muon since 2.9")
    monkeypatch.setattr(module, "_zeropower_via_newtonschulz", lambda m, coefficients, steps, eps: orthogonalize(m, steps))
    torch.manual_seed(0)
    net = RRDBNet(8, 1, 4)
    other = copy.deepcopy(net)
    ours = Muon(net.parameters(), lr=.01, betas=(.8, .97))
    names = [n for n, p in other.named_parameters() if p.ndim > 1][1:-1]
    assert names[0].startswith("body.0") and names[-1] == "conv_hr.weight"
    matrices = [p for n, p in other.named_parameters() if n in names]
    flat = [nn.Parameter(p.detach().flatten(1)) for p in matrices]
    muon = torch.optim.Muon(flat, lr=.01, weight_decay=0., momentum=.95, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.Adam([p for n, p in other.named_parameters() if n not in names], lr=.01, betas=(.8, .97))
    for step in range(10):
        for group in (*ours.param_groups, *muon.param_groups, *adam.param_groups): group["lr"] = .01 / (step + 1)
        for n in (net, other): gradients(n, step)
        for p, f in zip(matrices, flat): f.grad = p.grad.flatten(1)
        ours.step(); muon.step(); adam.step()
        with torch.no_grad():
            for p, f in zip(matrices, flat): p.copy_(f.view(p.shape))
    for (name, a), b in zip(net.named_parameters(), other.parameters()): assert torch.allclose(a, b, atol=2e-6), name


def test_memory_layout_makes_no_difference():
    torch.manual_seed(0)
    net = RRDBNet(8, 1, 4)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    for n in (net, last):
        optimiser = Muon(n.parameters())
        for step in range(3): gradients(n, step); optimiser.step()
    for a, b in zip(net.parameters(), last.parameters()): assert torch.allclose(a, b, atol=1e-7)


def test_parameters_without_a_gradient_rest():
    net = RRDBNet(8, 1, 4)
    before = copy.deepcopy(net.state_dict())
    net.conv_hr.weight.grad = torch.randn_like(net.conv_hr.weight)
    Muon(net.parameters()).step()
    assert [k for k, v in net.state_dict().items() if not torch.equal(v, before[k])] == ["conv_hr.weight"]


def test_a_group_that_is_added_gets_adam():
    net, more = RRDBNet(8, 1, 4), nn.Parameter(torch.ones(3))
    optimiser = Muon(net.parameters(), lr=.1)
    optimiser.add_param_group({"params": [more]})
    more.grad = torch.ones(3)
    optimiser.step()
    assert torch.allclose(more, torch.full((3,), .9))


def test_too_few_convolutions():
    with pytest.raises(ValueError, match="between the first and the last"): Muon(nn.Conv2d(3, 3, 3).parameters())


def test_a_checkpoint_carries_it(tmp_path):
    def fresh(seed, optimizer=Muon):
        torch.manual_seed(seed)
        return State(RRDBNet(8, 1, 4), optimizer=optimizer)
    one, two = fresh(0), fresh(1)
    for step in range(2): gradients(one.generator, step); one.opt_g.step()
    save(one, tmp_path / "a.pt"); load(two, tmp_path / "a.pt")
    for s in (one, two): gradients(s.generator, 9); s.opt_g.step()
    assert all(torch.equal(a, b) for a, b in zip(one.generator.parameters(), two.generator.parameters()))
    with pytest.raises(TrainingError, match="opt_g does not fit"): load(fresh(2, torch.optim.Adam), tmp_path / "a.pt")
