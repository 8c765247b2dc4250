"Files written whole or not at all, and the side data of pictures: never in the way, never lost in silence."
import io
import os
import struct
import zlib

import pytest
from PIL import Image

from esrdgan import files
from esrdgan.files import Notes, atomic_write, bare, check_writable, made_by_us, orientation, pillow_notes, png_chunk, png_notes, png_profile, read_notes, stripped
from picture_kinds import COLOUR, FLAT, SRGB, encoded, orientation as turned, segment


def notes_of(data):
    return read_notes(Image.open(io.BytesIO(bare(data))), data)


def with_chunk(kind, content):
    data = encoded(COLOUR, "PNG")
    return data[:33] + png_chunk(kind, content) + data[33:]


# writing

def test_a_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = atomic_write(tmp_path / "deep" / "er" / "a.bin", b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_two_writers_of_one_file_do_not_share_a_part(tmp_path, monkeypatch):
    parts, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (parts.append(a), replace(a, b)))
    for _ in range(2):
        atomic_write(tmp_path / "a.bin", b"x")
    assert len({*parts}) == 2 and all(p.name[0] == "." for p in parts)


def test_a_name_as_long_as_the_system_allows(tmp_path):
    name = "n" * 251 + ".bin"
    check_writable(tmp_path / name)
    assert atomic_write(tmp_path / name, b"x").read_bytes() == b"x"
    with pytest.raises(OSError, match="long"):
        check_writable(tmp_path / f"n{name}")


def test_what_cannot_be_written_is_known_before(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(OSError):
            check_writable(path)
    monkeypatch.setattr(files.Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        check_writable(tmp_path / "a.png")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


# reading notes

@pytest.mark.parametrize("value, turn", [(1, 1), (2, 2), (8, 8), (0, 1), (9, 1), (65535, 1)])
def test_only_one_to_eight_turn(value, turn):
    assert orientation(Notes(turned(value).tobytes())) == turn


@pytest.mark.parametrize("content", [b"", b"oops", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"Exif\0\0" * 3, bytes(40)])
def test_broken_exif_says_nothing_and_never_raises(content):
    for data in (with_chunk(b"eXIf", content), encoded(FLAT, "JPEG")[:2] + segment(0xE1, b"Exif\0\0" + content) + encoded(FLAT, "JPEG")[2:]):
        assert orientation(notes_of(data)) == 1
    for write in (lambda n: png_notes(n, (8, 8)), lambda n: pillow_notes(n, (8, 8), "JPEG"), lambda n: pillow_notes(n, (8, 8), "TIFF")):
        write(Notes(content, made={"a": 1}))


def test_a_png_keeps_every_text_and_colour_chunk_as_it_is():
    chunks = [(b"tEXt", b"Title\0a scan"), (b"zTXt", b"w\0\0" + zlib.compress(b"x" * 3_000_000)), (b"iTXt", b"A\0\0\0\0\0\xc3\xa4"), (b"gAMA", struct.pack(">I", 100000)),
              (b"cICP", bytes([12, 13, 0, 1])), (b"cHRM", bytes(32)), (b"tIME", bytes(7)), (b"pHYs", struct.pack(">IIB", 11811, 11811, 1))]
    data = encoded(COLOUR, "PNG")
    data = data[:33] + b"".join(png_chunk(*c) for c in chunks) + data[33:]
    notes = notes_of(data)
    assert notes.chunks == chunks and round(notes.dpi[0]) == 300
    side, lost = png_notes(notes, (8, 8))
    assert not lost and all(png_chunk(*c) in side for c in chunks)
    assert {k for k, _ in stripped(notes).chunks} == {b"gAMA", b"cICP", b"cHRM"} and stripped(notes).dpi is None
    _, lost = pillow_notes(notes, (8, 8), "JPEG")
    assert lost == ["what its PNG says of colours", "its PNG's texts"]


def test_image_magicks_exif_in_letters_turns_once():
    raw = turned(6).tobytes()
    text = f"\nexif\n{len(raw)}\n{raw.hex()}\n".encode()
    for kind, content in ((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)), (b"tEXt", b"Raw profile type exif\0" + text)):
        notes = notes_of(with_chunk(kind, content))
        assert orientation(notes) == 6 and not notes.chunks
    assert orientation(notes_of(with_chunk(b"zTXt", b"Raw profile type exif\0\0nonsense"))) == 1


def test_xmp_turns_and_is_corrected():
    xmp = b'<x:xmpmeta tiff:Orientation="6" tiff:ImageWidth="40" exif:PixelYDimension="28" keep="6"/>'
    notes = notes_of(with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    assert orientation(notes) == 6
    side, _ = png_notes(notes, (112, 160))
    assert b'tiff:Orientation="1" tiff:ImageWidth="112" exif:PixelYDimension="160" keep="6"' in side


def test_a_profile_that_lies_about_its_size_stays_small():
    assert png_profile(with_chunk(b"iCCP", b"n\0\0" + zlib.compress(SRGB))) == SRGB
    assert png_profile(with_chunk(b"iCCP", b"n\0\0junk")) is None and png_profile(with_chunk(b"iCCP", b"")) is None
    assert len(png_profile(with_chunk(b"iCCP", b"n\0\0" + zlib.compress(bytes(1 << 25))))) == 1 << 24


# writing notes

def camera():
    exif = turned(6)
    exif[0x010F], exif[0x0131], exif[0x8298] = "Maker", "Darkroom 1", "(c) somebody"
    exif.get_ifd(0x8769).update({0x9003: "2021:05:06 07:08:09", 0xA002: 40, 0xA003: 28, 0x927C: b"secret" * 20})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 2.0)})
    return exif


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_goes_on_and_says_nothing_false(form, tmp_path):
    source = encoded(FLAT, "JPEG", exif=camera(), dpi=(300, 300), comment=b"hello", xmp=b"<x/>")
    notes = notes_of(source) if form == "PNG" else read_notes(Image.open(io.BytesIO(source)), source)
    notes = read_notes(Image.open(io.BytesIO(source)), source)
    notes.made = {"model": "m", "source": "ä"}
    path = tmp_path / f"a.{form.lower()}"
    plain = encoded(FLAT, form)
    if form == "PNG":
        side, lost = png_notes(notes, (112, 160))
        path.write_bytes(plain[:33] + side + plain[33:])
    else:
        options, lost = pillow_notes(notes, (112, 160), form)
        FLAT.save(path, form, **options)
    with Image.open(path) as im:
        exif = im.getexif()
        assert not lost and exif.get(0x0112, 1) == 1 and (exif[0x010F], exif[0x8298]) == ("Maker", "(c) somebody")
        inner, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
        assert (inner[0xA002], inner[0xA003], inner[0x9003]) == (112, 160, "2021:05:06 07:08:09") and inner[0x927C] == b"secret" * 20 and place[1] == "N"
        assert exif[0x0131].startswith("Darkroom 1")
        again = read_notes(im, path.read_bytes())
    assert made_by_us(path) == again.made == notes.made and again.xmp.rstrip(b"\0") == b"<x/>"
    assert form == "WEBP" or round(float(again.dpi[0])) == 300


