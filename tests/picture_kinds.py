"""Every kind of picture file that people have, made by hand with known contents.

`KINDS` is a list of (name, maker, expectation). `maker(folder)` writes the file and returns its path. The expectation is a `Kind`
(what must be read) or a string (a piece of the one line that says what is wrong). `test_picture_kinds.py` reads each; the command line's test enlarges each.
"""
import importlib.util
import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import PIL
from PIL import Image, ImageCms

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
COLOURS = np.array([[RED, GREEN, BLUE], [WHITE, (0, 0, 0), (200, 100, 50)]], np.uint8)        # 2 rows, 3 columns
GREYS = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)
ALPHA = np.array([[255, 128, 0], [0, 64, 255]], np.uint8)
DEEP = np.arange(18, dtype=np.uint16).reshape(2, 3, 3) * 3001 + 7                              # no value is a multiple of 257
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@dataclass
class Kind:
    "What reading must give."
    rgb: np.ndarray               # (H, W, 3) in whole numbers of the file's depth
    alpha: np.ndarray = None      # (H, W), or None
    grey: bool = False
    bits: int = 8
    icc: bytes = None
    off_by: int = 0               # how far a lossy format may be off


def grey_kind(values, **others):
    return Kind(np.repeat(values[..., None], 3, 2), grey=True, **others)


def saved(name, image, suffix="png", **options):
    "A maker that saves a Pillow image."
    def make(folder):
        path = folder / f"{name}.{suffix}"
        image.save(path, **options)
        return path
    return make


def raw(name, content):
    "A maker that writes bytes."
    def make(folder):
        path = folder / name
        path.write_bytes(content)
        return path
    return make


