"""Damaged and hostile input by the thousand, for everything that reads a file: pictures, weights, settings, archives.

    python tests/fuzz.py --count 20000 --seed 1             so many inputs, shared among all readers
    python tests/fuzz.py --count 500 --only images          one reader: images, ncnn, ini, layouts, safetensors, pth, archives
    python tests/fuzz.py --only pth --seed 1 --first 217 --count 1 --keep out/fuzz      one input again, its file kept

Each input is a sound file with a few changes that depend on (seed, reader, number) alone. It must end in a result or in the reader's own error
with one line. Anything else is a finding: another error, a message of two lines, more than ten seconds, the end of the process. The readers run
in a child whose memory is limited, so that what asks for too much fails there. A share of this runs as tests/test_fuzz.py.
"""
import argparse
import contextlib
import io
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from esrdgan.config import Config, ConfigError, config_text, read_config  # noqa: E402
from esrdgan.fetch import FetchError, unpack  # noqa: E402
from esrdgan.generator import RRDBNet  # noqa: E402
from esrdgan.image import PictureError, read_picture  # noqa: E402
from esrdgan.layouts import WeightsError, check_state, rename, unwrap  # noqa: E402
from esrdgan.weights import load_generator, save_generator  # noqa: E402

SECONDS = 10            # for one input
MEMORY = 2 << 30        # bytes that a child may take beyond its imports


# Changes

NUMBERS = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\x01\0\0\0", b"\xff" * 8, b"\0" * 8]
WORDS = ["", "-1", "0", "1e999", "nan", "9" * 25, "x" * 300, "é\u2028", "\0", "%(x)s", "[", "]", "=", "\n", ": ", ",", "true", "None", "../..", "0=0", "6=99999999999", "3.0"]


def change_bytes(data, draw):
    "A few places overwritten, cut out, repeated or cut short."
    data = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 1, 2, 5])):
        at = draw.randrange(len(data) + 1) if draw.random() < .6 else min(len(data), int(draw.expovariate(1 / 40)))     # headers matter most
        length = min(draw.choice([1, 2, 4, 8, 30]), len(data) - at)
        kind = draw.randrange(7)
        if kind == 0 and at < len(data): data[at] ^= 1 << draw.randrange(8)
        elif kind == 1: data[at:at + length] = draw.choice(NUMBERS)
        elif kind == 2: data[at:at + length] = draw.randbytes(length)
        elif kind == 3: del data[at:at + length]
        elif kind == 4: data[at:at] = data[at:at + length] * draw.choice([1, 3, 50])
        elif kind == 5: data[at:at] = draw.randbytes(length)
        elif draw.random() < .3: del data[at:]
    return bytes(data)


def change_text(text, draw):
    "Words and lines replaced, repeated, exchanged; now and then bytes instead."
    if draw.random() < .2:
        return change_bytes(text.encode(), draw)
    lines = text.split("\n")
    for _ in range(draw.choice([1, 1, 2, 3, 8])):
        i = draw.randrange(len(lines))
        words, kind = lines[i].split(" "), draw.randrange(6)
        if kind == 0: words[draw.randrange(len(words))] = draw.choice(WORDS)
        elif kind == 1: words.insert(draw.randrange(len(words) + 1), draw.choice(WORDS))
        elif kind == 2: del words[draw.randrange(len(words))]
        lines[i] = " ".join(words)
        if kind == 3: lines.insert(i, draw.choice(lines))
        elif kind == 4 and len(lines) > 1: del lines[i]
        elif kind == 5 and "=" in lines[i]: lines[i] = lines[i].split("=")[0] + "= " + draw.choice(WORDS)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


# Readers: (sound files, what makes an input of one, what reads it, its error)

def net(**more):
    torch.manual_seed(0)
    return RRDBNet(**dict(n_features=4, n_blocks=1, growth=2, n_dense=2) | more)