def test_a_result_of_a_result_has_one_note_of_ours():
    notes = Notes(camera().tobytes(), made={"n": 1})
    for n in (1, 2):
        notes = Notes(pillow_notes(Notes(notes.exif, made={"n": n}), (8, 8), "JPEG")[0]["exif"])
    im = Image.open(io.BytesIO(encoded(FLAT, "JPEG", exif=notes.exif)))
    assert im.getexif()[0x0131] == 'Darkroom 1; esrdgan {"n": 2}'


def test_exif_too_large_for_a_jpeg_loses_the_makers_note_and_says_so(tmp_path):
    exif = camera()
    exif.get_ifd(0x8769)[0x927C] = bytes(70_000)
    options, lost = pillow_notes(Notes(exif.tobytes()), (8, 8), "JPEG")
    FLAT.save(tmp_path / "a.jpg", **options)
    assert lost == ["part of its EXIF"] and Image.open(tmp_path / "a.jpg").getexif().get_ifd(0x8825)[1] == "N"
    assert png_notes(Notes(exif.tobytes()), (8, 8))[1] == []


def test_a_long_text_does_not_hide_our_note(tmp_path):
    side, _ = png_notes(Notes(chunks=[(b"zTXt", b"w\0\0" + zlib.compress(os.urandom(200_000)))], made={"n": 1}), (3, 2))
    plain = encoded(COLOUR, "PNG")
    (tmp_path / "a.png").write_bytes(plain[:33] + side + plain[33:])
    assert made_by_us(tmp_path / "a.png") == {"n": 1}


@pytest.mark.parametrize("content", [b"", b"mine", encoded(COLOUR, "PNG"), encoded(FLAT, "JPEG"), with_chunk(b"tEXt", b"esrdgan\0[1]"), with_chunk(b"tEXt", b"esrdgan\0{")])
def test_files_that_are_not_ours(content, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    assert made_by_us(tmp_path / "a.png") == {}
