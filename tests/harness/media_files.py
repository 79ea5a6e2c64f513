"""Files of pictures and sounds as people have them, whole and broken, each made here with what is in it."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image

WIDE, HIGH = 40, 24
Pixels = npt.NDArray[np.uint8]

# An encoder of each kind, so small that hundreds of files cost nothing.
ENCODERS = {
    "image": {
        "config": {
            "_target_": "transformers.SiglipVisionConfig",
            "image_size": 32,
            "patch_size": 16,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        "slots": 4,
    },
    "audio": {
        "config": {
            "_target_": "transformers.WhisperConfig",
            "d_model": 16,
            "encoder_ffn_dim": 32,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
        },
        "seconds": 1,
        "stack": 5,
        "slots": 4,
    },
}


def ramp() -> Pixels:
    """Return RGB (HIGH, WIDE, 3), no two neighbours alike, dark at the left."""
    across, down = np.meshgrid(np.arange(WIDE), np.arange(HIGH))
    return np.stack([across * 6, down * 10, (across + down) * 3], axis=2).astype(np.uint8)


def grey() -> Pixels:
    return ramp()[:, :, 0]


def hole() -> npt.NDArray[np.bool_]:
    """Return where the transparent pictures are transparent."""
    return (np.add.outer(np.arange(HIGH), np.arange(WIDE)) % 3) == 0


def on_white(pixels: Pixels) -> Pixels:
    return np.where(hole()[:, :, None], np.uint8(255), pixels)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def three(values: Pixels) -> Pixels:
    return np.stack([values] * 3, axis=2)


def _palette() -> Image.Image:
    image = Image.fromarray((grey() // 10).astype(np.uint8), "P")
    image.putpalette([level * 10 for level in range(25) for _ in range(3)])
    return image


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(ramp()), "PNG", exif=exif)


def _with_alpha(mode: str) -> Image.Image:
    image = Image.fromarray(ramp() if mode == "RGBA" else grey())
    image.putalpha(Image.fromarray(np.where(hole(), 0, 255).astype(np.uint8)))
    return image


def _sixteen(transparent: int | None = None) -> bytes:
    """Return a PNG of 16 bits a pixel in grey; PIL writes no tRNS for it."""
    values = grey().astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", WIDE, HIGH, 16, 0, 0, 0, 0))]
    chunks += [(b"tRNS", struct.pack(">H", transparent))] if transparent is not None else []
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def pictures() -> dict[str, tuple[bytes, Pixels | None, set[str]]]:
    """Return files by name, each with the RGB that a person sees (None where the format keeps no exact pixels) and
    what has to be changed besides the size."""
    colour, flat = Image.fromarray(ramp()), Image.fromarray(grey())
    keyed = np.where(hole(), np.uint8(1), grey())
    first, second = flat.convert("P"), flat.rotate(180).convert("P")
    return {
        "rgb.png": (saved(colour, "PNG"), ramp(), set()),
        "rgb.bmp": (saved(colour, "BMP"), ramp(), set()),
        "rgb.tif": (saved(colour, "TIFF"), ramp(), set()),
        "rgb.webp": (saved(colour, "WEBP", lossless=True), ramp(), set()),
        "lossy.webp": (saved(colour, "WEBP"), None, set()),
        "rgb.jpg": (saved(colour, "JPEG"), None, set()),
        "grey.jpg": (saved(flat, "JPEG"), None, {"colours"}),
        "cmyk.jpg": (saved(colour.convert("CMYK"), "JPEG"), None, {"colours"}),
        "grey.png": (saved(flat, "PNG"), three(grey()), {"colours"}),
        "black and white.png": (
            saved(Image.fromarray(grey() > 99), "PNG"), three(((grey() > 99) * 255).astype(np.uint8)), {"colours"},
        ),
        "palette.png": (saved(_palette(), "PNG"), three((grey() // 10 * 10).astype(np.uint8)), {"colours"}),
        "16 bit.png": (_sixteen(), three(grey()), {"16 bit", "colours"}),
        "16 bit tRNS.png": (
            _sixteen(60 * 257), three(np.where(grey() == 60, np.uint8(255), grey())),
            {"16 bit", "transparent"},
        ),
        "rgba.png": (saved(_with_alpha("RGBA"), "PNG"), on_white(ramp()), {"transparent"}),
        "rgba.webp": (saved(_with_alpha("RGBA"), "WEBP", lossless=True), on_white(ramp()), {"transparent"}),
        "grey and alpha.png": (saved(_with_alpha("LA"), "PNG"), on_white(three(grey())), {"transparent"}),
        "tRNS.png": (
            saved(Image.fromarray(keyed), "PNG", transparency=1), on_white(three(keyed)), {"transparent"},
        ),
        "turned 3.png": (_exif(3), ramp()[::-1, ::-1], {"turned"}),
        "turned 6.png": (_exif(6), np.rot90(ramp(), -1), {"turned"}),
        "turned 5.png": (_exif(5), ramp().transpose(1, 0, 2), {"turned"}),
        "moving.gif": (
            saved(first, "GIF", save_all=True, append_images=[second]), None, {"moving", "colours"},
        ),
    }  # fmt: skip


def tone(rate: int, channels: int = 1, seconds: float = 0.8) -> npt.NDArray[np.float32]:
    """Return 440 Hz (n, channels), a little softer in each further channel."""
    wave = 0.4 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
    return np.stack([wave * (1 - channel / 4) for channel in range(channels)], axis=1).astype(np.float32)


def recorded(form: str, samples: npt.NDArray[np.float32], rate: int, subtype: str | None = None) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form, subtype=subtype)
    return stream.getvalue()


def sounds() -> dict[str, tuple[bytes, int, set[str]]]:
    """Return files of one tone by name, each with its rate and what has to be changed."""
    found = {}
    for number, rate in enumerate((8_000, 16_000, 44_100, 48_000)):
        for at, (form, subtype) in enumerate((("WAV", "PCM_16"), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None))):
            channels = 1 + (number + at) % 2
            changes = ({"rate"} if rate != 16_000 else set()) | ({"channels"} if channels > 1 else set())
            file = recorded(form, tone(rate, channels), rate, subtype)
            found[f"{rate} {channels}.{form.lower()}"] = (file, rate, changes)
    for subtype in ("FLOAT", "PCM_24", "PCM_U8"):
        found[f"{subtype}.wav"] = (recorded("WAV", tone(16_000), 16_000, subtype), 16_000, set())
    return found


def broken() -> dict[str, tuple[bytes | None, str]]:
    """Return files that cannot be used by name, each with what is said of it; None for one that is not there."""
    colour, second = Image.fromarray(ramp()), tone(16_000)

    def half(content: bytes) -> bytes:
        return content[: len(content) // 2]

    def with_one(value: float) -> bytes:
        samples = second.copy()
        samples[100] = value
        return recorded("WAV", samples, 16_000, "FLOAT")

    header = bytearray(saved(colour, "PNG"))
    header[16:24] = struct.pack(">II", 50_000, 50_000)
    header[29:33] = struct.pack(">I", zlib.crc32(bytes(header[12:29])))
    unknown: Callable[[str], str] = lambda what: f"is no {what}"  # noqa: E731
    return {
        "half.png": (half(saved(colour, "PNG")), "is a broken picture (image file is truncated)"),
        "half.jpg": (half(saved(colour, "JPEG", quality=95)), "is a broken picture"),
        "half.webp": (half(saved(colour, "WEBP")), "is a broken picture"),
        "half.gif": (half(saved(colour, "GIF")), "is a broken picture"),
        "garbage.png": (b"no picture at all" * 30, unknown("picture")),
        "empty.png": (b"", unknown("picture")),
        "sound.png": (recorded("WAV", second, 16_000), unknown("picture")),
        "bomb.png": (bytes(header), "2500000000 pixels"),
        "float.tif": (saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "pixels of float32"),
        "32 bit.tif": (saved(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), "TIFF"), "pixels of int32"),
        "half.wav": (half(recorded("WAV", second, 16_000)), "is a truncated sound"),
        "half.flac": (half(recorded("FLAC", second, 16_000)), "is no sound that can be read"),
        "half.ogg": (half(recorded("OGG", second, 16_000)), "is a truncated sound"),
        "half.mp3": (recorded("MP3", second, 16_000)[:1500], "sound"),
        "half.aiff": (half(recorded("AIFF", second, 16_000)), "is a truncated sound"),
        "garbage.wav": (b"no sound at all" * 30, unknown("sound")),
        "empty.flac": (b"", unknown("sound")),
        "nothing.wav": (recorded("WAV", second[:0], 16_000), "without a sample"),
        "nan.wav": (with_one(np.nan), "not finite"),
        "infinite.wav": (with_one(np.inf), "not finite"),
        "long.wav": (recorded("WAV", tone(16_000, seconds=1.2), 16_000), "has 1.20 s, and the encoder hears 1"),
        "absent.png": (None, "cannot be read: No such file"),
        "notes.txt": (b"text", "neither a picture nor a sound by its name"),
    }
