"What guards the picture files and the numbers in them, beyond what the lessons check."
import io
import os
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.color import rgb2ycbcr

import esrdgan.image as image
from esrdgan.files import Notes
from esrdgan.image import (Picture, PictureError, PictureWarning, UnsupportedKind, check_format, compare, encode_png, find_pictures, list_pictures, luma, mod_crop,
                           picture_suffixes, quantize, read_image, read_picture, show, to_float, to_uint8, to_uint16, write_image, write_picture)
from picture_kinds import ADAM7, COLOUR, COLOURS, DEEP, FLAT, GREYS, RGBA, SRGB, deep_grey, deep_tiff, encoded, orientation, png, png_with, raw, saved, tiff


def pictures(bits=8, **others):
    return Picture(to_float(COLOURS if bits == 8 else DEEP), bits=bits, **others)


# numbers

@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.sampled_from([np.uint8, np.uint16]), st.integers(0, 2**32 - 1))
def test_whole_numbers_survive(height, width, channels, dtype, seed):
    a = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)
    back = (to_uint8 if dtype == np.uint8 else to_uint16)(to_float(a))
    assert back.dtype == dtype and np.array_equal(back, a)


def test_rounding_is_to_the_nearest_and_clamped():
    x = torch.tensor([-5., 0, .4999 / 255, .5001 / 255, 254.4999 / 255, 1, float("inf")]).reshape(1, 1, -1)
    assert to_uint8(x).ravel().tolist() == [0, 0, 0, 1, 254, 255, 255]
    assert torch.equal(quantize(x), to_float(to_uint8(x)))
    assert to_uint8(x.bfloat16().requires_grad_()).dtype == np.uint8      # a network's raw output may come straight in


def test_views_and_strange_orders_are_accepted():
    turned = np.rot90(COLOURS)[::-1]
    assert torch.equal(to_float(turned), to_float(turned.copy()))
    assert to_float(COLOURS).is_contiguous()


@pytest.mark.parametrize("dtype", [np.int32, np.float32, bool])
def test_other_types_are_refused(dtype):
    with pytest.raises(TypeError, match="uint8 or uint16"):
        to_float(COLOURS.astype(dtype))


def test_luma_is_scikit_images():
    x = torch.rand(2, 3, 17, 13, generator=torch.Generator().manual_seed(0))
    for one, y in zip(x, luma(x)):
        assert np.allclose(y[0] * 255, rgb2ycbcr(one.permute(1, 2, 0).double().numpy())[..., 0], atol=1e-3)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 8))
def test_mod_crop(height, width, scale):
    x = torch.zeros(3, height, width)
    if min(height, width) < scale:
        with pytest.raises(ValueError, match=f"{width}x{height} is smaller than the scale {scale}"):
            mod_crop(x, scale)
    else:
        size = mod_crop(x, scale).shape[1:]
        assert all(n % scale == 0 and 0 <= whole - n < scale for n, whole in zip(size, (height, width)))


# reading

def deep_array(path):
    picture = read_picture(path)
    planes = picture.rgb[:1] if picture.grey else picture.rgb
    return to_uint16(planes if picture.alpha is None else torch.cat([planes, picture.alpha]))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("passes", [((0, 0, 1, 1),), ADAM7], ids=["plain", "interlaced"])
def test_sixteen_bits_of_every_filter(channels, passes, tmp_path):
    a = np.random.default_rng(channels).integers(0, 65536, (13, 11, channels), dtype=np.uint16)
    a[5:] //= 999                                          # smooth enough for every branch of the filters
    for filters in ([0], [1], [2], [3], [4], [4, 1, 0, 3, 2]):
        (tmp_path / "deep.png").write_bytes(png(a, 16, filters=filters, passes=passes))
        assert np.array_equal(deep_array(tmp_path / "deep.png"), a)


@pytest.mark.parametrize("form, options", [("PNG", {}), ("JPEG", {"quality": 95}), ("GIF", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}),
                                           ("WEBP", {"lossless": True}), ("BMP", {})])
