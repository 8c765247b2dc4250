"""Pairs to teach a small network what a large one makes of damaged pictures: LR damaged as the presets do, and in place of HR the teacher's answer.

    python benchmarks/student.py FOLDER OUT --teacher x4plus --rounds 2 --without HELD

writes OUT/LR, pictures of FOLDER made small and damaged (each ROUNDS times, by the preset `photo`, `web` or `wild` in turn, every tenth left clean), and lets
`esrdgan use` enlarge them into OUT/HR; stopped and begun again, both go on. Then `esrdgan train --cfg benchmarks/student.ini` learns from the two folders. Files that HELD holds are left out. Everything is seeded.
"""
import argparse
import subprocess
import sys
from pathlib import Path

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
    subprocess.run([sys.executable, "-m", "esrdgan", "use", str(args.out / "LR"), "--out", str(args.out / "HR"), "--model", args.teacher, "--suffix", ""], check=True)


if __name__ == "__main__":
    main()
