"""From the package that carries LPIPS's numbers to lpips-alex.safetensors (fp16) in this folder.

    python weights/lpips.py

Prints size, sha256, and what half the bits cost.
"""
from pathlib import Path

import torch
from safetensors.torch import save_file

from esrdgan.fetch import sha256
from esrdgan.image import list_pictures, read_image
from esrdgan.perception import LAYERS, Lpips, boxed_arrays, load_lpips, torch_convs
from esrdgan.resize import imresize

HERE = Path(__file__).resolve().parent


def main():
    arrays = boxed_arrays("alexnet")
    state = torch_convs(arrays["AlexNet_0"], LAYERS)
    state |= {f"judge.{i}": torch.tensor(arrays[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).flatten() for i in range(len(LAYERS))}
    path = HERE / "lpips-alex.safetensors"
    save_file({k: v.half() for k, v in state.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)
    exact, half = Lpips(state), load_lpips()
    print(f"{path.name}: {path.stat().st_size:,} bytes, sha256 {sha256(path)}")
    for name in list_pictures(HERE.parent / "data" / "valid"):
        hr = read_image(name)[None, :, :256, :256]
        sr = imresize(imresize(hr[0], 1 / 4), 4)[None].clamp(0, 1)
        print(f"{name.stem:12} {exact(sr, hr).item():.5f} from fp32, {half(sr, hr).item():.5f} from fp16")


if __name__ == "__main__":
    main()
