"""Break the package on purpose, one small change at a time, and see whether a test notices.

    python tests/mutations.py                       every mutation (about ten minutes)
    python tests/mutations.py R2 EMA                those whose name or file contains one of the words
    python tests/mutations.py --from 20 --to 30     a part of the list
    python tests/mutations.py --baseline            the tests named below on the sound package: they must pass, or 'killed' means nothing

Each change is made in a copy of the package in a temporary folder; nothing in the tree is touched. A mutation that no test notices is printed
as SURVIVED, and the command ends with an error. One that changes nothing which can be observed has no business here. It needs fork, so not Windows. To add one: a name, the
module, a piece of its text that stands there exactly once, what takes its place, and the tests that should notice, chosen so that they take seconds.
"""
import argparse
import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis.strategies  # noqa: E402, F401   what the tests import, so that it is there after each fork
import matplotlib.figure  # noqa: E402, F401
import pytest  # noqa: E402
import torch.utils.data  # noqa: E402, F401
import torchvision  # noqa: E402, F401

ROOT = Path(__file__).resolve().parent.parent


class Mutation(NamedTuple):
    name: str
    module: str         # of esrdgan
    old: str            # stands in it exactly once
    new: str
    tests: str          # what pytest is given: files, and -k with words


LOSSES, TRICKS, TRAIN, STATE = "test_losses.py", "test_tricks.py", "test_train.py", "test_state.py"
MUTATIONS = [
    # the six that an earlier suite let live
    Mutation("labels of real and fake swapped", "train", "real_label, fake_label, world.mean)", "fake_label, real_label, world.mean)", f"{TRAIN} -k 'written_out or right_way_round'"),
    Mutation("the sign of D's loss", "train", "{'adversarial_d': (1., ", "{'adversarial_d': (-1., ", f"{TRAIN} -k written_out"),
    Mutation("R2 at real pictures", "train", "r2(state.discriminator, fake)", "r2(state.discriminator, real)", f"{TRAIN} -k written_out"),
    Mutation("no instance noise in G's step", "train", "\n        real, fake = _noisy(hr, sr, state, settings, world)", "\n        real, fake = hr, sr", f"{TRAIN} -k see_the_noise"),
    Mutation("the EMA's decay ignored", "train", "settings.tricks.ema)", "0.)", f"{TRAIN} -k moved_by_its_decay"),
    Mutation("the validator measures RGB, not cropped", "evaluate", "psnr(sr, hr, 'y', self.pairs.scale), far", "psnr(sr, hr, 'rgb', 0), far", "test_run.py -k measures_what"),
    # losses
    Mutation("L1 is a sum", "losses", "return (sr - hr).abs().mean()", "return (sr - hr).abs().sum()", f"{LOSSES} -k pixel_losses"),
    Mutation("L2 is L1", "losses", "return (sr - hr).square().mean()", "return (sr - hr).abs().mean()", f"{LOSSES} -k pixel_losses"),
    Mutation("Charbonnier without its square root", "losses", "+ eps**2).sqrt().mean()", "+ eps**2).mean()", f"{LOSSES} -k 'pixel_losses or charbonnier'"),
    Mutation("consistency compares whole pictures", "losses", "return l1(imresize(sr, 1 / scale), imresize(hr, 1 / scale))", "return l1(sr, hr)", f"{LOSSES} -k consistency"),
    Mutation("the perceptual loss forgets its weights", "losses", "return sum(w * distance(", "return sum(distance(", f"{LOSSES} -k perceptual"),
    Mutation("cross entropy counts the other label", "losses", "return label * F.softplus(-logits) + (1 - label)", "return label * F.softplus(logits) + (1 - label)", f"{LOSSES} -k cross_entropy"),
    Mutation("G's loss saturates", "losses", "return cross_entropy(d_fake, 1.).mean()", "return -cross_entropy(d_fake, 0.).mean()", f"{LOSSES} -k both_players"),
    Mutation("the saturating loss with the wrong sign", "losses", "return -cross_entropy(d_fake, 0.).mean()", "return cross_entropy(d_fake, 0.).mean()", f"{LOSSES} -k both_players"),
    Mutation("the relativistic D without its half", "losses", "cross_entropy(-relative, fake_label).mean()) / 2", "cross_entropy(-relative, fake_label).mean())", f"{LOSSES} -k both_players"),
    Mutation("the relativistic G the wrong way round", "losses", "cross_entropy(d_fake - d_real, 1.)", "cross_entropy(d_real - d_fake, 1.)", f"{LOSSES} -k both_players"),
    Mutation("the average loss forgets one average", "losses", "cross_entropy(d_real - mean(d_fake), real_label)", "cross_entropy(d_real, real_label)", f"{LOSSES} -k both_players"),
    Mutation("the penalty without its half", "losses", "gradient.square().flatten(1).sum(1).mean() / 2", "gradient.square().flatten(1).sum(1).mean()", f"{LOSSES} -k penalty"),
    Mutation("the penalty has no graph into D", "losses", "create_graph=True", "create_graph=False", f"{LOSSES} -k penalty"),
    # tricks
    Mutation("instance noise never decays", "tricks", "done = min(step / tricks.instance_noise_steps, 1)", "done = 0", f"{TRICKS} -k instance_noise"),
    Mutation("instance noise comes back after its end", "tricks", "done = min(step / tricks.instance_noise_steps, 1)", "done = step / tricks.instance_noise_steps", f"{TRICKS} -k 'never_grows or scheduled'"),
    Mutation("instance noise is uniform", "tricks", "torch.randn(n, *x.shape[1:]", "torch.rand(n, *x.shape[1:]", f"{TRICKS} -k instance_noise"),
    Mutation("labels smoothed on both sides", "tricks", "label, other = 1 - tricks.smooth_real, tricks.smooth_fake", "label, other = 1 - tricks.smooth_real, tricks.smooth_real", f"{TRICKS} -k smoothing"),
    Mutation("labels flipped all at once", "tricks", "torch.rand(m, 1, generator=generator)", "torch.rand(1, 1, generator=generator).expand(m, 1)", f"{TRICKS} -k flips"),
    Mutation("label noise has a mean", "tricks", "torch.randn(m, 1, generator=generator)", "torch.rand(m, 1, generator=generator)", f"{TRICKS} -k label_noise"),
    Mutation("real and fake labels share their draws", "tricks", """f'label {"real" if real else "fake"}'""", "'label'", f"{TRICKS} -k flips"),
    Mutation("EMA with decay and its rest exchanged", "tricks", "average.lerp_(new, 1 - decay)", "average.lerp_(new, decay)", f"{TRICKS} -k ema"),
    Mutation("EMA forgets the buffers", "tricks", "average.copy_(new)", "pass", f"{TRICKS} -k ema"),
    Mutation("warm-up begins at zero", "tricks", "(step + 1) / max(1, tricks.warmup)", "step / max(1, tricks.warmup)", f"{TRICKS} -k learning_rates"),
    Mutation("multistep comes one step late", "tricks", "sum(step >= m for m", "sum(step > m for m", f"{TRICKS} -k learning_rates"),
    Mutation("cosine rises again", "tricks", "math.cos(math.pi * min(step / steps, 1))", "math.cos(math.pi * step / steps)", f"{TRICKS} -k cosine"),
    # the loop
    Mutation("D's step reaches into G", "train", "sr.detach(), settings, world)", "sr, settings, world)", f"{TRAIN} -k 'six_steps or own or trace or graph'"),
    Mutation("D learns in G's step", "train", "for p in learning: p.requires_grad_(False)", "pass", f"{TRAIN} -k leaves_no_trace"),
    Mutation("D stays frozen after an error", "train", "    try: yield\n    finally:\n        for p in learning: p.requires_grad_(True)",
             "    yield\n    for p in learning: p.requires_grad_(True)", f"{TRAIN} -k leaves_no_trace"),
    Mutation("R1's weight ignored", "train", "terms['r1'] = settings.r1, ", "terms['r1'] = 1., ", f"{TRAIN} -k written_out"),
    Mutation("the clip ignored", "train", "settings.tricks.clip or math.inf", "math.inf", f"{TRAIN} -k clipping"),
    Mutation("D's rate is G's", "train", "rate_d=settings.d_learning_rate", "rate_d=settings.learning_rate", f"{TRAIN} -k rates"),
    Mutation("G steps at each step whatever d_steps says", "train", "% settings.tricks.d_steps == 0", "% 1 == 0", f"{TRAIN} -k 'alone or obeyed'"),
    Mutation("networks stay in the mode they are in", "train", "for network in state.networks: network.train()", "pass", f"{TRAIN} -k training_mode"),
    Mutation("NaN passes", "train", "if not abs(value) < limit:", "if abs(value) > limit:", f"{TRAIN} -k no_number"),
    # what is kept
    Mutation("the checkpoint holds the average twice", "state", "params=state.generator,", "params=state.ema,", f"{STATE} -k 'whole or weights'"),
    Mutation("the step is not loaded", "state", "for name in ('step', 'seed', 'config', 'best', 'unmeasured'): setattr", "for name in ('seed', 'config', 'best', 'unmeasured'): setattr", f"{STATE} -k whole"),
    Mutation("the oldest checkpoints are kept", "state", "if p <= path][:last]", "if p <= path][-last:]", f"{STATE} -k pruning"),
    Mutation("a failing load leaves half", "state", "part.load_state_dict(before[old])", "pass", f"{STATE} -k changes_nothing"),
    # figures
    Mutation("PSNR over the border", "metrics", "[x[:, crop:h - crop, crop:w - crop] for x in pair]", "pair", "test_metrics.py -k 'scikit or crop'"),
    Mutation("PSNR of pictures that no file can hold", "metrics", "[quantize(x.detach().cpu().double())", "[(x.detach().cpu().double())", "test_metrics.py -k quantised"),
    Mutation("PSNR with 20 log10", "metrics", "return -10 *", "return -20 *", "test_metrics.py -k 'known or scikit'"),
    Mutation("SSIM's window too narrow", "metrics", "/ 1.5)**2)", "/ 1.4)**2)", "test_metrics.py -k 'scikit or torchmetrics'"),
    Mutation("LR of the evaluator is not rounded", "evaluate", "return imresize((quantize(x) * 255).round().to(torch.uint8), scale).float() / 255", "return imresize(x, scale)", "test_evaluate.py -k 8_bit_files"),
    Mutation("the certificate tolerates anything", "evaluate", "> tolerance:", "> 99:", "test_evaluate.py -k spoilt"),
    # pictures
    Mutation("the two pictures of a pair are turned apart", "data", "turn(x, code).contiguous() for x in (lr, hr))", "turn(x, code * (x is hr)).contiguous() for x in (lr, hr))", "test_data.py -k every_sample"),
    Mutation("the crop of LR without its surroundings", "data", "s, m, more = pairs.scale, 2,", "s, m, more = pairs.scale, 0,", "test_data.py -k lr_of_a_crop"),
    Mutation("each epoch in the same order", "data", "counted_generator(seed, epoch, 'order')", "counted_generator(seed, 0, 'order')", "test_data.py -k new_order"),
    Mutation("a resumed run begins at the first batch", "data", "count(start_step * size + rank, size)", "count(rank, size)", "test_data.py -k resuming"),
    Mutation("every process has the same share", "data", "count(start_step * size + rank, size)", "count(start_step * size, size)", "test_data.py -k parts"),
    Mutation("shrinking without antialiasing", "resize", "stretch = min(scale, 1.) if antialias else 1.", "stretch = 1.", "test_resize.py -k 'frozen or pillow or switch'"),
    Mutation("borders repeat instead of mirror", "resize", "torch.where(index < n_in, index, 2 * n_in - 1 - index)", "index.clamp(max=n_in - 1)", "test_resize.py -k 'frozen or uint8'"),
    # networks
    Mutation("the outer scale of an RRDB forgotten", "blocks", "torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=self.residual_scale)", "x + self.rdb3(self.rdb2(self.rdb1(x)))", "test_generator.py -k spandrel"),
    Mutation("no LeakyReLU before the last convolution", "generator", "self.conv_last(F.leaky_relu(self.conv_hr(x), self.slope, inplace=True))", "self.conv_last(self.conv_hr(x))", "test_generator.py -k spandrel"),
    Mutation("the ensemble is not turned back", "inference", "torch.rot90(model(seen.contiguous(memory_format=torch.channels_last)), -turns, (-2, -1))", "model(seen.contiguous(memory_format=torch.channels_last))", "test_inference.py -k orientation"),
    Mutation("broken answers pass", "inference", "if y.isfinite().all(): return y", "return y", "test_inference.py -k broken_answers"),
    Mutation("tiles are added, not blended", "tiles", "return [w / total[a * scale:b * scale] for", "return [torch.ones_like(w) for", "test_inference.py -k 'spans or seams'"),
    Mutation("Muon without its scale", "muon", "* .2 * max(rows, columns)**.5", "", "test_muon.py"),
    Mutation("the discriminator's first norm stays", "discriminator", "[] if first else _normal(n_out, norm)", "_normal(n_out, norm)", "test_discriminator.py -k 'first or stage or norm'"),
    # weights and downloads
    Mutation("a digest is not compared", "fetch", "if digest and (found := sha256(path)) != digest:", "if False:", "test_fetch.py -k kept_or_refused"),
    Mutation("pooch is not told the digest", "fetch", "pooch.retrieve(url, digest, ", "pooch.retrieve(url, None, ", "test_fetch.py -k wrong_bytes"),
    Mutation("no lock", "fetch", "with FileLock(f'{path}.lock') as lock:", "with FileLock(f'{path}.{os.getpid()}.lock') as lock:", "test_fetch.py -k fetch_once"),
    Mutation("links out of an archive", "fetch", "'..' in place.parts", "False", "test_fetch.py -k evil"),
    Mutation("a pickle may run code", "weights", "weights_only=True", "weights_only=False", "test_weights.py -k 'runs_code'"),
    Mutation("lying tensors are copied", "layouts", "> 4 * sum(held.values()):", "> 1e99:", "test_weights.py -k bombs"),
    Mutation("zip bombs are opened", "layouts", "> 4 * Path(path).stat().st_size + 1e6", "> 1e99", "test_weights.py -k bombs"),
    Mutation("the plain weights are preferred to their average", "layouts", "return 0 if re.search(", "return 9 if re.search(", "test_weights.py -k average_is_taken"),
    Mutation("mixing the wrong way", "weights", "torch.lerp(v, other[k].to(v), alpha)", "torch.lerp(v, other[k].to(v), 1 - alpha)", "test_weights.py -k test_interpolate"),
]


