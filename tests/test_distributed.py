"""Two real processes (torchrun, gloo, one thread each) against one: same gradients, same parameters, one run that changes its number of processes."""
import os
import subprocess
import sys
from itertools import count, islice
from pathlib import Path

import pytest
import torch

from esrdgan import distributed
from esrdgan.discriminator import UNetDiscriminator, VGGDiscriminator
from esrdgan.cli import whole_report
from esrdgan.distributed import accelerator, everyone, leave, same_start, together, world
from esrdgan.features import edge_vgg16_small
from esrdgan.generator import RRDBNet
from esrdgan.image import Picture, list_pictures, write_picture
from esrdgan.inference import FolderReport, upscale_folder
from esrdgan.losses import ADVERSARIAL, RELATIVISTIC_AVERAGE
from esrdgan.state import State, TrainingError, load, resume, save
from esrdgan.train import Settings, DistContext, train
from esrdgan.tricks import Tricks

HERE = Path(__file__).parent
DISCRIMINATORS = dict(none=lambda: VGGDiscriminator(4, 32, norm="none", n_head=8), instance=lambda: VGGDiscriminator(4, 32, norm="instance", n_head=8),
                      batch=lambda: VGGDiscriminator(4, 32, norm="batch", n_head=8), unet=lambda: UNetDiscriminator(4))
CASES = {name: (name, "none") for name in ADVERSARIAL} | {"instance norm": ("relativistic_average", "instance"), "unet": ("relativistic_average", "unet")}
TRICKS = Tricks(label_noise=.05, smooth_real=.1, flip=.1, instance_noise=.1, lr_noise=.02, ema=.9, clip=10.)
RECIPE = Settings(100, 1e-3, 1e-3, pixel_weight=1., perceptual_weight=.5, adversarial_weight=.1, r1=1., r2=.5, tricks=TRICKS)
EPS = 1e-3      # of Adam. A bias that the loss cannot see (before an instance norm, at the end of a relative D) has a gradient of nothing but rounding; eps 1e-8 would make whole steps of it


pytestmark = pytest.mark.usefixtures("one_thread")


def make(case, seed=0):
    adversarial, d = CASES.get(case, ("relativistic_average", "batch"))
    torch.manual_seed(seed)
    state = State(RRDBNet(8, 1, 4), DISCRIMINATORS[d](), edge_vgg16_small(), adversarial=ADVERSARIAL[adversarial], seed=3)
    for optimiser in (state.opt_g, state.opt_d): optimiser.param_groups[0]["eps"] = EPS
    return state


def batches(world, start=0):
    "Four samples of unlike brightness, so that half a batch has another mean than the whole."
    mine = slice(world.rank * 4 // world.size, (world.rank + 1) * 4 // world.size)
    for k in count(start):
        draw = torch.Generator().manual_seed(k)
        level = torch.rand(4, 1, 1, 1, generator=draw)
        yield tuple((level * torch.rand(4, 3, n, n, generator=draw))[mine] for n in (8, 32))


def advance(state, steps, world=DistContext()):
    return [(log.losses, log.values) for log in islice(train(state, batches(world, state.step), RECIPE, world), steps)]


def numbers(state):
    return {f"{who} {name}": p.detach().clone() for who in ("generator", "discriminator", "ema") for name, p in getattr(state, who).named_parameters()}


def gradients(state):
    "Of both players: after a step, D's are still those of its own turn."
    return {f"{who} {name}": p.grad.clone() for who in ("generator", "discriminator") for name, p in getattr(state, who).named_parameters()}


def far(a, b):
    "Largest difference of two dictionaries of tensors."
    assert a.keys() == b.keys()
    return max((a[k] - b[k]).abs().max().item() for k in a)


def train_case(case, world):
    state = make(case, seed=world.rank)         # the others begin with other weights, so that same_start has work to do
    same_start(state, world)
    first = advance(state, 1, world)
    result = dict(gradients=gradients(state))
    return result | dict(logs=first + advance(state, 2, world), numbers=numbers(state)), state


class Bicubic(torch.nn.Module):
    scale = 2

    def __init__(self): super().__init__(); self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x): return torch.nn.functional.interpolate(x, scale_factor=2, mode="bicubic")