def pictures():
    draw = np.random.default_rng(0)
    a = draw.integers(0, 256, (9, 12, 4), np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    kinds = [("png", "RGBA", {}), ("png", "P", {}), ("png", "1", {}), ("jpg", "RGB", dict(exif=exif)), ("jpg", "CMYK", {}), ("webp", "RGBA", dict(lossless=True)), ("gif", "P", {}),
             ("bmp", "RGB", {}), ("tif", "RGB", {}), ("tif", "L", dict(compression="tiff_lzw")), ("tif", "RGB", dict(compression="jpeg")), ("ppm", "RGB", {}), ("tga", "RGB", {})]
    for suffix, mode, options in kinds:
        buffer = io.BytesIO()
        Image.fromarray(a).convert("RGB" if mode == "CMYK" else mode).convert(mode).save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), **options)
        yield f"x.{suffix}", buffer.getvalue()
    buffer = io.BytesIO()
    Image.fromarray(a[..., 0].astype(np.uint16) * 257).save(buffer, "PNG")
    yield "x.png", buffer.getvalue()
    from esrdgan.image import encode_png
    yield "x.png", encode_png(a.astype(np.uint16) * 257, b"profile" * 30)


def ncnn_pairs():
    for half in (False, True):
        lines, data = [], b""
        for name, m in net().named_modules():
            if isinstance(m, torch.nn.Conv2d):
                lines += ["Interp up 1 1 a b 0=1 1=2.000000e+00 2=2.0"] * ("up" in name) + [f"Convolution {name} 1 1 a b 0={m.out_channels} 1={m.kernel_size[0]} 4=1 5=1 6={m.weight.numel()} 9=2"]
                raw = m.weight.detach().numpy().astype(np.float16 if half else np.float32).tobytes()
                data += (0x01306B47 if half else 0).to_bytes(4, "little") + raw + bytes(-len(raw) % 4) + m.bias.detach().numpy().tobytes()
        yield "\n".join(["7767517", f"{len(lines)} 9", *lines]), data


OLD_INI = "[DEFAULT]\nname = x\nscale = 4\n[GENERATOR]\nnum_features = 8\nnum_rrdb = 2\nnum_rdb_convs = 5\n[FEATUREEXTRACTOR]\nlow_level_feat_layer = -1\nhigh_level_feat_layer = 34\n" \
          "[TRAINING]\nniter = 5\nmultistep_lr = True\nmultistep_lr_steps = [1, 2]\nuse_noisy_labels = True\nadam_beta1_g = 0.9\n[DATASETTRAIN]\ndataroot_hr = /x\nhr_img_size = 128\n"


def torch_file(found, **options):
    buffer = io.BytesIO()
    torch.save(found, buffer, **options)
    return buffer.getvalue()


def change_zip(data, draw, kind=zipfile.ZIP_STORED):
    "The members changed, and packed again with their sums right: what is damaged before it is packed."
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = [(m.filename, file.read(m)) for m in file.infolist()]
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", draw.choice([kind, zipfile.ZIP_DEFLATED])) as file:
        warnings.simplefilter("ignore")         # two members of one name
        for name, body in members:
            if name.endswith("data.pkl") or draw.random() < .1: body = change_bytes(body, draw)
            if draw.random() < .03: name = draw.choice(["../x", "/x", "a/code/b", name + "\n", "x"])
            if draw.random() > .02: file.writestr(name, body)
    return buffer.getvalue()