def copied(folder):
    "A tree like ours in `folder`: package and tests as copies, what they only read as links."
    for name in ("esrdgan", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("data", "weights", "nbs", "settings.ini", "README.md", "CONTRIBUTING.md"):
        (folder / name).symlink_to(ROOT / name)


def run_tests(folder, tests):
    "(exit code of pytest, its last lines). In a fork: torch and the other large packages are imported once for all, ours is not."
    words = [f"tests/{w}" if w.startswith("test_") and w.endswith(".py") else w for w in shlex.split(tests)]
    log = folder / "log"
    child = os.fork()
    if not child:
        with open(log, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(folder)
        sys.path[:0] = [str(folder), str(folder / "tests")]
        os.environ["PYTHONPATH"] = str(folder)         # for tests that start a process
        code = 3
        try: code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *words])
        finally: os._exit(int(code))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, log.read_text(errors="replace").strip().splitlines()[-3:]


def spoilt(mutation):
    "The module's text with the change; `ValueError` when its place is not found exactly once."
    text = (ROOT / "esrdgan" / f"{mutation.module}.py").read_text(encoding="utf-8")
    if (n := text.count(mutation.old)) != 1:
        raise ValueError(f"{mutation.old!r} stands {n} times in {mutation.module}.py: the module was changed, so change tests/mutations.py too")
    return text.replace(mutation.old, mutation.new)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only mutations whose name or module contains one of these")
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--to", type=int, default=len(MUTATIONS))
    parser.add_argument("--baseline", action="store_true", help="run the tests on the sound package")
    args = parser.parse_args(argv)
    chosen = [m for m in MUTATIONS[args.first:args.to] if not args.words or any(w.lower() in f"{m.name} {m.module}".lower() for w in args.words)]
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copied(folder)
        for m in [m._replace(name=m.tests) for m in {m.tests: m for m in chosen}.values()] if args.baseline else chosen:
            start, path = time.time(), folder / "esrdgan" / f"{m.module}.py"
            try:
                if not args.baseline:
                    path.write_text(spoilt(m), encoding="utf-8")
                code, said = run_tests(folder, m.tests)
            except ValueError as error:
                code, said = "not found", [str(error)]
            shutil.copyfile(ROOT / "esrdgan" / path.name, path)
            words = {0: "sound" if args.baseline else "SURVIVED", 1: "FAILS" if args.baseline else "killed"}
            verdict = words.get(code, f"BROKEN ({code})")       # no test was chosen, or the module cannot be imported
            bad += verdict not in ("killed", "sound")
            print(f"{verdict:10} {time.time() - start:5.1f} s  {m.module:13} {m.name}", flush=True)
            if verdict not in ("killed", "sound"):
                print("    " + "\n    ".join(said), flush=True)
    print(f"{len(chosen)} mutations, {bad} not killed")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
