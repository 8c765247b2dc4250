"""Crisp squares to go on with: photographs made small, printed pages and shapes, where bicubic errs most. Lesson 15 tells what they brought.

    python benchmarks/crisp.py BSDS OUT      BSDS: the photographs that mini-psnr learned from; OUT: new; gets OUT/learn and OUT/valid

The twenty photographs that [data] hold_out = 20 holds out go to OUT/valid, whole. The others are cut at their own size and at .7 and .5 of it, for a
photograph made small is a crisp one; so are those in data/train. Pages and shapes are drawn, with the fonts that matplotlib brings. The same folder
gives the same squares, but for what other versions of Pillow and matplotlib draw otherwise. Then, as benchmarks/mini_crisp.jsonl was made:

    esrdgan init crisp.ini --recipe mini-psnr
    in it: [data] hr = OUT/learn, valid = OUT/valid, hold_out = 0, patch = 96, batch_size = 4; [generator] start_from = mini-psnr;
           [training] validate_every = 900; [psnr] steps = 3600, learning_rate = 2e-4, warmup = 100
    esrdgan train --cfg crisp.ini

Its lines with a `share` are `interpolate(mini-psnr, the last checkpoint, share)` (the room `weights`), measured in fp32 on OUT/valid and on data/valid.
"""
import argparse
import math
import random
import shutil
import tempfile
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from esrdgan.build import RunPictures
from esrdgan.image import list_pictures, read_image, write_image
from esrdgan.prepare import make_crops
from esrdgan.recipes import recipe_config
from esrdgan.resize import imresize

HERE = Path(__file__).resolve().parent
FONTS = [p for p in sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("*.ttf"))
         if p.name.startswith(("DejaVuS", "STIXGeneral", "cmr10", "cmss10", "cmtt10", "cmb10")) and "Display" not in p.name]
LETTERS = "etaoinshrdlucmfwypvbgkqjxzETAOINSHRDLUCM0123456789.,;:()-"
COMMON = [max(.3, 12 - i / 2) for i in range(26)] + [.4] * 14 + [.4] * 10 + [1] * 7


def colour(draw, low, high):
    return tuple(draw.randrange(low, high) for _ in range(3))


def page(draw, side=480):
    "Lines of nonsense in many fonts and sizes over a few coloured boxes, dark on light or light on dark."
    dark, plain = draw.random() < .4, draw.random() < .4
    paper, ink = ((0, 90), (160, 256)) if dark else ((150, 256), (0, 110))
    picture = Image.new("RGB", (side, side), (0 if dark else 255,) * 3 if plain else colour(draw, *paper))
    pen, y = ImageDraw.Draw(picture), 4
    for _ in range(draw.randrange(4)):
        left, top = draw.randrange(side), draw.randrange(side)
        getattr(pen, draw.choice(("rectangle", "ellipse")))([left, top, left + draw.randrange(20, 200), top + draw.randrange(10, 120)],
                                                            fill=colour(draw, 0, 256), outline=(0, 0, 0), width=draw.randrange(4))
    while y < side:
        size = draw.choice((9, 10, 11, 12, 13, 14, 16, 18, 22, 28, 36, 48))
        font, shade = ImageFont.truetype(str(draw.choice(FONTS)), size), (255 if dark else 0,) * 3 if plain else colour(draw, *ink)
        for _ in range(draw.randrange(1, 4)):
            words = ["".join(draw.choices(LETTERS, COMMON, k=draw.randrange(1, 10))) for _ in range(draw.randrange(3, 14))]
            pen.text((draw.randrange(40), y), " ".join(words), fill=shade, font=font)
            y += int(size * draw.uniform(1.05, 1.5))
        if draw.random() < .3: pen.line([draw.randrange(side), y, draw.randrange(side), y + draw.randrange(-60, 60)], fill=shade, width=draw.randrange(1, 5))
    return picture


def shapes(draw, colours, side=384, finer=2):
    "Discs, polygons and stripes of all sizes on top of each other (the dead leaves of Matheron), drawn larger and made small."
    w = side * finer
    picture = Image.new("RGB", (w, w))
    pen = ImageDraw.Draw(picture)
    for _ in range(1500):
        r = 4 * finer / math.sqrt(1 - draw.random() * (1 - (4 / 160) ** 2))     # few are large, many small: what lies in front of what has no scale
        x, y, fill, kind = draw.random() * w, draw.random() * w, draw.choice(colours), draw.random()
        if kind < .4: pen.ellipse([x - r, y - r, x + r, y + r], fill=fill)
        elif kind < .8:
            angles = sorted(draw.random() * 2 * math.pi for _ in range(draw.randrange(3, 7)))
            pen.polygon([(x + q * math.cos(a), y + q * math.sin(a)) for a in angles for q in [r * (.5 + draw.random())]], fill=fill)
        else:
            a, width = draw.random() * math.pi, max(1, int(r / 3))
            for j in range(draw.randrange(1, 8)):
                px, py, long = x - math.sin(a) * width * 2.2 * j, y + math.cos(a) * width * 2.2 * j, 4 * r
                pen.line([px - long * math.cos(a), py - long * math.sin(a), px + long * math.cos(a), py + long * math.sin(a)], fill=fill, width=width)
    return picture.resize((side, side), Image.BOX)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("out")
    args = parser.parse_args()
    config = recipe_config("mini-psnr")
    config.data.hr = args.source
    learn, held = RunPictures(config).files
    out, draw, colours = Path(args.out), random.Random(0), []
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary)
        for path in learn:
            x = read_image(path)
            colours += [tuple(int(255 * v) for v in x[:, i, j]) for i, j in ((40, 40), (160, 160), (280, 280))]
            for percent in (100, 70, 50): write_image(imresize(x, percent / 100) if percent < 100 else x, whole / f"bsds_{path.stem}_{percent}.png")
        for path in list_pictures(HERE.parent / "data" / "train"):
            x = read_image(path)
            for percent in (100, 50): write_image(imresize(x, percent / 100) if percent < 100 else x, whole / f"train_{path.stem}_{percent}.png")
        for i in range(30): page(draw).save(whole / f"page_{i:02}.png")
        for i in range(50): shapes(draw, colours).save(whole / f"shapes_{i:02}.png")
        print(f"{make_crops(whole, out / 'learn', 128, 64, keep=1 / 3):,} squares of 128 px in {out / 'learn'}")
    (out / "valid").mkdir()
    for path in held: shutil.copy(path, out / "valid")


if __name__ == "__main__":
    main()
