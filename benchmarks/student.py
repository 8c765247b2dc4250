"""Pairs to teach a small network what a large one makes of damaged pictures: LR damaged as the presets do, and in place of HR the teacher's answer.

    python benchmarks/student.py FOLDER OUT --teacher x4plus --rounds 2 --without HELD

writes OUT/LR, pictures of FOLDER made small and damaged (each ROUNDS times, by the preset `photo`, `web` or `wild` in turn, every tenth left clean), and lets
`esrdgan use` enlarge them into OUT/answers; stopped and begun again, both go on. The teacher's colours are off by 4/255 on average: OUT/HR has its answers with the means of 8 x 8 small pixels as they
were. Then `esrdgan train --cfg benchmarks/student.ini` learns from OUT/LR and OUT/HR. Files that HELD holds are left out. Everything is seeded.
"""
import argparse
import subprocess
import sys
from pathlib import Path

from torch.nn import functional as F
from tqdm import tqdm

from esrdgan.data import counted_generator
from esrdgan.degrade import PRESETS, degrade
from esrdgan.image import list_pictures, mod_crop, read_image, write_image

SCALE, TAUGHT = 4, ("photo", "web", "wild")


def damaged(hr, number, round):
    "A small picture; which damage it meets depends on its number and round alone."
    preset = "clean" if (number + round) % 10 == 0 else TAUGHT[(number + round) % 3]
    return degrade(hr, SCALE, counted_generator(1, number, f"student {round}"), PRESETS[preset])


def make(paths, out, rounds):
    "Write the LR that are not there yet."
    for number, path in enumerate(tqdm(paths, desc="damaging", unit="picture", disable=None)):
        for round in range(rounds):
            place = Path(out, "LR", f"{path.stem}_{round}.png")
            if not place.exists(): write_image(damaged(mod_crop(read_image(path), SCALE), number, round), place)


def same_colours(sr, lr, side=8):
    "`sr`, the mean of each square of `side` x `side` small pixels brought to what it is in `lr`; between the squares bicubic."
    squares = [max(1, n // side) for n in lr.shape[1:]]
    missing = F.adaptive_avg_pool2d(lr[None], squares) - F.adaptive_avg_pool2d(sr[None], squares)
    return (sr + F.interpolate(missing, size=sr.shape[1:], mode="bicubic", align_corners=False)[0]).clamp(0, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--teacher", default="x4plus")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--without", type=Path, help="a folder: pictures with these names are left out")
    args = parser.parse_args()
    held = {p.stem for p in list_pictures(args.without)} if args.without else set()
    make([p for p in list_pictures(args.folder) if p.stem not in held], args.out, args.rounds)
    subprocess.run([sys.executable, "-m", "esrdgan", "use", str(args.out / "LR"), "--out", str(args.out / "answers"), "--model", args.teacher, "--suffix", ""], check=True)
    for answer in tqdm(list_pictures(args.out / "answers"), desc="colours", unit="picture", disable=None):
        write_image(same_colours(read_image(answer), read_image(args.out / "LR" / answer.name)), args.out / "HR" / answer.name)


if __name__ == "__main__":
    main()
