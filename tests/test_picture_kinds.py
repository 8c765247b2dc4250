"Every kind of picture is read right, or refused in one line that names the file."
import numpy as np
import pytest
import torch
from PIL import Image

from esrdgan import image
from esrdgan.image import Picture, PictureError, read_image, read_picture, to_uint8, to_uint16, write_picture
from picture_kinds import KINDS, Kind


def whole(x, bits):
    return (to_uint8 if bits == 8 else to_uint16)(x).astype(int)


def agrees(picture, kind):
    assert isinstance(picture, Picture) and picture.rgb.dtype == torch.float32
    assert (picture.bits, picture.grey, picture.icc) == (kind.bits, kind.grey, kind.icc)
    assert picture.rgb.shape == (3, *kind.rgb.shape[:2])
    assert abs(whole(picture.rgb, kind.bits) - kind.rgb.astype(int)).max() <= kind.off_by
    assert (picture.alpha is None) == (kind.alpha is None)
    if kind.alpha is not None:
        assert np.array_equal(whole(picture.alpha, kind.bits)[..., 0], kind.alpha)


def kinds(expectation):
    return [pytest.param(maker, expected, id=name) for name, maker, expected in KINDS if isinstance(expected, expectation)]


@pytest.mark.filterwarnings("ignore::esrdgan.image.PictureWarning")
@pytest.mark.parametrize("maker, kind", kinds(Kind))
def test_read_right(maker, kind, tmp_path):
    path = maker(tmp_path)
    agrees(read_picture(path), kind)
    assert torch.equal(read_image(str(path)), read_picture(path).rgb)


@pytest.mark.parametrize("maker, kind", kinds(Kind))
def test_written_and_read_again(maker, kind, tmp_path):
    picture = read_picture(maker(tmp_path))
    write_picture(picture, tmp_path / "again" / "out.png")
    agrees(read_picture(tmp_path / "again" / "out.png"), kind)
    assert [p.name for p in (tmp_path / "again").iterdir()] == ["out.png"]


@pytest.mark.parametrize("maker, words", kinds(str))
def test_refused_in_one_line(maker, words, tmp_path):
    path = maker(tmp_path)
    with pytest.raises(PictureError) as caught:
        read_picture(path)
    line = str(caught.value)
    assert words in line and path.name in line
    assert "\n" not in line and len(line) < len(str(path)) + 160


def test_the_table_is_complete():
    assert len({name for name, _, _ in KINDS}) == len(KINDS) >= 22


@pytest.mark.parametrize("release, width, right", [(12, 3, False), (12, 4, True), (13, 3, True)])
def test_a_pcx_that_an_older_pillow_would_mix_up_is_refused(release, width, right, tmp_path, monkeypatch):
    if width % 2 and right and image._PILLOW < 13: pytest.skip("this Pillow would mix it up")
    colours = np.random.default_rng(0).integers(0, 256, (2, width, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.pcx")
    monkeypatch.setattr(image, "_PILLOW", release)
    if right: assert torch.equal((read_picture(tmp_path / "a.pcx").rgb * 255).round().byte(), torch.from_numpy(colours).permute(2, 0, 1))
    else:
        with pytest.raises(PictureError, match="odd width.*Pillow 13"): read_picture(tmp_path / "a.pcx")