def random_states(draw):
    "A dictionary that is nearly a network: keys lost, added, renamed; shapes, types and wrappings of every kind."
    state = dict(net(n_dense=draw.choice([1, 2]), scale=draw.choice([1, 2, 4])).state_dict())
    shape = lambda: tuple(draw.choice([0, 1, 2, 3, 4, 9, 1000]) for _ in range(draw.randrange(6)))
    tensor = lambda: torch.zeros((), dtype=draw.choice([torch.float32, torch.float16, torch.int8, torch.bool, torch.complex64, torch.float64])).expand(shape())
    odd = [lambda: tensor(), lambda: torch.full((3,), torch.nan), lambda: torch.zeros(2).to_sparse(), lambda: torch.empty(3, device="meta"), lambda: 3, lambda: None, lambda: "x", lambda: {}]
    parts = ["body", "rdb1", "conv1", "conv2", "0", "1", "99999", "model", "sub", "module", "RRDB_trunk", "RDB1", "rdbs", "LFF", "upconv1", "conv_up1", "weight", "bias", "²", "", "\n", "x" * 99, "9" * 99]
    for _ in range(draw.choice([0, 1, 1, 2, 5, 30])):
        key, kind = draw.choice(list(state) or ["x"]), draw.randrange(6)
        if kind == 0: state.pop(key, None)
        elif kind == 1: state[key] = draw.choice(odd)()
        elif kind == 2: state[".".join(draw.choice(parts) for _ in range(draw.randrange(1, 8)))] = draw.choice(odd)()
        elif kind == 3: state[".".join(draw.choice(parts) if draw.random() < .3 else p for p in str(key).split("."))] = state.pop(key, None)
        elif kind == 4: state = {draw.choice(["module.", "_orig_mod.", "netG.", "model.", "a.b."]) + str(k): v for k, v in state.items()}
        else: state = {draw.choice(["params", "params_ema", "x", 3, None, "model"]): state, **({"other": dict(state)} if draw.random() < .2 else {})}
        if draw.random() < .02: state["circle"] = state
    return state


def archives():
    for mode in ("zip", "w", "w:gz", "w:xz"):
        buffer = io.BytesIO()
        if mode == "zip":
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
                file.writestr("a/b.txt", "hello" * 9)
        else:
            with tarfile.open(fileobj=buffer, mode=mode) as file:
                for name, more in (("a/b.txt", {}), ("link", dict(type=tarfile.SYMTYPE, linkname="a/b.txt")), ("same", dict(type=tarfile.LNKTYPE, linkname="a/b.txt")), ("d", dict(type=tarfile.DIRTYPE))):
                    info = tarfile.TarInfo(name)
                    for key, value in more.items(): setattr(info, key, value)
                    info.size = 0 if more else 5
                    file.addfile(info, io.BytesIO(b"hello"[:info.size]))
        yield buffer.getvalue()


class Readers:
    "Each method puts input `n` into a folder and gives (what reads it, its error)."

    def __init__(self):
        self.pictures, self.pairs = list(pictures()), list(ncnn_pairs())
        self.inis = [config_text(Config()), OLD_INI]
        with tempfile.TemporaryDirectory() as folder:
            self.safe = save_generator(net(), Path(folder, "x.safetensors")).read_bytes()
        state = net().state_dict()
        self.pths = [torch_file(found, _use_new_zipfile_serialization=new) for new in (True, False) for found in (state, {"params": state, "params_ema": state, "step": 3, "network": net().config})]
        self.archives = list(archives())

    def images(self, draw, folder):
        name, data = draw.choice(self.pictures)
        (folder / name).write_bytes(change_bytes(data, draw))
        return lambda: read_picture(folder / name), PictureError

    def ncnn(self, draw, folder):
        text, data = draw.choice(self.pairs)
        (folder / "x.param").write_bytes(change_text(text, draw) if draw.random() < .8 else text.encode())
        (folder / "x.bin").write_bytes(change_bytes(data, draw) if draw.random() < .4 else data)
        return lambda: load_generator(folder / "x.param"), WeightsError

    def ini(self, draw, folder):
        (folder / "x.ini").write_bytes(change_text(draw.choice(self.inis), draw))
        return lambda: read_config(folder / "x.ini"), ConfigError

    def layouts(self, draw, folder):
        state = random_states(draw)
        return lambda: check_state(rename(unwrap(state))), WeightsError

    def safetensors(self, draw, folder):
        length = int.from_bytes(self.safe[:8], "little")
        if draw.random() < .6:      # the header alone, its length right
            head = change_text(self.safe[8:8 + length].decode().replace(",", " ,").replace(":", " : "), draw)
            data = len(head).to_bytes(8, "little") + head + self.safe[8 + length:]
        else: data = change_bytes(self.safe, draw)
        (folder / "x.safetensors").write_bytes(data)
        return lambda: load_generator(folder / "x.safetensors"), WeightsError

    def pth(self, draw, folder):
        data = draw.choice(self.pths)
        data = change_zip(data, draw) if data[:1] == b"P" and draw.random() < .7 else change_bytes(data, draw)
        (folder / "x.pth").write_bytes(data)
        return lambda: load_generator(folder / "x.pth"), WeightsError

    def archive(self, draw, folder):
        data = draw.choice(self.archives)
        (folder / "x").write_bytes(change_zip(data, draw) if data[:1] == b"P" and draw.random() < .5 else change_bytes(data, draw))
        return lambda: unpack(folder / "x", folder / "out"), FetchError


