"""The sheet of a card: ten crops of data/valid, four times as large as their pixels; bicubic, PSNR, GAN and the truth. With mini: the README's picture, too.

    python weights/crops.py SIZE        such as: mini, for mini-psnr and mini-gan; writes nbs/images/SIZE-gan.jpg, and result.jpg with mini
    python weights/crops.py real        the same crops of damaged pictures by mini-gan and mini-real; writes nbs/images/mini-real.jpg
"""
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from esrdgan.degrade import blur, gaussian_kernel, gaussian_noise, jpeg
from esrdgan.evaluate import read_pair, resize8
from esrdgan.image import quantize, to_uint8
from esrdgan.inference import upscale
from esrdgan.resize import imresize
from esrdgan.weights import load_generator

ROOT, SIDE, ZOOM, HEAD = Path(__file__).resolve().parent.parent, 64, 4, 24
CROPS = [("astronaut", 40, 180), ("cat", 84, 150), ("coffee", 150, 120), ("cups", 160, 180), ("dahlia", 120, 150),
         ("mountains", 160, 200), ("nuthatch", 196, 170), ("pagoda", 140, 96), ("rocket", 180, 190), ("astronaut", 104, 176)]     # top, left: hair and eyes, fur, rims, petals, rock, feathers, lattice, flat sky, a face


def damaged(hr, lr, name):
    "A JPEG of quality 70 for every other picture, blur, noise and a JPEG of 55 for the rest."
    if sorted({name for name, *_ in CROPS}).index(name) % 2: return jpeg(lr, 70)
    return jpeg(gaussian_noise(imresize(blur(hr, gaussian_kernel(1.6)), 1 / 4), 4 / 255, torch.Generator().manual_seed(0)), 55)


def enlarged(networks, size, name):
    "Bicubic, both networks' answers and the truth, by name."
    hr, lr = read_pair(ROOT / "data" / "valid" / f"{name}.png", None, 4)
    if size == "real": return {"bicubic": resize8(lr := damaged(hr, lr, name), 4)} | {f"mini-{k}": quantize(upscale(n, lr, precision="fp32")) for k, n in networks.items()} | {"truth": hr}
    return {"bicubic": resize8(lr, 4)} | {f"{size}-{k}": quantize(upscale(n, lr, precision="fp32")) for k, n in networks.items()} | {"truth": hr}


def strip(networks):
    "The README's picture: the astronaut's head four times, pixel for pixel."
    top, left, height, width, gap = 0, 160, 250, 230, 6
    whole = Image.new("RGB", (4 * width + 3 * gap, height), "white")
    for i, x in enumerate(enlarged(networks, "mini", "astronaut").values()):
        whole.paste(Image.fromarray(to_uint8(x[:, top:top + height, left:left + width])), (i * (width + gap), 0))
    whole.save(ROOT / "nbs" / "images" / "result.jpg", quality=92)


def main(size):
    networks = {kind: load_generator(f"mini-{kind}") for kind in ("gan", "real")} if size == "real" else {kind: load_generator(f"{size}-{kind}") for kind in ("psnr", "gan")}
    if size == "mini": strip(networks)
    side, font = SIDE * ZOOM, ImageFont.load_default(16)
    sheet = Image.new("RGB", (8 * side + 24, 5 * (side + HEAD)), "white")
    for i, (name, top, left) in enumerate(CROPS):
        for j, (word, x) in enumerate(enlarged(networks, size, name).items()):
            square = Image.fromarray(to_uint8(x[:, top:top + SIDE, left:left + SIDE])).resize((side, side), Image.Resampling.NEAREST)
            place = (i % 2 * (4 * side + 24) + j * side, i // 2 * (side + HEAD))
            sheet.paste(square, (place[0], place[1] + HEAD))
            ImageDraw.Draw(sheet).text((place[0] + 2, place[1] + 2), f"{name}: {word}" if j == 0 else word, fill="black", font=font)
    sheet.save(ROOT / "nbs" / "images" / "mini-real.jpg" if size == "real" else ROOT / "nbs" / "images" / f"{size}-gan.jpg", quality=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