@pytest.mark.filterwarnings("error")
def test_any_cut_gives_a_picture_or_one_line(form, options, tmp_path):
    "Cut a file anywhere: never another kind of error, and no warning."
    whole = encoded(Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)), form, **options)
    path = tmp_path / "cut.bin"
    refused = 0
    for length in range(1, len(whole) - 32, max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        try:
            assert read_picture(path).rgb.shape == (3, 24, 24)
        except PictureError as error:
            refused += 1
            assert "cut.bin" in str(error) and "\n" not in str(error)
    assert refused > 40


@pytest.mark.parametrize("bits", [8, 16])
def test_any_wrong_byte_gives_a_picture_or_one_line(bits, tmp_path):
    whole = png((DEEP if bits == 16 else COLOURS).astype(np.uint16 if bits == 16 else np.uint8), bits)
    path = tmp_path / "wrong.png"
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1:])
        try:
            read_picture(path)
        except PictureError as error:
            assert "wrong.png" in str(error) and "\n" not in str(error)


def test_the_limit_is_pillows(tmp_path, monkeypatch):
    Image.fromarray(COLOURS).save(tmp_path / "six.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)      # over the limit: Pillow warns
    with pytest.raises(PictureError, match="more than 5 pixels"):
        read_picture(tmp_path / "six.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)      # over twice the limit: Pillow raises
    with pytest.raises(PictureError, match="more than 2 pixels"):
        read_picture(tmp_path / "six.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6)
    assert read_picture(tmp_path / "six.png").rgb.shape == (3, 2, 3)


def test_names_beyond_ascii(tmp_path):
    path = tmp_path / "Übung 写真 (1).png"
    write_picture(pictures(16), path)
    assert np.array_equal(to_uint16(read_picture(path).rgb), DEEP)
    assert list_pictures(tmp_path) == [path]


# writing

@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (31, 17)])
def test_png16_comes_back(channels, size, tmp_path):
    a = np.random.default_rng(channels).integers(0, 65536, (*size, channels), dtype=np.uint16)
    for layout in (a, np.asfortranarray(a), a[::-1]):
        (tmp_path / "deep.png").write_bytes(encode_png(layout))
        Image.open(tmp_path / "deep.png").verify()         # every checksum is right
        assert np.array_equal(deep_array(tmp_path / "deep.png"), layout)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png16_against_opencv(channels):
    cv2 = pytest.importorskip("cv2")                       # comes with pyiqa
    a = np.random.default_rng(channels).integers(0, 65536, (31, 17, channels), dtype=np.uint16)
    theirs = cv2.imdecode(np.frombuffer(encode_png(a), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(theirs.reshape(a.shape), a if channels == 1 else a[..., [2, 1, 0, 3][:channels]])


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "out.webp", "out.tif"])
def test_profile_is_carried(name, tmp_path):
    write_picture(pictures(icc=SRGB), tmp_path / name)
    assert Image.open(tmp_path / name).info["icc_profile"] == SRGB
    assert read_picture(tmp_path / name).icc == SRGB


def test_profile_of_16_bits_is_carried(tmp_path):
    write_picture(pictures(16, icc=SRGB), tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").info["icc_profile"] == SRGB


def test_only_a_fitting_profile_is_written(tmp_path):
    grey = SRGB[:16] + b"GRAY" + SRGB[20:]
    for icc, is_grey, kept in [(SRGB, False, True), (SRGB, True, False), (grey, True, True), (grey, False, False)]:
        write_picture(Picture(to_float(GREYS).expand(3, -1, -1), grey=is_grey, icc=icc), tmp_path / "out.png")
        assert ("icc_profile" in Image.open(tmp_path / "out.png").info) == kept


def test_grey_is_written_grey(tmp_path):
    "After a network the three planes differ a little; their mean is written."
    rgb = to_float(GREYS).expand(3, -1, -1) + torch.tensor([.01, 0, -.01])[:, None, None]
    write_picture(Picture(rgb.clamp(.02, .98), grey=True), tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").mode == "L"
    write_image(torch.rand(1, 4, 5), tmp_path / "one.jpg")
    assert Image.open(tmp_path / "one.jpg").mode == "L"
    write_picture(Picture(rgb.clamp(0, 1), grey=True, bits=16), tmp_path / "deep.png")
    assert Image.open(tmp_path / "deep.png").mode.startswith("I")


@pytest.mark.parametrize("name, mode", [("out.png", "RGBA"), ("out.webp", "RGBA"), ("out.tif", "RGBA")])
def test_transparency_is_kept_where_it_can_be(name, mode, tmp_path):
    alpha = torch.tensor([[[0, .2, .4], [.6, .8, 1]]])
    write_picture(pictures(alpha=alpha), tmp_path / name)
    assert Image.open(tmp_path / name).mode == mode
    assert torch.allclose(read_picture(tmp_path / name).alpha, alpha, atol=1e-6)


@pytest.mark.parametrize("name", ["out.jpg", "out.bmp"])
def test_transparency_is_refused_where_it_would_be_lost(name, tmp_path):
    with pytest.raises(PictureError, match=f"{name}: (JPEG|BMP) cannot hold transparency; name a .png or .webp"):
        write_picture(pictures(alpha=torch.full((1, 2, 3), .99)), tmp_path / name)
    assert not list(tmp_path.iterdir())
    write_picture(pictures(alpha=torch.ones(1, 2, 3)), tmp_path / name)      # opaque everywhere: nothing is lost
    assert read_picture(tmp_path / name).alpha is None


@pytest.mark.parametrize("name", ["out.tif", "out.bmp", "out.webp", "out.jpg"])
def test_sixteen_bits_become_eight(name, tmp_path):
    flat = Picture(torch.full((3, 16, 16), 40000 / 65535), bits=16)
    write_picture(flat, tmp_path / name)
    back = read_picture(tmp_path / name)
    assert back.bits == 8 and (back.rgb - flat.rgb).abs().max() < 1.6 / 255


def test_quality_counts(tmp_path):
    picture = Picture(torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)))
    for suffix in ("jpg", "webp"):
        write_picture(picture, tmp_path / f"a.{suffix}", quality=95)
        write_picture(picture, tmp_path / f"b.{suffix}", quality=20)
        assert (tmp_path / f"b.{suffix}").stat().st_size < .5 * (tmp_path / f"a.{suffix}").stat().st_size


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    write_image(to_float(COLOURS), path)
    def broken(*_): raise OSError("the disk is full")
    monkeypatch.setattr(image.os, "replace", broken)
    with pytest.raises(PictureError, match="out.png cannot be written: the disk is full"):
        write_image(torch.zeros(3, 2, 3), path)
    monkeypatch.undo()
    assert np.array_equal(to_uint8(read_image(path)), COLOURS)
    assert os.listdir(tmp_path) == ["out.png"]


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder.png").mkdir()
    for name, words in [("out.gif", "cannot write .gif"), ("out", "a file without a suffix"), ("file/out.png", "cannot be written"),
                        ("folder.png", "cannot be written")]:
        with pytest.raises(PictureError, match=words) as caught:
            write_image(torch.zeros(3, 2, 3), tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(PictureError, match="wide.webp cannot be written"):
        write_image(torch.zeros(1, 1, 16400), tmp_path / "wide.webp")          # WebP ends at 16383
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


# lists, sheets

def names(paths, folder):
    return sorted(p.relative_to(folder).as_posix() for p in paths)


@pytest.fixture
def tree(tmp_path):
    "Folders in folders, with all that is found in folders."
    for name in ("b.PNG", "a.jpeg", "._a.jpeg", "notes.txt", "c.webp", "deep/er/d.png", "deep/e.tga", "deep/f.jpe", "g.jfif", ".hidden/h.png", "@eaDir/i.jpg", "raw/j.NEF", "raw/k.exr"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_find_pictures_tells_of_every_file(tree):
    found = find_pictures(tree)
    assert names(found.places, tree) == ["a.jpeg", "b.PNG", "c.webp", "deep/e.tga", "deep/er/d.png", "deep/f.jpe", "g.jfif"]
    assert all(tree / place == path for path, place in found.places.items())
    assert [(p.name, why.split(":")[0]) for p, why in found.skipped] == [("j.NEF", "is a camera's raw file"), ("k.exr", "is a kind (.exr) that cannot be read")]
    assert names(found.others, tree) == ["notes.txt"] and not found.failed
    flat = find_pictures(tree, recursive=False)
    assert names(flat.places, tree) == ["a.jpeg", "b.PNG", "c.webp", "g.jfif"] and not flat.skipped
    assert find_pictures([tree / "deep" / "e.tga", tree / "notes.txt"]).places == {tree / "deep" / "e.tga": image.Path("e.tga"), tree / "notes.txt": image.Path("notes.txt")}


def test_list_pictures_is_sorted_and_warns_of_what_it_passes_over(tree):
    with pytest.warns(PictureWarning, match="passed over: .*j.NEF: is a camera's raw file.*k.exr"):
        assert [p.name for p in list_pictures(tree)] == ["a.jpeg", "b.PNG", "c.webp", "e.tga", "d.png", "f.jpe", "g.jfif"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = list_pictures([tree / "deep", str(tree / "notes.txt"), tree / "deep" / "er" / "d.png"])
    assert [p.name for p in both] == ["e.tga", "d.png", "f.jpe", "notes.txt"]


@pytest.mark.parametrize("name, words", [("nowhere", "nowhere: there is no such"), ("raw", "no picture in this folder; j.NEF: is a camera's raw file"),
                                         ("n" * 300, "name too long"), ("notes.txt/a.png", "Not a directory")])
def test_where_there_is_nothing(name, words, tree):
    if words == "name too long" and os.name == "nt": pytest.skip("another message there")
    with pytest.raises(PictureError, match=f"(?i){words}") as caught:
        list_pictures([tree, tree / name])
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_links_are_followed_but_not_in_circles(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "l.png").touch()
    (tree / "deep" / "up").symlink_to(tree, target_is_directory=True)
    (tree / "linked").symlink_to(elsewhere, target_is_directory=True)
    (tree / "gone.png").symlink_to(tree / "nowhere.png")
    found = names(find_pictures(tree).places, tree)
    assert len(found) == 9 and {"linked/l.png", "gone.png"} <= {*found}
    with pytest.raises(PictureError, match="gone.png: there is no such file"):
        read_picture(tree / "gone.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(PictureError, match="a.png is a device or a pipe"):
        read_picture(tmp_path / "a.png")


def test_a_folder_that_cannot_be_read_is_named_and_the_rest_found(tree, monkeypatch):
    scan = os.scandir
    def forbidden(path):
        if os.fspath(path).endswith("deep"): raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)
    monkeypatch.setattr(os, "scandir", forbidden)
    found = find_pictures(tree)
    assert len(found.places) == 4 and [(p.name, why) for p, why in found.failed] == [("deep", "cannot be read: Permission denied")]


def test_what_pillow_opens_is_found():
    assert {".png", ".jpg", ".jpe", ".jfif", ".tga", ".webp", ".gif", ".tif", ".jp2", ".psd", ".ico", ".pbm"} <= picture_suffixes()
    assert not {".mpg", ".h5", ".txt", ".dng", ".svg"} & picture_suffixes()


@pytest.mark.parametrize("module, form, suffix", [("pillow_heif", "HEIF", "heic"), ("pillow_jxl", "JXL", "jxl")])
def test_kinds_that_an_extra_reads(module, form, suffix, tmp_path):
    pytest.importorskip(module)
    assert f".{suffix}" in picture_suffixes()
    FLAT.save(tmp_path / f"a.{suffix}", form, exif=orientation(6).tobytes(), quality=95)
    picture = read_picture(tmp_path / f"a.{suffix}")
    assert (picture.rgb * 255 - torch.tensor([200., 100, 50])[:, None, None]).abs().max() < 4 and list_pictures(tmp_path)


@pytest.mark.parametrize("data, words", [(b"\0\0\0\x18ftypheic" + bytes(60), "HEIC or AVIF picture, which needs: pip install pillow-heif"),
                                         (b"\xff\x0a" + bytes(60), "JPEG XL picture, which needs: pip install pillow-jxl-plugin")])
def test_kinds_without_their_extra(data, words, tmp_path, monkeypatch):
    for name in ("pillow_heif", "pillow_jxl"): monkeypatch.setitem(sys.modules, name, None)
    if {".heic", ".jxl"} & {*Image.registered_extensions()}: pytest.skip("the extra is at work already")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UnsupportedKind, match=words):
        read_picture(tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(data)
    assert [why for _, why in find_pictures(tmp_path).skipped] == ["needs: pip install pillow-heif"]


# what is left out is said

MOVE = dict(save_all=True, append_images=[COLOUR.rotate(180), COLOUR])


@pytest.mark.parametrize("maker, said", [
    (saved("a", COLOUR, "gif", **MOVE), "frame 1 of 3"), (saved("a", COLOUR, "tif", **MOVE), "frame 1 of 3"), (saved("a", COLOUR, "png", **MOVE), "frame 1 of 3"),
    (saved("a", COLOUR, "webp", **MOVE), "frame 1 of 3"), (saved("a", FLAT, "mpo", save_all=True, append_images=[FLAT]), "frame 1 of 2"),
    (saved("a", COLOUR, "sgi", bpc=2), "8 of its 16 bits per channel"), (raw("a.jpg", encoded(FLAT, "JPEG")[:2] + b"\xff\xe0\0\7JFIF\0" + encoded(FLAT, "JPEG")[2:]), "its side data is broken and left out"),
    (saved("a", COLOUR, "png"), None), (saved("a", FLAT, "jpg"), None), (saved("a", COLOUR, "sgi"), None)])
def test_what_reading_leaves_out_is_a_remark(maker, said, tmp_path):
    path = maker(tmp_path)
    assert read_picture(path).remarks == ([said] if said else [])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_image(path)
    assert [str(w.message) for w in caught if w.category is PictureWarning] == ([f"{path}: {said}"] if said else [])


def test_a_damaged_second_frame_does_not_stop_the_first(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    whole = encoded(FLAT, "GIF", save_all=True, append_images=[noise])
    (tmp_path / "a.gif").write_bytes(whole[:-200])
    assert read_picture(tmp_path / "a.gif").rgb.shape == (3, 16, 16)


@pytest.mark.parametrize("name, depth, lost", [("a.png", 16, []), ("a.tif", 8, ["8 of its 16 bits"]), ("a.webp", 8, ["8 of its 16 bits"])])
def test_sixteen_bits_that_are_lost_are_told(name, depth, lost, tmp_path):
    assert write_picture(pictures(16), tmp_path / name) == lost
    assert read_picture(tmp_path / name).bits == depth


def test_sixteen_bits_of_grey_stay_in_a_tiff(tmp_path):
    grey = Picture(to_float(DEEP[..., :1]).expand(3, -1, -1), grey=True, bits=16, notes=Notes(dpi=(300, 300)))
    assert write_picture(grey, tmp_path / "a.tif") == []
    back = read_picture(tmp_path / "a.tif")
    assert back.bits == 16 and np.array_equal(to_uint16(back.rgb), to_uint16(grey.rgb)) and back.notes.dpi == (300, 300)


@pytest.mark.parametrize("a, options", [(DEEP, {}), (DEEP, {"compression": "zlib"}), (DEEP.transpose(2, 0, 1), {"planarconfig": "separate"}), (DEEP, {"bigtiff": True}), (DEEP.astype(">u2"), {"byteorder": ">"})])
def test_deep_tiffs_of_every_layout(a, options, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", a, photometric="rgb", **options)
    assert np.array_equal(to_uint16(read_picture(tmp_path / "a.tif").rgb), DEEP)


def test_colours_times_alpha_are_divided(tmp_path):
    pytest.importorskip("tifffile")
    half = np.dstack([DEEP // 2, np.full((2, 3), 32768, np.uint16)])
    n = half.shape[2]
    (tmp_path / "a.tif").write_bytes(tiff((3, 2), half.tobytes(), t258=(16,) * n, t262=2, t277=n, t338=1))
    assert abs(to_uint16(read_picture(tmp_path / "a.tif").rgb).astype(int) - DEEP).max() <= 3


def test_without_tifffile_a_deep_tiff_is_refused_with_advice(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    (tmp_path / "a.tif").write_bytes(deep_tiff(DEEP))
    with pytest.raises(PictureError, match="of which only 8 could be read: pip install tifffile, or save it as a 16-bit PNG"):
        read_picture(tmp_path / "a.tif")


def test_a_turned_tiff_of_twelve_and_sixteen_bits(tmp_path):
    for number, expected in ((6, np.rot90(DEEP[..., 0], -1)), (3, np.rot90(DEEP[..., 0], 2)), (9, DEEP[..., 0])):
        (tmp_path / "a.tif").write_bytes(tiff((3, 2), DEEP[..., 0].astype("<u2").tobytes(), t258=16, t274=number))
        assert np.array_equal(to_uint16(read_picture(tmp_path / "a.tif").rgb)[..., 0], expected)
    pytest.importorskip("tifffile")
    (tmp_path / "a.tif").write_bytes(tiff((3, 2), DEEP.astype("<u2").tobytes(), t258=(16,) * 3, t262=2, t277=3, t274=6))
    assert np.array_equal(to_uint16(read_picture(tmp_path / "a.tif").rgb), np.rot90(DEEP, -1))


# before the work

@pytest.mark.parametrize("picture, name, size, words", [
    (Picture(torch.zeros(3, 1, 1), torch.zeros(1, 1, 1)), "a.jpg", (1, 1), "JPEG cannot hold transparency"), (pictures(), "a.jpg", (70_000, 4), "JPEG holds 65,535 pixels a side"),
    (pictures(), "a.webp", (4, 16_384), "WEBP holds 16,383 pixels a side"), (pictures(), "a.gif", (1, 1), "cannot write .gif")])
def test_a_format_that_cannot_hold_the_result_is_known_before_the_work(picture, name, size, words):
    with pytest.raises(PictureError, match=words):
        check_format(picture, name, size)


def test_formats_hold_what_they_can():
    assert [check_format(pictures(), f"a{s}", (9, 9)) for s in (".png", ".JPG", ".webp", ".tiff", ".bmp")] == ["PNG", "JPEG", "WEBP", "TIFF", "BMP"]


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "out.webp", "out.tif"])
def test_a_picture_read_and_written_still_says_who_made_it_but_is_upright(name, tmp_path):
    exif = orientation(6)
    exif[0x013B], exif.get_ifd(0x8769)[0xA002] = "the maker", 16
    FLAT.crop((0, 0, 16, 8)).save(tmp_path / "in.jpg", exif=exif)
    picture = read_picture(tmp_path / "in.jpg")
    assert picture.rgb.shape == (3, 16, 8) and write_picture(picture, tmp_path / name) == []
    with Image.open(tmp_path / name) as im:
        assert im.size == (8, 16) and im.getexif()[0x013B] == "the maker" and im.getexif().get(0x0112, 1) == 1 and im.getexif().get_ifd(0x8769)[0xA002] == 8
    assert read_picture(tmp_path / name).rgb.shape == (3, 16, 8)


def test_gamma_stays_beside_sixteen_bits(tmp_path):
    (tmp_path / "in.png").write_bytes(png(DEEP, 16, [(b"gAMA", (100000).to_bytes(4, "big"))]))
    write_picture(read_picture(tmp_path / "in.png"), tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").info["gamma"] == 1.0


@pytest.mark.parametrize("count, columns, panels", [(1, 4, 1), (4, 4, 4), (5, 4, 8), (3, 1, 3)])
def test_show(count, columns, panels):
    sheet = show([torch.rand(3, 5, 7)] * count, columns=columns)
    assert len(sheet.axes) == panels and sum(bool(ax.images) for ax in sheet.axes) == count
    assert sheet._repr_png_()[:4] == b"\x89PNG"


def test_show_takes_grey_half_and_overshoot():
    sheet = show({"grey": torch.rand(1, 5, 7), "half": (torch.rand(3, 5, 7) * 2 - .5).half().requires_grad_()}, zoom=2)
    assert [ax.get_title() for ax in sheet.axes] == ["grey", "half"]
    assert all(0 <= ax.images[0].get_array().min() and ax.images[0].get_array().max() <= 1 for ax in sheet.axes)


def test_compare_shows_the_same_part_of_every_size():
    large = torch.rand(3, 64, 96)
    small = large[:, ::4, ::4]
    sheet = compare({"small": small, "large": large}, box=(16, 32, 24, 40))
    crops = [np.asarray(ax.images[0].get_array()) for ax in sheet.axes[2:]]
    assert np.allclose(crops[0], small[:, 4:10, 8:18].permute(1, 2, 0)) and np.allclose(crops[1], large[:, 16:40, 32:72].permute(1, 2, 0))
    tiny = compare({"tiny": large[:, :4, :6], "large": large}, box=(0, 0, 4, 4))
    assert tiny.axes[2].images[0].get_array().shape == (1, 1, 3)
