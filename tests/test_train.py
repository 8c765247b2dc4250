"""The loop: continues to the bit in a new process, names the term that breaks, keeps each player's gradients to itself."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import esrdgan.train
from esrdgan.data import Pairs, batches
from esrdgan.discriminator import UNetDiscriminator, VGGDiscriminator
from esrdgan.features import edge_vgg16_small
from esrdgan.generator import RRDBNet
from esrdgan.losses import RELATIVISTIC_AVERAGE, VANILLA, Adversarial, l1
from esrdgan.resize import imresize
from esrdgan.state import State, TrainingError, save_checkpoint, resume, save
from esrdgan.state import load as load_state
from esrdgan.train import Settings, DistContext, d_step, g_step, set_rates, train
from esrdgan.tricks import Tricks
from test_state import fingerprint, random_batches, same

HERE = Path(__file__).parent

pytestmark = pytest.mark.usefixtures("one_thread")


SCHEDULES = dict(multistep=dict(schedule="multistep", milestones=(2, 5)), cosine=dict(schedule="cosine"))
KINDS = {"vgg, batch norm, fp32": ("vgg", RELATIVISTIC_AVERAGE, torch.float32, "multistep"),
         "unet, spectral norm, bf16": ("unet", VANILLA, torch.bfloat16, "cosine")}


def make(kind, seed=0, features=True):
    which, adversarial, precision, _ = KINDS[kind]
    torch.manual_seed(seed)
    d = VGGDiscriminator(8, 32) if which == "vgg" else UNetDiscriminator(8)
    return State(RRDBNet(8, 1, 4), d, edge_vgg16_small() if features else None, adversarial=adversarial, seed=11, precision=precision)


def everything(kind):
    "Every trick and every term at once."
    tricks = Tricks(label_noise=.05, smooth_real=.1, smooth_fake=.05, flip=.1, instance_noise=.1, instance_noise_steps=8, lr_noise=.02,
                    d_steps=2, ema=.9, clip=1., warmup=3, **SCHEDULES[KINDS[kind][3]])
    return Settings(6, 1e-3, 1e-3, pixel_weight=.1, perceptual_weight=1., adversarial_weight=.05, r1=1., r2=1., tricks=tricks)


def run(kind, state, steps, cache):
    "Some steps on real pictures, in the order that the data module gives; what was logged, exactly."
    pictures = [HERE.parent / "data" / "train" / f"{n}.jpg" for n in ("boats1", "brick", "clock")]
    stream = batches(Pairs(pictures, patch=32, cache=cache), 2, state.seed, state.step)
    return [[log.step, log.losses, log.values] for _, log in zip(range(steps), train(state, stream, everything(kind)))]


def child(kind, path, cache):
    torch.set_num_threads(1)
    state = make(kind, seed=5)                          # other weights than the first process had
    load_state(state, path)
    logs = run(kind, state, 3, cache)
    save(state, Path(path).with_name("6.pt"))
    print(json.dumps(logs))


@pytest.mark.parametrize("kind", KINDS)
def test_six_steps_are_three_and_three_in_a_new_process(tmp_path, kind):
    whole, first = make(kind), make(kind)
    logs = run(kind, whole, 6, tmp_path)
    early = run(kind, first, 3, tmp_path)
    save(first, tmp_path / "3.pt")
    call = f"import test_train; test_train.child({kind!r}, {str(tmp_path / '3.pt')!r}, {str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", call], cwd=HERE, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(json.dumps(logs)) == json.loads(json.dumps(early)) + json.loads(done.stdout)      # JSON keeps every bit of a float
    second = make(kind, seed=7)
    load_state(second, tmp_path / "6.pt")
    assert same(fingerprint(whole), fingerprint(second))
    assert [set(l[1]) for l in logs] == [{"adversarial_d", "r1", "r2"}, {"adversarial_d", "r1", "r2", "pixel", "perceptual", "adversarial_g"}] * 3
    asked = {"sr_pixel", "sr_perceptual", "sr_adversarial_g"}
    assert {"rate_g", "rate_d", "red", "green", "blue", "d_real", "d_fake", "noise_d", "gradient_d", "gradient_g"} | asked == set(logs[-1][2])


def small(**kw):
    torch.manual_seed(0)
    return State(RRDBNet(8, 1, 4), VGGDiscriminator(4, 32, n_head=8), **kw)


class Broken:
    "Passes a loss on and breaks it from the third call."
    def __init__(self, loss): self.loss, self.calls = loss, 0

    def __call__(self, *args):
        self.calls += 1
        return self.loss(*args) * (float("nan") if self.calls >= 3 else 1)


class Features:
    weights = [1.]

    def __call__(self, x): return [x.square()]


def plant(state, term, monkeypatch):
    if term == "pixel": state.pixel = Broken(l1)
    if term == "perceptual": monkeypatch.setattr(esrdgan.train, "perceptual", Broken(esrdgan.train.perceptual))
    if term == "adversarial_d": state.adversarial = Adversarial(Broken(RELATIVISTIC_AVERAGE.d), RELATIVISTIC_AVERAGE.g)
    if term == "adversarial_g": state.adversarial = Adversarial(RELATIVISTIC_AVERAGE.d, Broken(RELATIVISTIC_AVERAGE.g))
    if term in ("r1", "r2"): monkeypatch.setattr(esrdgan.train, term, Broken(getattr(esrdgan.train, term)))


ALL = dict(pixel_weight=1., perceptual_weight=1., adversarial_weight=.01, r1=1., r2=1.)


@pytest.mark.parametrize("term", ["pixel", "perceptual", "adversarial_g", "adversarial_d", "r1", "r2"])
def test_a_nan_stops_the_run_with_its_name(tmp_path, monkeypatch, term):
    state = small(features=Features())
    plant(state, term, monkeypatch)
    with pytest.raises(TrainingError, match=f"^step 3: the {term} loss is nan"):
        for _ in train(state, random_batches(), Settings(**ALL)): save_checkpoint(state, tmp_path)
    for network in (*state.networks, state.ema):
        assert all(x.isfinite().all() for x in network.state_dict().values())
        assert all(p.requires_grad for p in network.parameters()) or network is state.ema
    monkeypatch.undo()
    again = small(features=Features())
    assert resume(again, tmp_path).name == "step_00000002.pt" and again.step == 2
    assert next(train(again, random_batches(2), Settings(**ALL))).step == 3


def test_a_gradient_or_a_picture_that_is_no_number_stops_it_too():
    class Root(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x): return x.sum() * 0
        @staticmethod
        def backward(ctx, g): return torch.full((2, 3, 32, 32), float("inf"))
    state = small(pixel=lambda sr, hr: Root.apply(sr))
    before = [p.clone() for p in state.generator.parameters()]
    with pytest.raises(TrainingError, match="^step 1: the gradient of the generator is (nan|inf)"): next(train(state, random_batches(), Settings()))
    assert same(before, list(state.generator.parameters())) and not state.opt_g.state
    state = small()
    with torch.no_grad(): state.generator.conv_last.bias[1] = float("nan")
    buffers = [b.clone() for b in state.discriminator.buffers()]
    with pytest.raises(TrainingError, match="^step 1: the mean of sr - hr in green is nan"): next(train(state, random_batches(), Settings(adversarial_weight=1.)))
    assert all(torch.equal(a, b) for a, b in zip(buffers, state.discriminator.buffers()))        # D was never shown it


def a_batch():
    lr, hr = next(random_batches())
    return lr, hr


def test_the_step_of_g_leaves_no_trace_in_d():
    state, (lr, hr) = small(), a_batch()
    d_step(state, hr, state.generator(lr).detach(), Settings(**ALL))
    gradients = [p.grad.clone() for p in state.discriminator.parameters()]
    weights = [p.detach().clone() for p in state.discriminator.parameters()]
    state.discriminator.features[0][0].bias.requires_grad_(False)            # frozen by the user: stays so
    wanted = [p.requires_grad for p in state.discriminator.parameters()]
    g_step(state, hr, state.generator(lr), Settings(adversarial_weight=1.))
    assert all(torch.equal(p.grad, g) for p, g in zip(state.discriminator.parameters(), gradients))
    assert all(torch.equal(p, w) for p, w in zip(state.discriminator.parameters(), weights))
    assert [p.requires_grad for p in state.discriminator.parameters()] == wanted and not all(wanted)

    def fails(x): assert not any(p.requires_grad for p in state.discriminator.parameters()); raise RuntimeError("out of memory")
    state.discriminator.forward = fails
    with pytest.raises(RuntimeError, match="out of memory"): g_step(state, hr, state.generator(lr), Settings(adversarial_weight=1.))
    assert [p.requires_grad for p in state.discriminator.parameters()] == wanted


def test_the_gradient_of_g_is_that_of_its_weighted_sum():
    "Reference: one autograd call over the sum of the terms, written out."
    settings = Settings(pixel_weight=.5, perceptual_weight=2., consistency_weight=20., adversarial_weight=.1)
    state, (lr, hr) = small(features=Features()), a_batch()
    sr = state.generator(lr)
    d_real, d_fake = state.discriminator(hr), state.discriminator(sr)
    terms = dict(pixel=.5 * (sr - hr).abs().mean(), perceptual=2 * (sr**2 - hr**2).abs().mean(),
                 consistency=20 * (imresize(sr, 1 / 4) - imresize(hr, 1 / 4)).abs().mean(), adversarial_g=.1 * RELATIVISTIC_AVERAGE.g(d_real, d_fake))
    wanted = torch.autograd.grad(sum(terms.values()), list(state.generator.parameters()), retain_graph=True)
    asked = {name: torch.autograd.grad(term, sr, retain_graph=True)[0].norm().item() for name, term in terms.items()}
    losses, values = g_step(state, hr, state.generator(lr), settings)
    for p, g in zip(state.generator.parameters(), wanted): torch.testing.assert_close(p.grad, g, atol=1e-7, rtol=1e-4)
    assert values["gradient_g"] == pytest.approx(torch.stack([g.square().sum() for g in wanted]).sum().sqrt().item(), rel=1e-4)
    assert losses["pixel"] == pytest.approx((sr - hr).abs().mean().item(), rel=1e-5)
    assert {name: values[f"sr_{name}"] for name in terms} == {name: pytest.approx(norm, rel=1e-3) for name, norm in asked.items()}


def test_a_term_that_g_cannot_move_asks_for_nothing():
    "A loss cut off from SR by a misplaced detach: the others still move G, and the log says 0."
    state, (lr, hr) = small(), a_batch()
    state.adversarial = Adversarial(RELATIVISTIC_AVERAGE.d, lambda d_real, d_fake, mean: RELATIVISTIC_AVERAGE.g(d_real, d_fake.detach(), mean))
    _, values = g_step(state, hr, state.generator(lr), Settings(adversarial_weight=1.))
    assert values["sr_adversarial_g"] == 0 < values["sr_pixel"] and values["gradient_g"] > 0


def test_the_noise_that_d_sees_is_measured():
    state, (lr, hr) = small(), a_batch()
    sr = state.generator(lr).detach()
    for level in (.1, .5): assert d_step(state, hr, sr, Settings(adversarial_weight=1., tricks=Tricks(instance_noise=level)))[1]["noise_d"] == pytest.approx(level, rel=.1)
    assert "noise_d" not in d_step(state, hr, sr, Settings(adversarial_weight=1.))[1]


def test_the_gradient_of_d_is_that_of_its_terms_written_out():
    "Reference: binary cross entropy with labels 1 for real and 0 for generated, and half the squared gradient at each side, by autograd."
    torch.manual_seed(0)
    state = State(RRDBNet(8, 1, 4), VGGDiscriminator(4, 32, norm="none", n_head=8), adversarial=VANILLA)
    lr, hr = a_batch()
    sr, entropy = state.generator(lr).detach(), torch.nn.functional.binary_cross_entropy_with_logits
    def penalty(x):
        x = x.clone().requires_grad_()
        slope, = torch.autograd.grad(state.discriminator(x).sum(), x, create_graph=True)
        return slope.square().flatten(1).sum(1).mean() / 2
    d_real, d_fake = state.discriminator(hr), state.discriminator(sr)
    terms = dict(adversarial_d=entropy(d_real, torch.ones_like(d_real)) + entropy(d_fake, torch.zeros_like(d_fake)), r1=penalty(hr), r2=penalty(sr))
    wanted = torch.autograd.grad(terms["adversarial_d"] + 3 * terms["r1"] + 5 * terms["r2"], list(state.discriminator.parameters()))
    losses, values = d_step(state, hr, sr, Settings(adversarial_weight=1., r1=3., r2=5.))
    scale = max(g.abs().max().item() for g in wanted)            # float32 sums in another order: compared on the scale of the largest gradient
    for p, g in zip(state.discriminator.parameters(), wanted): torch.testing.assert_close(p.grad, g, atol=1e-4 * scale, rtol=1e-3)
    assert losses == {name: pytest.approx(x.item(), rel=1e-3) for name, x in terms.items()}
    assert (values["d_real"], values["d_fake"]) == (pytest.approx(d_real.mean().item(), rel=1e-3, abs=1e-4), pytest.approx(d_fake.mean().item(), rel=1e-3, abs=1e-4))


def test_both_players_see_the_noise_and_the_labels_are_the_right_way_round():
    said, shown, state = [], [], small()

    def d(d_real, d_fake, real, fake, mean): said.append((real, fake)); return RELATIVISTIC_AVERAGE.d(d_real, d_fake, real, fake, mean)
    state.adversarial = Adversarial(d, RELATIVISTIC_AVERAGE.g)
    state.discriminator.register_forward_pre_hook(lambda m, x: shown.append(x[0].detach().clone()))
    lr, hr = a_batch()
    sr = state.generator(lr)
    settings = Settings(adversarial_weight=1., tricks=Tricks(instance_noise=.5, smooth_real=.1, smooth_fake=.2))
    d_step(state, hr, sr.detach(), settings)
    g_step(state, hr, sr, settings)
    assert (said[0][0] == .9).all() and (said[0][1] == .2).all()
    assert len(shown) == 4                                      # real and generated, for D's step and for G's
    for seen, clean in zip(shown, (hr, sr.detach()) * 2): assert .4 < (seen - clean).std() < .6


def test_the_average_is_moved_by_its_decay():
    state, (lr, hr) = small(), a_batch()
    before = [p.clone() for p in state.ema.parameters()]
    g_step(state, hr, state.generator(lr), Settings(learning_rate=1e-2, tricks=Tricks(ema=.75)))
    moved = [(p - b).norm() for p, b in zip(state.ema.parameters(), before)]
    whole = [(p - b).norm() for p, b in zip(state.generator.parameters(), before)]
    assert sum(moved).item() == pytest.approx(.25 * sum(whole).item(), rel=1e-2)


def test_the_step_of_d_leaves_no_trace_in_g():
    state, (lr, hr) = small(), a_batch()
    sr = state.generator(lr)
    d_step(state, hr, sr.detach(), Settings(**ALL))
    assert all(p.grad is None for p in state.generator.parameters())


def test_a_step_of_d_alone_builds_no_graph_of_g():
    graphs, state = [], small()
    state.generator.register_forward_hook(lambda m, x, y: graphs.append(y.requires_grad))
    settings = Settings(steps=6, adversarial_weight=.01, tricks=Tricks(d_steps=3))
    logs = list(train(state, random_batches(), settings))
    assert graphs == [False, False, True] * 2
    assert ["pixel" in log.losses for log in logs] == graphs and all("adversarial_d" in log.losses for log in logs)


def test_real_logits_have_no_graph_in_the_step_of_g():
    seen = []

    def g(d_real, d_fake, mean): seen.append((d_real.requires_grad, d_fake.requires_grad)); return RELATIVISTIC_AVERAGE.g(d_real, d_fake, mean)
    state = small(adversarial=Adversarial(RELATIVISTIC_AVERAGE.d, g))
    next(train(state, random_batches(), Settings(adversarial_weight=1.)))
    assert seen == [(False, True)]


def test_train_gives_each_player_the_pictures_that_are_its_own():
    "One step of `train` against both players' steps written out: D learns from real pictures and G's, G through the D that has just learned."
    ours, theirs, (lr, hr) = small(), small(), next(iter(random_batches()))
    next(train(ours, [(lr, hr)], Settings(1, 1e-3, 1e-3, pixel_weight=.5, adversarial_weight=.1)))
    g, d = theirs.generator.train(), theirs.discriminator.train()
    sr = g(lr)
    for optimiser, loss in ((theirs.opt_d, lambda: theirs.adversarial.d(d(hr), d(sr.detach()))),
                            (theirs.opt_g, lambda: .5 * l1(sr, hr) + .1 * theirs.adversarial.g(d(hr).detach(), d(sr)))):
        optimiser.param_groups[0]["lr"] = 1e-3
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    for mine, yours in ((ours.discriminator, d), (ours.generator, g)):      # Adam's first step is a sign: what differs, differs by 1e-3 and more
        for a, b in zip(mine.parameters(), yours.parameters()):
            assert ((a - b).abs() < 1e-4).float().mean() > .9


def test_the_psnr_stage_lets_d_rest():
    state = small()
    before = fingerprint(state.__class__(state.discriminator))
    logs = list(train(state, random_batches(), Settings(steps=4, tricks=Tricks(d_steps=3))))
    assert [set(log.losses) for log in logs] == [{"pixel"}] * 4                  # and d_steps means nothing without D
    assert same(before, fingerprint(state.__class__(state.discriminator)))
    list(train(State(RRDBNet(8, 1, 4)), random_batches(), Settings(steps=1)))      # no D at all


def test_changed_settings_are_obeyed_at_the_next_step():
    state, settings = small(), Settings(steps=100, learning_rate=1e-3)
    loop = train(state, random_batches(), settings)
    assert next(loop).values["rate_g"] == 1e-3
    settings.learning_rate, settings.adversarial_weight, settings.r1 = 1e-4, .01, 1.
    log = next(loop)
    assert log.values["rate_g"] == 1e-4 == state.opt_g.param_groups[0]["lr"] and {"adversarial_g", "r1"} <= set(log.losses)
    settings.tricks = Tricks(d_steps=10)
    assert "pixel" not in next(loop).losses
    settings.steps = 3
    assert next(loop, None) is None and state.step == 3


def test_impossible_settings_are_named_before_the_step():
    state = State(RRDBNet(8, 1, 4))
    for kw, says in ((dict(adversarial_weight=.1), "adversarial_weight is 0.1, but State was given no discriminator"),
                     (dict(perceptual_weight=1.), "no features"), (dict(pixel_weight=0.), "nothing to learn")):
        with pytest.raises(TrainingError, match=says): next(train(state, random_batches(), Settings(**kw)))
    assert state.step == 0


def test_networks_are_in_training_mode_whatever_the_caller_did():
    state, modes = small(), []
    state.discriminator.register_forward_hook(lambda m, x, y: modes.append(m.training))
    for _ in train(state, random_batches(), Settings(steps=2, adversarial_weight=.1)): [n.eval() for n in state.networks]
    assert all(modes) and not state.ema.training and not any(p.requires_grad for p in state.ema.parameters())


def test_rates_clipping_and_the_average_of_several_processes():
    state, (lr, hr) = small(), a_batch()
    rates = set_rates(state, Settings(learning_rate=1., d_learning_rate=2., tricks=Tricks(warmup=4)))
    assert rates == {"rate_g": .25, "rate_d": .5} and state.opt_d.param_groups[0]["lr"] == .5
    seen = []

    def average(parameters):                                     # as if the others had found nothing
        for p in parameters: p.grad.mul_(.5)
        seen.append(torch.stack([p.grad.square().sum() for p in parameters]).sum().sqrt().item())
    world = DistContext(average=average)
    _, values = g_step(state, hr, state.generator(lr), Settings(learning_rate=0., tricks=Tricks(clip=1e-3)), world)
    assert values["gradient_g"] == pytest.approx(seen[0], rel=1e-5)              # logged as averaged, before the clip
    norm = torch.stack([p.grad.square().sum() for p in state.generator.parameters()]).sum().sqrt()
    assert norm <= 1.001e-3


def test_two_halves_draw_what_one_process_draws(monkeypatch):
    "Labels, instance noise and LR noise of two processes are the two halves of one's."
    tricks = Tricks(label_noise=.1, flip=.2, instance_noise=.1, lr_noise=.1)
    shown = {}
    for world, rows in ((DistContext(), slice(0, 4)), (DistContext(rank=0, size=2), slice(0, 2)), (DistContext(rank=1, size=2), slice(2, 4))):
        said, state = [], small()

        def d(d_real, d_fake, real, fake, mean): said.append((real, fake)); return VANILLA.d(d_real, d_fake, real, fake, mean)
        state.adversarial = Adversarial(d, VANILLA.g)
        state.generator.register_forward_hook(lambda m, x, y: said.append(x[0]))
        draw = torch.Generator().manual_seed(0)
        lr, hr = torch.rand(4, 3, 8, 8, generator=draw), torch.rand(4, 3, 32, 32, generator=draw)
        next(train(state, [(lr[rows], hr[rows])], Settings(adversarial_weight=.1, tricks=tricks), world))
        shown[world.size, world.rank] = said
    for i, whole in enumerate(shown[1, 0]):
        halves = shown[2, 0][i], shown[2, 1][i]
        if isinstance(whole, tuple): assert all(torch.equal(torch.cat(p), w) for p, w in zip(zip(*halves), whole))
        else: assert torch.equal(torch.cat(halves), whole)


HALF = torch.float16


def small_gan(precision, weight=1.):
    torch.manual_seed(3)
    state = State(RRDBNet(8, 1, 4), VGGDiscriminator(4, 32, norm="none", n_head=8), precision=precision)
    return state, Settings(20, 1e-3, 1e-3, pixel_weight=weight, adversarial_weight=.1 * weight)


def moved(precision, weight, steps):
    "How far each weight of G went, and the state."
    state, settings = small_gan(precision, weight)
    before = [p.detach().clone() for p in state.generator.parameters()]
    for _ in zip(range(steps), train(state, random_batches(), settings)): pass
    return torch.cat([(p.detach() - b).flatten() for p, b in zip(state.generator.parameters(), before)]), state


def test_float16_keeps_gradients_that_would_become_zero():
    "Losses so small that their gradients lie below float16's smallest number (6e-8): the scale brings them over, and both players go where float32 goes."
    ours, state = moved(HALF, 1e-6, 3)
    theirs, _ = moved(torch.float32, 1e-6, 3)
    assert state.scale_g.get_scale() == state.scale_d.get_scale() == 2.**16
    assert torch.cosine_similarity(ours, theirs, dim=0) > .9


def test_float16_logs_the_same_numbers():
    "What is logged is divided by the scale again: within 2%, what float16's eleven bits leave of a sum."
    (a, settings), (b, _) = small_gan(HALF), small_gan(torch.float32)
    for half, full in zip(train(a, random_batches(0, 1), settings), train(b, random_batches(0, 1), settings)):
        assert set(half.values) == set(full.values)
        for name in ("gradient_g", "gradient_d", "sr_pixel", "sr_adversarial_g"): assert half.values[name] == pytest.approx(full.values[name], rel=.02), name


def test_float16_a_step_that_overflows_is_skipped_and_the_scale_halved():
    state, settings = small_gan(HALF)
    for scale in (state.scale_g, state.scale_d): scale.load_state_dict(scale.state_dict() | dict(scale=2.**60))
    before = [p.detach().clone() for p in state.generator.parameters()]
    log = next(train(state, random_batches(), settings))
    assert "gradient_g" not in log.values and "gradient_d" not in log.values and state.step == 1
    assert all(torch.equal(p, b) for p, b in zip(state.generator.parameters(), before))
    assert state.scale_g.get_scale() == state.scale_d.get_scale() == 2.**59


def test_float16_a_gradient_that_is_not_finite_without_any_scale_ends_the_run():
    state, settings = small_gan(HALF)
    state.scale_g.load_state_dict(state.scale_g.state_dict() | dict(scale=1.))
    state.pixel = lambda sr, hr: (sr - hr).square().mean() + (sr * 0).sum().sqrt()      # finite, with an infinite slope
    with pytest.raises(TrainingError, match="the gradient of the generator is"): next(train(state, random_batches(), settings))


def test_float16_continues_to_the_bit_and_in_another_precision(tmp_path):
    whole, settings = small_gan(HALF)
    for scale in (whole.scale_g, whole.scale_d): scale.load_state_dict(scale.state_dict() | dict(scale=2.**20, growth_interval=2))
    for log in train(whole, random_batches(), settings):
        if log.step == 3: save(whole, tmp_path / "3.pt")
        if log.step == 6: break
    again, _ = small_gan(HALF)
    load_state(again, tmp_path / "3.pt")
    for log in train(again, random_batches(3), settings):
        if log.step == 6: break
    assert same(fingerprint(whole), fingerprint(again)) and whole.scale_g.state_dict() == again.scale_g.state_dict()
    other, _ = small_gan(torch.float32)
    load_state(other, tmp_path / "3.pt")
    assert other.step == 3 and not other.scale_g.is_enabled()
    save(other, tmp_path / "other.pt")
    load_state(again, tmp_path / "other.pt")
    assert again.step == 3
