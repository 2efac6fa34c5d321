"""Image files that are wrong, odd or unusual, made here: name -> bytes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
from ingesting import jpeg, picture
from PIL import Image

H, W = 40, 56
RGB = picture(3, H, W)
GREY = RGB[..., 0]
DEEP = (np.arange(H * W * 3, dtype=np.uint32).reshape(H, W, 3) * 37 % 65536).astype(np.uint16)


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def flip(data: bytes, at: int, count: int = 1) -> bytes:
    changed = bytearray(data)
    for k in range(at, at + count):
        changed[k] ^= 0xFF
    return bytes(changed)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        size, check = struct.pack(">I", len(body)), struct.pack(">I", zlib.crc32(kind + body))
        return size + kind + body + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def images() -> Iterator[tuple[str, bytes]]:
    """File name and content of every case; the stem says what it is."""
    rgb = Image.fromarray(RGB)
    good = jpeg(RGB)
    yield "good.jpg", good
    yield "upper_case.JPG", good
    yield "good.jpeg", good
    yield "name with spaces äöü 名.jpg", good
    yield "two.dots.in.name.jpg", good
    # Damaged
    yield "zero_bytes.jpg", b""
    yield "zero_bytes.png", b""
    yield "text.jpg", b"<html>404 not found</html>"
    yield "cut_in_half.jpg", good[: len(good) // 2]
    yield "cut_at_90_percent.jpg", good[: len(good) * 9 // 10]
    yield "cut_in_header.jpg", good[:100]
    yield "cut_after_two_bytes.jpg", good[:2]
    yield "no_end_marker.jpg", good[:-2]
    yield "one_byte_missing.jpg", good[:-1]
    yield "garbage_at_end.jpg", good + b"garbage"
    yield "newline_at_end.jpg", good + b"\n"
    yield "zeros_at_end.jpg", good + bytes(64)
    yield "flipped_in_scan.jpg", flip(good, len(good) * 2 // 3, 8)
    yield "flipped_in_tables.jpg", flip(good, 30, 20)
    yield "flipped_in_magic.jpg", flip(good, 0)
    turned = save(rgb, "JPEG", quality=90, exif=exif(6))
    yield "no_end_marker_and_turned.jpg", turned[:-2]
    yield "bad_exif.jpg", flip(turned, 24, 12)
    good_png = save(rgb, "PNG")
    yield "cut_in_half.png", good_png[: len(good_png) // 2]
    yield "without_last_chunk.png", good_png[:-12]
    yield "flipped.png", flip(good_png, len(good_png) // 2)
    yield "garbage_at_end.png", good_png + b"garbage"
    yield "cut_in_half.bmp", save(rgb, "BMP")[: H * W]
    yield "cut_in_half.webp", save(rgb, "WEBP", lossless=True)[:300]
    yield "cut_in_half.tif", save(rgb, "TIFF")[: H * W]
    # Colour and depth
    yield "cmyk.jpg", save(rgb.convert("CMYK"), "JPEG")
    yield "cmyk_no_end_marker.jpg", save(rgb.convert("CMYK"), "JPEG")[:-2]
    yield "grey.jpg", jpeg(GREY)
    yield "grey_no_end_marker.jpg", jpeg(GREY)[:-2]
    yield "progressive.jpg", save(rgb, "JPEG", progressive=True)
    yield "subsampled_411.jpg", save(rgb, "JPEG", subsampling="4:1:1")
    yield "grey.png", save(Image.fromarray(GREY), "PNG")
    yield "grey_16_bit.png", cv2.imencode(".png", DEEP[..., 0])[1].tobytes()
    yield "colour_16_bit.png", cv2.imencode(".png", DEEP)[1].tobytes()
    yield "one_bit.png", save(rgb.convert("1"), "PNG")
    yield "palette.png", save(rgb.convert("P", palette=Image.Palette.ADAPTIVE), "PNG")
    yield "palette_transparent.png", save(rgb.convert("P"), "PNG", transparency=3)
    alpha = np.dstack([RGB, np.arange(H * W, dtype=np.uint8).reshape(H, W)])
    yield "rgba.png", save(Image.fromarray(alpha, "RGBA"), "PNG")
    yield "grey_alpha.png", save(Image.fromarray(alpha, "RGBA").convert("LA"), "PNG")
    yield "rgba.webp", save(Image.fromarray(alpha, "RGBA"), "WEBP", lossless=True)
    yield "rgba.tif", save(Image.fromarray(alpha, "RGBA"), "TIFF")
    yield "cmyk.tif", save(rgb.convert("CMYK"), "TIFF")
    yield "grey.tif", save(Image.fromarray(GREY), "TIFF")
    yield "grey_16_bit.tif", cv2.imencode(".tif", DEEP[..., 0])[1].tobytes()
    yield "colour_16_bit.tif", cv2.imencode(".tif", DEEP)[1].tobytes()
    yield "float.tif", cv2.imencode(".tif", RGB.astype(np.float32))[1].tobytes()
    yield "one_bit.tif", save(rgb.convert("1"), "TIFF")
    yield "pages.tiff", save(rgb, "TIFF", save_all=True, append_images=[rgb.rotate(180)])
    grey = Image.fromarray(GREY)
    yield "grey_pages.tiff", save(grey, "TIFF", save_all=True, append_images=[grey.rotate(180)])
    yield "colour.bmp", save(rgb, "BMP")
    yield "palette.bmp", save(rgb.convert("P"), "BMP")
    yield "colour.webp", save(rgb, "WEBP", quality=80)
    yield "colour.jp2", save(rgb, "JPEG2000")
    yield "colour.avif", save(rgb, "AVIF")
    yield "pair.mpo", save(rgb, "MPO", save_all=True, append_images=[rgb.rotate(180)])
    # Orientation
    for turn in range(1, 10):
        yield f"turned_{turn}.jpg", save(rgb, "JPEG", exif=exif(turn))
    yield "turned_6.png", save(rgb, "PNG", exif=exif(6))
    yield "turned_6.webp", save(rgb, "WEBP", exif=exif(6))
    yield "turned_6.tif", save(rgb, "TIFF", exif=exif(6))
    yield "turned_6.avif", save(rgb, "AVIF", exif=exif(6))
    yield "turned_6_grey.jpg", save(Image.fromarray(GREY), "JPEG", exif=exif(6))
    # Animated
    frames = {"save_all": True, "append_images": [rgb.rotate(180)], "duration": 50}
    yield "animated.webp", save(rgb, "WEBP", **frames)
    yield "animated.png", save(rgb, "PNG", **frames)
    yield "animated_gif.jpg", save(rgb, "GIF", **frames)
    yield "animated.avif", save(rgb, "AVIF", **frames)
    # Wrong names
    yield "png_named.jpg", good_png
    yield "png_without_last_chunk_named.jpg", good_png[:-12]
    yield "jpg_named.png", good
    yield "jpg_named.tif", good
    yield "jpg_named.avif", good
    yield "webp_named.jpg", save(rgb, "WEBP")
    yield "bmp_named.jpeg", save(rgb, "BMP")
    yield "tif_named.jpg", save(rgb, "TIFF")
    yield "avif_named.jpg", save(rgb, "AVIF")
    yield "gif_named.png", save(rgb, "GIF")
    yield "ppm_named.jpg", save(rgb, "PPM")
    yield "ico_named.png", save(rgb, "ICO", sizes=[(32, 32)])
    yield "heic_without_plugin.heic", b"\x00\x00\x00\x18ftypheic" + bytes(64)
    yield "pdf_named.jpg", save(rgb, "PDF")
    # Sizes
    yield "nine_pixels_high.jpg", jpeg(picture(4, 9, 40))
    yield "nine_pixels_wide.png", save(Image.fromarray(picture(4, 40, 9)), "PNG")
    yield "ten_pixels.jpg", jpeg(picture(4, 10, 10))
    yield "one_pixel.png", save(rgb.resize((1, 1)), "PNG")
    yield "very_long.png", save(Image.fromarray(picture(5, 10, 3000)), "PNG")
    yield "bomb.png", save(Image.new("1", (20000, 10000)), "PNG")
    yield "claims_to_be_huge.png", png_header(60000, 60000)
    yield "claims_to_be_large.png", png_header(2000, 2000)