def child(folder):
    "What each of the two processes does; what it found goes into a file of its own."
    alone = torch.get_num_threads()
    found = accelerator(cpu=True)
    fair = torch.get_num_threads()
    here = world(accelerator(cpu=True, threads=1))
    result = dict(rank=here.rank, size=here.size, alone=alone, fair=fair, threads=torch.get_num_threads(), device=found.device.type)
    x = torch.tensor([1., 2.]) + 10 * here.rank
    x.requires_grad_()
    y = here.mean(x)
    (y * (here.rank + 1)).backward()
    result |= dict(mean=y.item(), mean_gradient=x.grad.tolist(), everyone=everyone({"rank": here.rank}, here))
    for case in [*CASES, "batch norm"]: result[case], _ = train_case(case, here)
    _, state = train_case("vanilla", here)
    if here.rank == 0: save(state, folder / "by_two" / "step_00000003.pt")
    state = make("vanilla", seed=5 + here.rank)
    if here.rank == 0: resume(state, folder / "by_one")                     # only process 0 reads
    same_start(state, here)
    result |= dict(resumed=state.step, resumed_logs=advance(state, 3, here), resumed_numbers=numbers(state))
    pictures = list_pictures(folder / "in")
    report = upscale_folder(Bicubic(), pictures, folder / "out", part=(here.rank, here.size))
    result |= dict(report=report, whole=whole_report(report, here))
    poisoned = make("vanilla")
    stream = ((lr, hr * (float("nan") if here.rank else 1)) for lr, hr in batches(here))     # one process alone meets a NaN
    try: next(train(poisoned, stream, RECIPE, here))
    except TrainingError as error: result["error"] = str(error)
    wrong = make("vanilla") if here.rank == 0 else make("unet")
    try: same_start(wrong, here)
    except TrainingError as error: result["wrong"] = str(error)
    torch.save(result, folder / f"{here.rank}.pt")
    leave(found)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "What the two processes found."
    folder = tmp_path_factory.mktemp("two")
    state = make("vanilla")
    advance(state, 3)
    save(state, folder / "by_one" / "step_00000003.pt")
    (folder / "in").mkdir()
    for name in ("cat.png", "cat.jpg", "dog.png", "cat_jpg.png", "emu.png"): write_picture(Picture(torch.rand(3, 20, 20)), folder / "in" / name)
    (folder / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    script = folder / "child.py"
    script.write_text(f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {str(HERE)!r})\nimport test_distributed\n"
                      "test_distributed.child(Path(__file__).parent)\n", encoding="utf-8")
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | dict(PYTHONPATH=str(HERE.parent))
    if sys.platform == "linux": env["GLOO_SOCKET_IFNAME"] = "lo"
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)],
                          env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one():
    "The same cases in this process."
    return {case: train_case(case, DistContext())[0] for case in [*CASES, "batch norm"]}


