"""Does a large batch come to its end, with everything said? Ten thousand tiny pictures of thirty kinds in nested folders, one in twenty of them bad.

    python benchmarks/many_pictures.py [--count 10000] [--model tiny-psnr] [--keep FOLDER]

Runs `esrdgan use` on them twice and reports: whether it ended; whether every bad file was named, with a reason, and every good one has its result;
whether the second run skipped all that was done; the memory of the process at the last picture against that at the 500th.
"""
import argparse
import io
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from esrdgan.files import png_chunk      # noqa: E402
from esrdgan.image import encode_png   # noqa: E402


def saved(form, mode="RGB", **options):
    def make(rgb):
        buffer = io.BytesIO()
        Image.fromarray(rgb).convert(mode).save(buffer, form, **options)
        return buffer.getvalue()
    return make


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = orientation, "Maker"
    return tags


def frames(form):
    return lambda rgb: saved(form, save_all=True, append_images=[Image.fromarray(255 - rgb)])(rgb)


def with_chunk(kind, content):
    return lambda rgb: (data := saved("PNG")(rgb))[:33] + png_chunk(kind, content) + data[33:]


def deep(channels):
    return lambda rgb: encode_png(np.dstack([rgb, rgb[..., :1]])[..., -channels:].astype(np.uint16) * 257)


def page(rgb): return b"<!DOCTYPE html><html>quota exceeded</html>"


GOOD = [("png", saved("PNG")), ("png", saved("PNG", "L")), ("png", saved("PNG", "LA")), ("png", saved("PNG", "RGBA")), ("png", saved("PNG", "P")), ("png", saved("PNG", "1")),
        ("png", deep(1)), ("png", deep(3)), ("png", deep(4)), ("PNG", with_chunk(b"eXIf", b"oops")), ("png", with_chunk(b"zTXt", b"w\0\0" + zlib.compress(b"x" * 2_000_000))),
        ("png", with_chunk(b"gAMA", struct.pack(">I", 45455))), ("png", frames("PNG")), ("jpg", saved("JPEG", quality=95)), ("jpeg", saved("JPEG", "L")), ("jpe", saved("JPEG", "CMYK")),
        ("jfif", saved("JPEG", exif=exif(6))), ("jpg", saved("JPEG", exif=exif(9))), ("JPG", saved("JPEG", progressive=True)), ("webp", saved("WEBP", lossless=True)),
        ("webp", saved("WEBP", "RGBA")), ("tif", saved("TIFF", compression="tiff_lzw")), ("tiff", saved("TIFF", "L")), ("tif", frames("TIFF")), ("gif", saved("GIF", "P")),
        ("gif", frames("GIF")), ("bmp", saved("BMP")), ("tga", saved("TGA")), ("ppm", saved("PPM")), ("jp2", saved("JPEG2000"))]
BAD = [("png", lambda rgb: saved("PNG")(rgb)[:120]), ("jpg", lambda rgb: saved("JPEG")(rgb)[:300]), ("png", lambda rgb: b""), ("jpg", page), ("png", lambda rgb: b"Dear all,\n" * 9),
       ("tif", lambda rgb: saved("TIFF", "F")(rgb)), ("webp", lambda rgb: saved("WEBP")(rgb)[:40]), ("nef", lambda rgb: saved("TIFF")(rgb)), ("exr", lambda rgb: b"v/1\1")]


def generate(folder, count):
    "Write the pictures, every twentieth bad; gives back the bad ones."
    rng, bad = np.random.default_rng(0), []
    for i in range(count):
        kinds = BAD if i % 20 == 7 else GOOD
        suffix, make = kinds[i // 20 % len(BAD)] if kinds is BAD else GOOD[i % len(GOOD)]
        path = folder / f"year{i % 4}" / f"month{i % 12}" / f"p{i:05d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)))
        if kinds is BAD: bad.append(path)
    return bad


def memory(pid):
    "Resident bytes of a process; None where /proc does not tell."
    try: return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError): return None


def use(folder, out, model):
    "(status, stdout, stderr, seconds, [(results there, memory)]) of one run."
    env, start, trace, files = dict(os.environ, PYTHONPATH=str(ROOT)), time.time(), [], [out.with_name(f"{out.name}.{name}") for name in ("stdout", "stderr")]
    with open(files[0], "wb") as said, open(files[1], "wb") as complained:
        process = subprocess.Popen([sys.executable, "-m", "esrdgan", "use", str(folder), "--out", str(out), "--model", model], env=env, stdout=said, stderr=complained)
        while process.poll() is None:
            time.sleep(.25)
            bars = re.findall(rb"(\d+)/\d+ \[", files[1].read_bytes()[-4000:])
            if (now := memory(process.pid)) and bars: trace.append((int(bars[-1]), now))
    return process.returncode, *(file.read_text(encoding="utf-8", errors="replace") for file in files), time.time() - start, trace


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--model", default="tiny-psnr")
    parser.add_argument("--keep", help="work in this folder and leave it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(args.keep or temporary)
        bad = generate(work / "in", args.count)
        status, out, err, seconds, trace = use(work / "in", work / "out", args.model)
        lines = [line for line in err.replace("\r", "\n").splitlines() if line.strip() and "picture/s" not in line and "s/picture" not in line and "?picture" not in line]
        results = sum(1 for p in (work / "out").rglob("*") if p.is_file())
        unnamed = [p for p in bad if not any(str(p) in line for line in lines)]
        reasons = Counter(re.sub(r"\S*p\d{5}\S*", "FILE", line)[:90] for line in lines)
        early = next((m for n, m in trace if n >= min(500, args.count // 2)), None)
        again, out2, _, seconds2, _ = use(work / "in", work / "out", args.model)
        skipped = int((re.search(r"(\d+) there already", out2) or [0, 0])[1])
        report = dict(count=args.count, bad=len(bad), status=status, seconds=round(seconds, 1), results=results, every_good_one_has_a_result=results == args.count - len(bad),
                      bad_without_a_line=len(unnamed), traceback="Traceback" in err, second_status=again, second_seconds=round(seconds2, 1),
                      second_run_skips_all=skipped == results and " written" not in out2, memory_at_500_mb=early and round(early / 1e6), memory_at_the_end_mb=trace and round(trace[-1][1] / 1e6))
        for reason, n in reasons.most_common(): print(f"{n:6} {reason}")
        print(out.splitlines()[-1])
        print(out2.splitlines()[-1])
        print(json.dumps(report))
        good = report["every_good_one_has_a_result"] and not unnamed and report["second_run_skips_all"] and not report["traceback"]
        return 0 if good and status == again == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
