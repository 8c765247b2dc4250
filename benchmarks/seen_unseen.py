"""Does a network know the photographs it learned from better than others? Measured where it learned and where it did not, beside bicubic and tiny-psnr.

    python benchmarks/seen_unseen.py FOLDER_OF_PICTURES MODEL...

FOLDER is the one the recipes tiny-psnr and mini-psnr were trained on: twenty of its pictures were held out. Three sets of twenty that were learned
from stand beside them. MODEL is a name or a file. The rows go to benchmarks/seen_unseen.jsonl, which lesson 15 reads.
"""
import argparse
import json
from pathlib import Path

from tqdm import tqdm

from esrdgan.build import RunPictures
from esrdgan.evaluate import resize8
from esrdgan.image import mod_crop, quantize, read_image
from esrdgan.inference import upscale
from esrdgan.metrics import psnr_y_crop4
from esrdgan.recipes import recipe_config
from esrdgan.weights import load_generator


def sets(folder):
    "Held out, and three sets of as many that were not, evenly spread as well."
    config = recipe_config("mini-psnr")
    config.data.hr = str(folder)
    learned, held = RunPictures(config).files
    step = len(learned) // len(held)
    return {"held out": held} | {f"learned from, {i + 1}": learned[5 * i + 2::step][:len(held)] for i in range(3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    models = {name: load_generator(name) for name in ("tiny-psnr", *args.models)}
    rows = []
    for what, files in sets(args.folder).items():
        total = dict.fromkeys(("bicubic", *models), 0.)
        for path in tqdm(files, desc=what):
            hr = mod_crop(read_image(path), 4)
            lr = resize8(hr, 1 / 4)
            total["bicubic"] += psnr_y_crop4(resize8(lr, 4), hr)
            for name, model in models.items(): total[name] += psnr_y_crop4(quantize(upscale(model, lr)), hr)
        rows.append({"set": what, "pictures": len(files)} | {Path(name).name if name in models else name: round(x / len(files), 4) for name, x in total.items()})
        print(rows[-1])
    Path(__file__).with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
