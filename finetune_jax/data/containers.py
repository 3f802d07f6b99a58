"""PNG and JPEG files without what stands around their pixels.

Text, colour profiles and time stamps may be damaged, or larger than a careful reader accepts, in a file whose pixels
are sound. What is needed for the pixels and the orientation stays.
"""

import struct
import zlib
from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"

_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"})
_ORIENTATION_KEYWORDS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_LARGEST_METADATA = 2**18
_EXIF, _ADOBE, _JFIF = 0xE1, 0xEE, 0xE0


def without_metadata(data: bytes) -> bytes | None:
    """A PNG or JPEG file reduced to its pixels and its orientation; None where there is nothing to leave out.

    Args:
        data: the file.
    """
    if data.startswith(PNG_SIGNATURE):
        shorter = PNG_SIGNATURE + b"".join(_png_chunks(data))
    elif data.startswith(JPEG_SIGNATURE):
        shorter = _jpeg_without_metadata(data)
    else:
        return None
    return shorter if len(shorter) < len(data) else None


def png_header(data: bytes) -> tuple[int, int] | None:
    """Bit depth and colour type of a PNG file (0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA); None of others."""
    if data.startswith(PNG_SIGNATURE) and data[12:16] == b"IHDR" and len(data) > 25:
        return data[24], data[25]
    return None


def _png_chunks(data: bytes) -> Iterator[bytes]:
    start = len(PNG_SIGNATURE)
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        kind, end = data[start + 4 : start + 8], start + 12 + length
        if kind in _PIXEL_CHUNKS or (end <= len(data) and _tells_orientation(kind, data[start:end])):
            yield data[start:end]
        start = end


def _tells_orientation(kind: bytes, chunk: bytes) -> bool:
    content = chunk[8:-4]
    if len(content) > _LARGEST_METADATA or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        return False
    if kind == b"eXIf":
        return True
    if kind not in (b"iTXt", b"zTXt", b"tEXt") or not content.startswith(_ORIENTATION_KEYWORDS):
        return False
    # Compressed text may unfold to anything: only what a short look ends is kept.
    compressed = content.partition(b"\0")[2]
    if kind == b"zTXt" or (kind == b"iTXt" and compressed[:1] == b"\1"):
        inflate = zlib.decompressobj()
        try:
            inflate.decompress(compressed[1 if kind == b"zTXt" else 4 :], _LARGEST_METADATA)
        except zlib.error:
            return False
        return not inflate.unconsumed_tail
    return True


def _jpeg_without_metadata(data: bytes) -> bytes:
    """Without comments and application segments but JFIF, Adobe (it tells the colour space) and EXIF."""
    kept, start = [data[:2]], 2
    while start + 4 <= len(data) and data[start] == 0xFF and data[start + 1] not in (0xDA, 0xD9, 0xFF):
        kind = data[start + 1]
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        is_exif = kind == _EXIF and data[start + 4 : start + 10] == b"Exif\0\0"
        if kind not in (*range(0xE0, 0xF0), 0xFE) or kind in (_JFIF, _ADOBE) or is_exif:
            kept.append(data[start:end])
        start = end
    return b"".join(kept) + data[start:]