READERS = dict(images=Readers.images, ncnn=Readers.ncnn, ini=Readers.ini, layouts=Readers.layouts, safetensors=Readers.safetensors, pth=Readers.pth, archives=Readers.archive)


class TooSlow(BaseException):
    pass


def _alarm(*_):
    raise TooSlow


def attempt(readers, name, seed, number, folder):
    "('result' | 'refused' | what is wrong) of one input."
    read, error = READERS[name](readers, random.Random(f"{seed} {name} {number}"), folder)
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            read()
        return "result"
    except error as refused:
        text = str(refused)
        return "refused" if text.strip() and "\n" not in text and len(text) < 2000 else f"a message that is no line: {text[:300]!r}"
    except TooSlow:
        return f"longer than {SECONDS} s"
    except BaseException as other:
        import traceback
        where = traceback.extract_tb(other.__traceback__)[-1]
        return f"{type(other).__name__} in {Path(where.filename).name}:{where.lineno}: {str(other)[:200]!r}"
    finally:
        signal.alarm(0)


def many(readers, name, seed, numbers, keep=None):
    "(number, verdict) of each."
    for n in numbers:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, "input")
            folder.mkdir()
            yield n, (verdict := attempt(readers, name, seed, n, folder))
            if keep and verdict not in ("result", "refused"):
                shutil.copytree(folder, Path(keep) / f"{name}-{seed}-{n}", dirs_exist_ok=True)


def child(name, seed, first, count, keep):
    "What a child process does: a line for each input, before (so that its end is noticed) and after."
    torch.set_num_threads(1)
    readers = Readers()
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY,) * 2)
    for n, verdict in many(readers, name, int(seed), range(int(first), int(first) + int(count)), keep):
        print(json.dumps([n, verdict]), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="inputs, shared among the readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", choices=READERS)
    parser.add_argument("--keep", default="", help="folder for the inputs that were findings")
    args = parser.parse_args()
    names, findings = [args.only] if args.only else list(READERS), 0
    for i, name in enumerate(names):
        at, end, counts, start = args.first, args.first + len(range(i, args.count, len(names))), dict(result=0, refused=0), time.time()
        while at < end:
            words = [sys.executable, __file__, "--child", name, str(args.seed), str(at), str(end - at), args.keep]
            with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                for line in process.stdout:
                    if not line.startswith("["): continue
                    n, verdict = json.loads(line)
                    at = n + 1
                    if verdict in counts: counts[verdict] += 1
                    else:
                        findings += 1
                        print(f"FOUND  {name} {n}: {verdict}", flush=True)
                said = process.stderr.read()
            if at < end:
                findings += 1
                print(f"FOUND  {name} {at}: the process ended with {process.returncode} {said.strip().splitlines()[-1:]}", flush=True)
                at += 1
        spent = time.time() - start
        print(f"{name:12} {sum(counts.values()):6} inputs: {counts['result']} read, {counts['refused']} refused; {(end - args.first) / spent:.0f} a second", flush=True)
    print(f"{findings} findings")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(child(*sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main())