def test_torchrun_starts_two_and_leaves_them_one_thread(two):
    for rank, found in enumerate(two[1]):
        assert (found["rank"], found["size"], found["device"]) == (rank, 2, "cpu")
        assert found["alone"] == 1 and found["threads"] == 1
        assert found["fair"] == max(1, len(os.sched_getaffinity(0)) // 2 if hasattr(os, "sched_getaffinity") else os.cpu_count() // 2)


def test_mean_over_processes_and_its_gradient(two):
    "Loss 1 * mean in process 0 and 2 * mean in process 1: each of the four numbers gets (1 + 2) / 4."
    for found in two[1]:
        assert found["mean"] == 6.5 and found["mean_gradient"] == [.75, .75]
        assert found["everyone"] == [{"rank": 0}, {"rank": 1}]


@pytest.mark.parametrize("case", CASES)
def test_two_half_batches_give_the_gradients_of_the_whole(two, one, case):
    whole = one[case]["gradients"]
    assert sum(g.abs().max() > 1e-3 for g in whole.values()) > len(whole) / 4     # there is something to compare
    for found in two[1]: assert far(found[case]["gradients"], whole) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_three_steps_end_at_the_same_parameters_and_tell_the_same(two, one, case):
    for found in two[1]: assert far(found[case]["numbers"], one[case]["numbers"]) < 1e-5
    for mine, alone in zip(two[1][0][case]["logs"], one[case]["logs"]):
        for said, expected in zip(mine, alone): assert said == pytest.approx(expected, rel=1e-4, abs=3e-5)
    assert len(two[1][0][case]["logs"]) == 3


@pytest.mark.parametrize("case", [*CASES, "batch norm"])
def test_both_processes_hold_the_same_bits(two, case):
    a, b = (found[case] for found in two[1])
    assert far(a["numbers"], b["numbers"]) == 0 and far(a["gradients"], b["gradients"]) == 0 and a["logs"] == b["logs"]


def test_batch_norm_is_the_exception(two, one):
    "Each process normalises with its own half: the gradient is another, still the same in both processes."
    assert far(two[1][0]["batch norm"]["gradients"], one["batch norm"]["gradients"]) > 1e-3


def test_a_mean_over_the_half_alone_would_be_caught(one):
    "The threshold can fail: average the gradients of two halves, each with its own mean logits."
    case, found = "relativistic_average", []
    for rank in (0, 1):
        state = make(case)
        advance(state, 1, DistContext(rank, 2))
        found.append(gradients(state))
    averaged = {k: (found[0][k] + found[1][k]) / 2 for k in found[0]}
    assert far(averaged, one[case]["gradients"]) > 1e-4


def test_one_continues_what_two_began_and_two_what_one_began(two):
    folder, found = two
    six = make("vanilla")
    logs = advance(six, 6)
    state = make("vanilla", seed=9)
    assert resume(state, folder / "by_two") and state.step == 3
    advance(state, 3)
    assert far(numbers(state), numbers(six)) < 1e-5
    for f in found:
        assert f["resumed"] == 3 and far(f["resumed_numbers"], numbers(six)) < 1e-5
        for said, expected in zip(f["resumed_logs"], logs[3:]):
            for a, b in zip(said, expected): assert a == pytest.approx(b, rel=1e-4, abs=3e-5)


def test_a_nan_in_one_process_stops_both_with_the_same_line(two):
    a, b = (found["error"] for found in two[1])
    assert a == b and "step 1:" in a


def test_networks_that_differ_are_named(two):
    assert "wrong" not in two[1][0] and "its discriminator does not fit" in two[1][1]["wrong"]


def test_a_folder_is_shared_and_names_are_chosen_with_all_in_view(two, tmp_path):
    folder, found = two
    whole = upscale_folder(Bicubic(), list_pictures(folder / "in"), tmp_path)
    assert {p.name for p in (folder / "out").iterdir()} == {p.name for p in tmp_path.iterdir()} == {p.name for p in whole.done}
    shares = [f["report"] for f in found]
    assert [len(s.done) + len(s.failed) for s in shares] == [3, 3] and not {*shares[0].done} & {*shares[1].done}
    for f in found:
        assert sorted(p.name for p in f["whole"].done) == sorted(p.name for p in whole.done)
        assert [p.name for p, _ in f["whole"].failed] == ["broken.png"] and f["whole"].skipped == []


# Alone

def test_alone_there_is_nothing_to_average_or_wait_for():
    found = accelerator(cpu=True)
    assert found.num_processes == 1 and found.is_main_process and torch.get_num_threads() == 1
    here = world(found)
    assert (here.rank, here.size, here.mean) == (0, 1, torch.mean)
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.tensor([1., 2.])
    assert here.average([p]) is None and p.grad.tolist() == [1., 2.]
    assert everyone("me", here) == ["me"]
    report = FolderReport([Path("a")], [], [(Path("b"), "why")])
    assert whole_report(report, here) == report
    state = make("vanilla")
    before = numbers(state)
    same_start(state, here)
    assert far(numbers(state), before) == 0


def test_threads_asked_for_are_given():
    try:
        accelerator(cpu=True, threads=2)
        assert torch.get_num_threads() == 2
    finally: torch.set_num_threads(1)


def test_without_accelerate_there_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ValueError, match=r"accelerate is missing: pip install"):
        accelerator()


@pytest.mark.parametrize("cores, processes, each", [(8, 2, 4), (7, 2, 3), (2, 4, 1), (5, None, 5)])
def test_fair_threads(monkeypatch, cores, processes, each):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes: monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert distributed._fair_threads() == each


def test_several_processes_choose_their_own_gpus(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="'cuda:1'.*choose cuda"):
        with together("cuda:1"): pass


def test_alone_nothing_has_to_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with together() as here: assert (here.rank, here.size) == (0, 1)
    with pytest.raises(ValueError, match="pip install"): accelerator()


def test_processes_wait_for_each_other_only_after_an_interrupt_they_agreed_on(monkeypatch):
    left = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "accelerator", lambda cpu, threads: "found")
    monkeypatch.setattr(distributed, "world", lambda found: DistContext(0, 2))
    monkeypatch.setattr(distributed, "leave", left.append)
    with together(): pass
    assert left == ["found"]
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
        with together(): raise KeyboardInterrupt("stopped after step 3")
    assert left == ["found", "found"]
    with pytest.raises(KeyboardInterrupt):          # pressed in the middle of something: the other may wait in another message
        with together(): raise KeyboardInterrupt
    assert left == ["found", "found"]
