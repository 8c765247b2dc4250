"""Three fixed, seeded damages of any folder of pictures, to measure networks on: what people's pictures have been through before they are enlarged.

    python benchmarks/damages.py FOLDER OUT

makes OUT/HR (the pictures, sides cropped to multiples of four) and beside it four folders of LR pictures with the same names:

    clean    bicubic alone
    jpeg70   bicubic, then JPEG of quality 70
    dull     blur of 1.6 px, bicubic, noise of 4/255, then JPEG of quality 55
    wild     the preset `wild` of the room `degrade`, another draw for each picture

Then, for instance: esrdgan test --model x4plus --against mini-gan --metric lpips --precision fp32 --hr OUT/HR --lr OUT/jpeg70
Which picture gets which draw depends on its place in the sorted folder alone, so the same folder gives the same files.
"""
import argparse
from pathlib import Path

from tqdm import tqdm

from esrdgan.data import counted_generator
from esrdgan.degrade import PRESETS, blur, degrade, gaussian_kernel, gaussian_noise, jpeg
from esrdgan.image import list_pictures, mod_crop, quantize, read_image, write_image
from esrdgan.resize import imresize

SCALE = 4


def small(hr): return quantize(imresize(hr, 1 / SCALE))


def dull(hr, draw): return jpeg(gaussian_noise(small(blur(hr, gaussian_kernel(1.6))), 4 / 255, draw), 55)


DAMAGES = dict(
    clean=lambda hr, draw: small(hr),
    jpeg70=lambda hr, draw: jpeg(small(hr), 70),
    dull=dull,
    wild=lambda hr, draw: degrade(hr, SCALE, draw, PRESETS["wild"]),
)


def make(paths, out):
    "Write HR and the four kinds of LR. `paths` in the order that decides on the draws."
    for number, path in enumerate(tqdm(paths, desc="damaging", unit="picture", disable=None)):
        hr = mod_crop(read_image(path), SCALE)
        write_image(hr, Path(out, "HR", f"{path.stem}.png"))
        for name, damage in DAMAGES.items():
            write_image(damage(hr, counted_generator(0, number, name)), Path(out, name, f"{path.stem}.png"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    make(list_pictures(args.folder), args.out)


if __name__ == "__main__":
    main()