def filtered(line, above, step, number):
    "One line of bytes as PNG's filter `number` stores it (0 none, 1 sub, 2 up, 3 average, 4 Paeth)."
    out = bytearray([number])
    for i, value in enumerate(line):
        left, up, corner = (line[i - step] if i >= step else 0), above[i], (above[i - step] if i >= step else 0)
        near = lambda p: min((left, up, corner), key=lambda v: abs(p - v))      # the first of equals, as the standard says
        out.append((value - (0, left, up, (left + up) // 2, near(left + up - corner))[number]) % 256)
    return bytes(out)


def png(a, bits=8, chunks=(), filters=(0,), passes=((0, 0, 1, 1),)):
    "A PNG file put together by hand, as an oracle should be; `chunks` go before the pixels; `passes` is (0, 0, 1, 1) or `ADAM7`."
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    lines, step = b"", a.shape[2] * bits // 8
    for top, left, down, right in passes:
        part = a[top::down, left::right]
        above = bytes(part.shape[1] * step)
        for number, row in enumerate(part if part.size else ()):
            line = row.astype(">u2" if bits == 16 else "u1").tobytes()
            lines += filtered(line, above, step, filters[number % len(filters)])
            above = line
    header = struct.pack(">IIBBBBB", a.shape[1], a.shape[0], bits, {1: 0, 2: 4, 3: 2, 4: 6}[a.shape[2]], 0, 0, len(passes) > 1)
    extra = b"".join(chunk(kind, data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))   # PNG's interlacing


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def tiff(size, pixels, **tags):
    "An uncompressed TIFF file, little end first, put together by hand; `tags` as t258=8 or t258=(16, 16, 16)."
    values = dict(t256=size[0], t257=size[1], t258=8, t259=1, t262=1, t273=8, t277=1, t278=size[1], t279=len(pixels)) | tags
    entries, extra = b"", b""
    for tag, value in sorted((int(name[1:]), value) for name, value in values.items()):
        value = value if isinstance(value, tuple) else (value,)
        content = struct.pack(f"<{len(value)}{'I' if max(value) > 65535 or tag in (273, 279) else 'H'}", *value)
        if len(content) > 4:
            extra += content
            content = struct.pack("<I", 8 + len(pixels) + len(extra) - len(content))
        entries += struct.pack("<HHI", tag, 4 if max(value) > 65535 or tag in (273, 279) else 3, len(value)) + content.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8 + len(pixels) + len(extra)) + pixels + extra + struct.pack("<H", len(values)) + entries + bytes(4)


def deep_tiff(a):
    "16 bits per channel in colour, which Pillow cannot write."
    n = a.shape[2]
    return tiff(a.shape[1::-1], a.astype("<u2").tobytes(), t258=(16,) * n, t262=2, t277=n, **({"t338": 2} if n == 4 else {}))


def twelve(a):
    "Numbers of 12 bits, two in three bytes."
    return b"".join(bytes([x >> 4, (x & 15) << 4 | y >> 8, y & 255]) for x, y in a.reshape(-1, 2).tolist())


def segment(marker, content):
    "A segment of a JPEG."
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg_with(*segments):
    whole = encoded(FLAT, "JPEG", quality=100)
    return whole[:2] + b"".join(segments) + whole[2:]


def png_with(*chunks):
    return png(COLOURS, 8, chunks)


def pnm(a, kind, most=65535):
    "A PPM (kind 6, or 3 in letters) or PGM (kind 5, or 2) file whose white is `most`."
    values = a.astype(">u2").tobytes() if kind > 3 else b" ".join(b"%d" % v for v in a.ravel())
    return b"P%d %d %d %d\n" % (kind, a.shape[1], a.shape[0], most) + values


def ink_profile():
    "A colour profile for inks by which every colour without black ink is the same middle grey (CIE Lab 50, 0, 0): whoever ignores it sees red."
    identity = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack(">9i", *(65536 * v for v in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    lut += identity * 4 + b"".join(bytes([light, 128, 128]) for light in [255, 0] + [128, 0] * 7) + identity * 3
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"inks\0" + bytes(79)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    tags, table, body = [(b"desc", text), (b"wtpt", white), (b"A2B0", lut)], b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags:
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ") + struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    header += b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def orientation(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def palette(transparency=None):
    image = Image.fromarray(np.array([[0, 1, 2], [3, 4, 5]], np.uint8)).convert("P")
    image.putpalette(COLOURS.reshape(-1).tolist())
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def one_bit():
    return Image.fromarray(np.where(GREYS > 120, 255, 0).astype(np.uint8)).convert("1")


def deep_grey():
    return Image.fromarray(DEEP[..., 0].astype(np.uint16))


COLOUR, GREY = Image.fromarray(COLOURS), Image.fromarray(GREYS)
FLAT = Image.new("RGB", (16, 16), (200, 100, 50))
flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
INKS = Image.new("CMYK", (16, 16), (0, 255, 255, 0))                       # magenta and yellow: red, by the plain rule
LYING = Image.new("CMYK", (32, 16), (0, 0, 0, 255))                        # black on the right half
LYING.paste(INKS, (0, 0))
inks = np.repeat(np.where(np.arange(32) < 16, 119, 0)[None], 16, 0)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
LA, RGBA = Image.fromarray(np.dstack([GREYS, ALPHA])), Image.fromarray(np.dstack([COLOURS, ALPHA]))
HUGE = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
HUGE = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + HUGE + struct.pack(">I", zlib.crc32(b"IHDR" + HUGE)) + png(COLOURS)[33:]
FRAMES = [palette(), palette().transpose(Image.Transpose.ROTATE_180)]
turned = np.rot90(COLOURS, -1)                                             # orientation 6: turn right to see it

TIFFFILE = importlib.util.find_spec("tifffile")
LAB = ImageCms.profileToProfile(COLOUR, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB")
RAMP12 = np.arange(8, dtype=np.uint16).reshape(2, 4) * 585                                 # 0 to 4095
TURNED = b"Exif\0\0" + orientation(6).tobytes()[6:]

KINDS = [
    ("rgb", saved("rgb", COLOUR), Kind(COLOURS)),
    ("1x1", saved("1x1", COLOUR.crop((2, 1, 3, 2))), Kind(COLOURS[1:2, 2:3])),
    ("1xN", saved("1xN", COLOUR.crop((0, 0, 3, 1))), Kind(COLOURS[:1])),
    ("Nx1", saved("Nx1", COLOUR.crop((0, 0, 1, 2))), Kind(COLOURS[:, :1])),
    ("grey", saved("grey", GREY), grey_kind(GREYS)),
    ("grey jpeg", saved("grey", Image.new("L", (16, 16), 90), "jpg"), grey_kind(np.full((16, 16), 90, np.uint8), off_by=1)),
    ("LA", saved("LA", LA), grey_kind(GREYS, alpha=ALPHA)),
    ("RGBA", saved("RGBA", RGBA), Kind(COLOURS, ALPHA)),
    ("rgb with one transparent colour", saved("key", COLOUR, transparency=GREEN), Kind(COLOURS, np.array([[255, 0, 255], [255] * 3], np.uint8))),
    ("P", saved("P", palette()), Kind(COLOURS)),
    ("P with transparency", saved("Pt", palette(), transparency=bytes([255, 128, 0])),
        Kind(COLOURS, np.array([[255, 128, 0], [255] * 3], np.uint8))),
    ("1-bit", saved("bit", one_bit()), grey_kind(np.where(GREYS > 120, 255, 0))),
    ("1-bit tiff", saved("bit", one_bit(), "tif", compression="group4"), grey_kind(np.where(GREYS > 120, 255, 0))),
    ("16-bit grey", saved("grey16", deep_grey()), grey_kind(DEEP[..., 0], bits=16)),
    ("16-bit grey tiff", saved("grey16", deep_grey(), "tif"), grey_kind(DEEP[..., 0], bits=16)),
    ("16-bit PGM", raw("grey16.pgm", pnm(np.where(DEEP[..., 0] > 40000, 65535, DEEP[..., 0]), 5)),
        grey_kind(np.where(DEEP[..., 0] > 40000, 65535, DEEP[..., 0]), bits=16)),                 # with white in it
    ("16-bit PGM in letters", raw("letters.pgm", pnm(DEEP[..., 0], 2)), grey_kind(DEEP[..., 0], bits=16)),
    ("10-bit PGM", raw("grey10.pgm", pnm(np.array([[0, 341], [682, 1023]]), 5, 1023)), grey_kind(np.array([[0, 21845], [43690, 65535]]), bits=16)),
    ("16-bit grey with one transparent level", raw("greykey16.png", png(DEEP[..., :1], 16, [(b"tRNS", DEEP[0, 1, :1].astype(">u2").tobytes())])),
        grey_kind(DEEP[..., 0], alpha=np.array([[65535, 0, 65535], [65535] * 3], np.uint16), bits=16)),
    ("16-bit LA", raw("la16.png", png(DEEP[..., :2], 16)), grey_kind(DEEP[..., 0], alpha=DEEP[..., 1], bits=16)),
    ("16-bit rgb", raw("rgb16.png", png(DEEP, 16)), Kind(DEEP, bits=16)),
    ("16-bit rgb with a profile", raw("icc16.png", png(DEEP, 16, [(b"iCCP", b"sRGB\0\0" + zlib.compress(SRGB))])), Kind(DEEP, bits=16, icc=SRGB)),
    ("16-bit rgb, turned", raw("turned16.png", png(DEEP, 16, [(b"eXIf", orientation(6).tobytes()[6:])])), Kind(np.rot90(DEEP, -1), bits=16)),
    ("16-bit rgb with one transparent colour", raw("key16.png", png(DEEP, 16, [(b"tRNS", DEEP[1, 1].astype(">u2").tobytes())])),
        Kind(DEEP, np.array([[65535] * 3, [65535, 0, 65535]], np.uint16), bits=16)),
    ("16-bit rgb, all filters, interlaced", raw("adam16.png", png(NOISE[:13, :11] * np.uint16(251), 16, filters=range(5), passes=ADAM7)),
        Kind(NOISE[:13, :11] * np.uint16(251), bits=16)),
    ("16-bit RGBA", raw("rgba16.png", png(np.dstack([DEEP, DEEP[..., 0]]), 16)), Kind(DEEP, DEEP[..., 0], bits=16)),
    ("CMYK", saved("inks", INKS, "jpg", quality=100), Kind(np.full((16, 16, 3), RED), off_by=2)),
    ("CMYK with a profile", saved("profile", INKS, "jpg", quality=100, icc_profile=ink_profile()), Kind(np.full((16, 16, 3), 119), off_by=3)),
    ("CMYK with a profile, turned", saved("lying", LYING, "jpg", quality=100, icc_profile=ink_profile(), exif=orientation(6)),
        Kind(np.repeat(np.rot90(inks, -1)[..., None], 3, 2), off_by=3)),
    ("CMYK with a broken profile", saved("broken", INKS, "jpg", quality=100, icc_profile=b"nonsense" * 20), Kind(np.full((16, 16, 3), RED), off_by=2)),
    *[(f"EXIF-rotated {n}", saved(f"exif{n}", COLOUR, exif=orientation(n)), Kind(expected)) for n, expected in [
        (2, COLOURS[:, ::-1]), (3, np.rot90(COLOURS, 2)), (6, turned), (8, np.rot90(COLOURS, 1)), (5, COLOURS.swapaxes(0, 1))]],
    ("EXIF-rotated tiff", saved("exif", COLOUR, "tif", exif=orientation(6)), Kind(turned)),
    ("ICC", saved("icc", COLOUR, icc_profile=SRGB), Kind(COLOURS, icc=SRGB)),
    ("ICC in a jpeg", saved("icc", FLAT, "jpg", quality=100, icc_profile=SRGB), Kind(flat, icc=SRGB, off_by=2)),
    ("animated GIF", saved("move", FRAMES[0], "gif", save_all=True, append_images=FRAMES[1:], duration=100), Kind(COLOURS)),
    ("WebP", saved("web", COLOUR, "webp", lossless=True), Kind(COLOURS)),
    ("WebP with alpha", saved("weba", RGBA, "webp", lossless=True, exact=True), Kind(COLOURS, ALPHA)),
    ("animated WebP", saved("move", COLOUR, "webp", lossless=True, save_all=True, append_images=[COLOUR.rotate(180)]), Kind(COLOURS)),
    ("bmp", saved("bitmap", COLOUR, "bmp"), Kind(COLOURS)),
    ("ppm", raw("eight.ppm", encoded(COLOUR, "PPM")), Kind(COLOURS)),
    ("wrong suffix", raw("photo.jpg", encoded(COLOUR, "PNG")), Kind(COLOURS)),
    # side data is broken, or says what makes no sense: the picture is sound
    ("EXIF of four bytes", raw("exif4.png", png_with((b"eXIf", b"oops"))), Kind(COLOURS)),
    ("EXIF without a TIFF in it", raw("notiff.jpg", jpeg_with(segment(0xE1, b"Exif\0\0nonsense"))), Kind(flat, off_by=2)),
    ("EXIF with a doubled header", raw("double.jpg", jpeg_with(segment(0xE1, b"Exif\0\0" + TURNED))), Kind(flat, off_by=2)),
    *[(f"orientation {n}", saved(f"o{n}", COLOUR, exif=orientation(n)), Kind(COLOURS)) for n in (0, 9, 65535)],
    ("orientation in XMP", raw("xmp.png", png_with((b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'))), Kind(turned)),
    ("a text of three million letters", raw("text.png", png_with((b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 3_000_000)))), Kind(COLOURS)),
    ("a broken profile in a png", raw("iccp.png", png_with((b"iCCP", b"name\0\0junk"))), Kind(COLOURS)),
    ("a wrong checksum of a text", raw("crc.png", png_with((b"tEXt", b"Title\0a scan")).replace(b"a scan", b"a spoon"[:6])), Kind(COLOURS)),
    ("a chunk of nobody's", raw("private.png", png_with((b"prVt", bytes(9)))), Kind(COLOURS)),
    ("a JFIF segment too short", raw("jfif.jpg", jpeg_with(segment(0xE0, b"JFIF\0"))), Kind(flat, off_by=2)),
    ("an Adobe segment too short", raw("adobe.jpg", jpeg_with(segment(0xEE, b"Adobe"))), Kind(flat, off_by=2)),
    ("a broken list of pictures in a jpeg", raw("mpf.jpg", jpeg_with(segment(0xE2, b"MPF\0junkjunk"))), Kind(flat, off_by=2)),
    ("a profile in pieces, one missing", raw("pieces.jpg", jpeg_with(segment(0xE2, b"ICC_PROFILE\0\1\2half"))), Kind(flat, off_by=2)),
    ("broken EXIF in a WebP", saved("exif", FLAT, "webp", lossless=True, exif=b"oops"), Kind(flat)),
    # numbers that a tag gives their meaning
    ("12-bit grey tiff", raw("grey12.tif", tiff((4, 2), twelve(RAMP12), t258=12)), grey_kind(np.arange(8).reshape(2, 4) * 65535 // 7, bits=16, off_by=1)),
    ("white is zero, 8 bits", raw("wiz8.tif", tiff((3, 2), GREYS.tobytes(), t262=0)), grey_kind(255 - GREYS)),
    ("white is zero, 16 bits", raw("wiz16.tif", tiff((3, 2), DEEP[..., 0].astype("<u2").tobytes(), t258=16, t262=0)), grey_kind(65535 - DEEP[..., 0], bits=16)),
    ("CIE Lab tiff", saved("lab", LAB, "tif"), Kind(COLOURS, off_by=23)),                     # blue suffers most from Lab in 8 bits
    ("16-bit JPEG 2000", saved("deep", deep_grey(), "jp2"), grey_kind(DEEP[..., 0], bits=16)),
    ("8-bit numbers with a sign", raw("signed.tif", tiff((3, 2), GREYS.tobytes(), t339=2)), "signed numbers of 8 bits"),
    ("32-bit whole numbers", raw("whole.tif", tiff((3, 2), GREYS.astype("<u4").tobytes(), t258=32)), "whole numbers of 32 bits"),
    ("16-bit floats", raw("half.tif", tiff((3, 2), GREYS.astype("<f2").tobytes(), t258=16, t339=3)), "a TIFF of a kind that cannot be read (BitsPerSample (16,)"),
    ("16-bit grey with alpha, tiff", raw("la16.tif", tiff((3, 2), np.dstack([DEEP[..., 0]] * 2).tobytes(), t258=(16, 16), t277=2, t338=2)), "BitsPerSample (16, 16)"),
    ("portable floats", raw("floats.pfm", encoded(Image.fromarray(GREYS.astype(np.float32)), "PPM")), "32 bits per value"),
    # a container's first picture is not the picture
    ("a camera's DNG", raw("photo.dng", tiff((3, 2), GREYS.tobytes(), t254=1, t330=8, t50706=1)), "a camera's raw file: develop it first"),
    ("a DNG called tif", raw("photo.tif", tiff((3, 2), GREYS.tobytes(), t50706=1)), "a camera's raw file"),
    ("a preview before other pictures", raw("preview.tif", tiff((3, 2), GREYS.tobytes(), t254=1, t330=8)), "a camera's raw file"),
    ("Canon's CR2", raw("photo.cr2", b"II*\0\x10\0\0\0CR\2\0" + bytes(40)), "a camera's raw file"),
    ("Canon's CR3", raw("photo.cr3", b"\0\0\0\x18ftypcrx " + bytes(40)), "a camera's raw file"),
    ("Fuji's RAF", raw("photo.raf", b"FUJIFILMCCD-RAW 0201" + bytes(40)), "a camera's raw file"),
    ("Nikon's NEF", raw("photo.nef", tiff((3, 2), GREYS.tobytes())), "a camera's raw file"),
    # other suffixes, and what is no picture
    ("jfif", raw("photo.jfif", encoded(FLAT, "JPEG", quality=100)), Kind(flat, off_by=2)),
    ("tga", saved("photo", COLOUR, "tga"), Kind(COLOURS)),
    ("qoi", saved("photo", COLOUR, "qoi"), Kind(COLOURS)),
    ("pcx", saved("photo", COLOUR, "pcx"), Kind(COLOURS) if int(PIL.__version__.split(".")[0]) >= 13 else "is a PCX of odd width"),
    ("ico", saved("photo", FLAT, "ico"), Kind(flat)),
    ("a web page", raw("page.jpg", b"\n<!DOCTYPE html><html>quota exceeded</html>"), "is a web page, not a picture"),
    ("an SVG", raw("drawing.png", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'), "a drawing or a document"),
    ("a PDF", raw("paper.png", encoded(COLOUR, "PDF")), "a drawing or a document"),
    ("a metafile", raw("drawing.wmf", b"\xd7\xcd\xc6\x9a" + struct.pack("<H4hH", 0, 0, 0, 256, 256, 96) + bytes(6) + b"\x01\0\t\0" + bytes(40)), "drawing.wmf is a drawing"),
    ("huge", raw("huge.png", HUGE), "pixels"),
    ("truncated png", raw("half.png", encoded(Image.fromarray(NOISE), "PNG")[:5000]), "damaged or cut short"),
    ("truncated jpeg", raw("half.jpg", encoded(Image.fromarray(NOISE), "JPEG")[:1500]), "damaged or cut short"),
    ("truncated webp", raw("half.webp", encoded(Image.fromarray(NOISE), "WEBP", lossless=True)[:1500]), ""),
    ("truncated 16-bit png", raw("half16.png", png(NOISE.astype(np.uint16) * 99, 16)[:900]), "damaged or cut short"),
    ("only a header", raw("header.png", encoded(COLOUR, "PNG")[:20]), ""),
    ("empty", raw("empty.png", b""), "is empty (0 bytes)"),
    ("not an image", raw("letter.png", b"Dear all,\nthis is no picture.\n" * 9), "not a picture of a known kind"),
    ("16-bit rgb tiff", raw("deep.tif", deep_tiff(DEEP)), Kind(DEEP, bits=16) if TIFFFILE else "has 16 bits per channel, of which only 8 could be read"),
    ("16-bit RGBA tiff", raw("deepa.tif", deep_tiff(np.dstack([DEEP, DEEP[..., 0]]))), Kind(DEEP, DEEP[..., 0], bits=16) if TIFFFILE else "has 16 bits per channel"),
    ("16-bit PPM", raw("deep.ppm", pnm(DEEP, 6)), "has 16 bits per channel"),
    ("16-bit PPM in letters", raw("letters.ppm", pnm(DEEP, 3)), "has 16 bits per channel"),
    ("32-bit floats", saved("floats", Image.fromarray(GREYS.astype(np.float32)), "tif"), "32 bits"),
    ("a folder name", lambda folder: folder, "is a folder"),
    ("missing", lambda folder: folder / "nowhere.png", "there is no such file"),
]
