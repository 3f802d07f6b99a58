"""Which image files are read, by suffix and by decoder, and what to do about those that are not."""

import functools
import os
from collections import Counter

from PIL import Image, features

_ALWAYS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pnm"),
)
TIFF = (".tif", ".tiff")
"""Suffixes of files that may have several pages."""

_HEIF = (".heic", ".heif", ".hif")
_AVIF = (".avif",)
# Images of other kinds, whose names one meets in folders of photographs.
_RAW = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".raw")
_OTHER = (".jxl", ".jp2", ".j2k", ".psd", ".svg", ".pdf", ".ico", ".tga", ".exr", ".hdr", ".dcm", ".npy")

# Only these decoders look at a file, whatever its suffix is: some of Pillow's others run programs.
_DECODERS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")


def suffix_of(name: str) -> str:
    """The suffix of a file name in small letters, with its dot; empty where there is none."""
    return os.path.splitext(name)[1].lower()


@functools.cache
def suffixes() -> frozenset[str]:
    """Suffixes of the image files that can be read here."""
    return frozenset((*_ALWAYS, *(_AVIF if _has_avif() else ()), *(_HEIF if _has_heif() else ())))


@functools.cache
def decoders() -> tuple[str, ...]:
    """Names of the decoders of Pillow that look at an image."""
    Image.init()
    more = (*(("AVIF",) if _has_avif() else ()), *(("HEIF",) if _has_heif() else ()))
    return (*_DECODERS, *more)


def unreadable_images(suffix_counts: Counter[str]) -> Counter[str]:
    """Those of some suffixes that are of images which cannot be read here."""
    kinds = {*_HEIF, *_AVIF, *_RAW, *_OTHER} - suffixes()
    return Counter({suffix: count for suffix, count in suffix_counts.items() if suffix in kinds})


def advice(suffix_counts: Counter[str]) -> str:
    """What to do about files with these suffixes, most of all about the most frequent; empty for no image."""
    for suffix, _ in unreadable_images(suffix_counts).most_common(1):
        if suffix in _HEIF:
            return 'install pillow-heif (pip install "finetune-jax[heif]") or convert them to JPEG'
        if suffix in _AVIF:
            return "install a Pillow with AVIF or convert them to JPEG"
        return "convert them to JPEG or PNG"
    return ""


def _has_avif() -> bool:
    return bool(features.check("avif"))


@functools.cache
def _has_heif() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True
