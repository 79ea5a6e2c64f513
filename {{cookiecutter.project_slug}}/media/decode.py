"""From the bytes of a file to a picture in RGB or a sound in one channel, and what had to be changed on the way.

No torch, no encoder: what an encoder is given is processors.py. What is broken is a ValueError that says how.
"""

import importlib
import io
import wave
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from harness.errors import UserError

Samples = npt.NDArray[np.float32]

MOST_PIXELS = 89_478_485  # as PIL has it: a small file that claims more is meant to fill the memory
MOST_SAMPLES = 100_000_000  # of all channels: an hour of silence is a small file, too
STREAMED = (0, 0xFFFFFFFF)  # what a writer that does not know the end yet says of a WAV's length


def picture(data: bytes) -> tuple[Image.Image, list[str]]:
    """Return a picture as a person sees it, and what was changed. Raises ValueError."""
    try:
        opened: Image.Image = Image.open(io.BytesIO(data))
        if opened.width * opened.height > MOST_PIXELS:
            raise ValueError(f"has {opened.width}x{opened.height} pixels, more than {MOST_PIXELS:,}")
        opened.load()
        return _as_seen(opened)
    except ValueError:
        raise
    except UnidentifiedImageError:
        raise ValueError("is no picture, or of a format that is not read here") from None
    except MemoryError:
        raise
    except Exception as error:  # PIL's formats raise what they like for broken files
        raise ValueError(f"is a broken picture ({' '.join(str(error).split()) or type(error).__name__})") from error


def _as_seen(image: Image.Image) -> tuple[Image.Image, list[str]]:
    changes = []
    if getattr(image, "n_frames", 1) > 1:
        changes.append("moving")
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
        changes.append("turned")
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
        changes.append("16 bit")
    if image.has_transparency_data:
        whole = image.convert("RGBA")
        if whole.getchannel("A").getextrema() != (255, 255):
            white = Image.new("RGBA", whole.size, "white")
            image = Image.alpha_composite(white, whole)
            changes.append("transparent")
    if image.mode not in ("RGB", "RGBA"):
        changes.append("colours")
    return image.convert("RGB"), changes


def _eight_bits(image: Image.Image) -> Image.Image:
    """PIL would make everything above 255 white."""
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"has pixels of {values.dtype}, of which nobody says what is white")
    scaled = Image.fromarray(np.round(values / 257).astype(np.uint8))
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        scaled.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return scaled


def sound(data: bytes) -> tuple[Samples, int, list[str]]:
    """Return the samples of a sound (n,) in one channel, their rate and what was changed. Raises ValueError."""
    samples, rate = _pcm(data) or _any_format(data)
    if not len(samples):
        raise ValueError("is a sound without a sample")
    if not np.isfinite(samples).all():
        raise ValueError("is a sound with samples that are not finite")
    return samples.mean(axis=1, dtype=np.float32), rate, ["channels"] if samples.shape[1] > 1 else []


def resampled(samples: Samples, rate: int, wanted: int) -> Samples:
    """Return samples (n,) at another rate."""
    made: Samples = _extra("soxr").resample(samples, rate, wanted)
    return made


def _pcm(data: bytes) -> tuple[Samples, int] | None:
    """Return the samples (n, channels) of a WAV of 16 bits, which needs no further package; None for all else."""
    if _lost(data):
        raise ValueError("is a truncated sound")
    try:
        with wave.open(io.BytesIO(data)) as file:
            if file.getsampwidth() != 2:
                return None
            values = np.frombuffer(file.readframes(file.getnframes()), "<i2")
            samples = values.reshape(-1, file.getnchannels()).astype(np.float32) / np.float32(32768)
            return samples, file.getframerate()
    except (wave.Error, EOFError, ValueError):
        return None


def _any_format(data: bytes) -> tuple[Samples, int]:
    soundfile = _extra("soundfile")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.frames * file.channels > MOST_SAMPLES:
                raise ValueError(f"is a sound of {file.frames / file.samplerate:,.0f} s")
            samples = file.read(dtype="float32", always_2d=True)
            if len(samples) < file.frames:
                raise ValueError("is a truncated sound")
            return samples, int(file.samplerate)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"is no sound that can be read ({error.error_string.rstrip('.')})") from error


def _lost(data: bytes) -> bool:
    """Say whether a WAV or AIFF ends before its samples, or an OGG before its last page: who reads them would go on in
    silence."""
    if data[:4] == b"OggS":
        last = data.rfind(b"OggS")
        segments = data[last + 27 : last + 27 + data[last + 26]] if len(data) > last + 27 else b""
        whole = len(data) >= last + 27 + len(segments) + sum(segments)
        return not (segments and whole and data[last + 5] & 4)
    if data[:4] == b"FORM":
        return 8 + int.from_bytes(data[4:8], "big") > len(data)
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return False
    place = 12
    while place + 8 <= len(data):
        name, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if name == b"data":
            return size not in STREAMED and place + 8 + size > len(data)
        place += 8 + size + size % 2
    return True


def _extra(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"These sounds need the package {name}, which is not installed ({error}).",
            cure="Type pip install -e '.[media]' -c constraints.txt. WAV of 16 bits at the encoder's own rate needs "
            "nothing more.",
        ) from error
