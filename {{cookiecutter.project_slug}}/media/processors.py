"""What an encoder is given: uint8 pixels by its own image processor, log-mel frames by its own feature extractor.

Made once, in preparation. Pixels are normalized on the device, (x * rescale - mean) / std: a quarter of the bytes.
"""

import json
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from hydra.utils import instantiate
from transformers import AutoFeatureExtractor, AutoImageProcessor, SiglipImageProcessorPil, WhisperFeatureExtractor

from harness.errors import UserError, said_of
from media import decode
from media.encoders import Plan, plans

Array = npt.NDArray[Any]

# What of an image processor does not decide the stored pixels.
NOT_GEOMETRY = {"image_mean", "image_std", "rescale_factor", "do_rescale", "do_normalize", "data_format"}
OF_SOUNDS = ("feature_size", "sampling_rate", "hop_length", "n_fft", "padding_value")


class Processor(Protocol):
    """`shape` and `dtype` are of a whole medium; `whole` is how much of it can be heard, in units of its last axis, and
    1 for a picture. `fingerprint` decides what is made of a file."""

    shape: tuple[int, ...]
    dtype: str
    whole: int
    fingerprint: str

    def __call__(self, data: bytes) -> tuple[Array, int, dict[str, Any]]:
        """Return what is stored of a file, how much of `whole` is heard, and facts about the file. Raises
        ValueError."""

    def restored(self, stored: Array) -> Array:
        """Return the encoder's input, of `shape`."""


class Pictures:
    """uint8 (3, H, W): turned, on white, resized and cut as the encoder's processor does it."""

    dtype, whole = "uint8", 1

    def __init__(self, processor: Any, shape: tuple[int, ...]) -> None:
        self.processor, self.shape = processor, shape
        geometry = {key: value for key, value in processor.to_dict().items() if key not in NOT_GEOMETRY}
        self.fingerprint = json.dumps(geometry, sort_keys=True, default=str)
        self.rescale = float(processor.rescale_factor) if processor.do_rescale else 1.0
        plain = [0.0] * 3, [1.0] * 3
        normal = (processor.image_mean, processor.image_std) if processor.do_normalize else plain
        self.mean, self.std = (list(map(float, values)) for values in normal)

    def __call__(self, data: bytes) -> tuple[Array, int, dict[str, Any]]:
        image, changes = decode.picture(data)
        size = [image.width, image.height]
        pixels = self.processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        if size != [self.shape[2], self.shape[1]]:
            changes.append("size")
        return np.asarray(pixels, np.uint8), 1, {"size": size, "changes": changes}

    def restored(self, stored: Array) -> Array:
        return stored.reshape(self.shape)


class Sounds:
    """float32 (mel, frames): at the extractor's rate, in one channel. What is stored ends with the last frame that
    differs from the next ones: silence up to the end of the window need not be kept."""

    dtype = "float32"

    def __init__(self, extractor: WhisperFeatureExtractor, shape: tuple[int, ...]) -> None:
        self.extractor, self.shape, self.whole = extractor, shape, shape[1]
        extractor.dither = 0.0  # noise: the same file would be made into another spectrogram each time
        self.rate, self.hop = int(extractor.sampling_rate), int(extractor.hop_length)
        facts = {name: getattr(extractor, name) for name in OF_SOUNDS} | {"frames": self.whole}
        self.fingerprint = json.dumps(facts, sort_keys=True)

    @property
    def seconds(self) -> float:
        return self.whole * self.hop / self.rate

    def __call__(self, data: bytes) -> tuple[Array, int, dict[str, Any]]:
        samples, rate, changes = decode.sound(data)
        facts = {"rate": rate, "seconds": round(len(samples) / rate, 3), "changes": changes}
        if len(samples) > self.whole * self.hop * rate / self.rate:
            hears = f"the encoder hears {self.seconds:g} (encoders.audio.seconds)"
            raise ValueError(f"has {len(samples) / rate:.2f} s, and {hears}")
        if rate != self.rate:
            samples = decode.resampled(samples, rate, self.rate)[: self.whole * self.hop]
            changes.append("rate")
        if not len(samples):
            raise ValueError("is a sound without a sample")
        made = self.extractor(samples, sampling_rate=self.rate, max_length=self.whole * self.hop, return_tensors="np")[
            "input_features"
        ][0]
        differs = np.flatnonzero((made != made[:, -1:]).any(axis=0))
        stored = made[:, : int(differs[-1]) + 2 if len(differs) else 1]
        return np.ascontiguousarray(stored, np.float32), -(-len(samples) // self.hop), facts

    def restored(self, stored: Array) -> Array:
        frames = stored.reshape(self.shape[0], -1)
        return np.pad(frames, ((0, 0), (0, self.whole - frames.shape[1])), mode="edge")


def processors(encoders: Mapping[str, Any]) -> dict[str, Any]:
    """Return the processor of each encoder by its kind."""
    made = {"image": image_processor, "audio": feature_extractor}
    return {kind: made[kind](encoders[kind], planned) for kind, planned in plans(encoders).items()}


def image_processor(how: Mapping[str, Any], planned: Plan) -> Pictures:
    """Return the processor that `processor` describes, that of a checkpoint, or one that makes what SigLIP sees. Raises
    UserError unless it makes pictures of the encoder's size."""
    height, width = planned.input[1:]
    with said_of("encoders.image.processor"):
        if how.get("processor"):
            processor = instantiate(how["processor"], _convert_="all")
        elif planned.folder:  # an installed torchvision must not choose other pixels
            processor = AutoImageProcessor.from_pretrained(planned.folder, backend="pil", local_files_only=True)
        else:
            processor = SiglipImageProcessorPil(size={"height": height, "width": width})
        found = processor(np.zeros((8, 16, 3), np.uint8), return_tensors="np")["pixel_values"].shape[1:]
    if found != planned.input:
        made, wanted = (f"{shape[-1]}x{shape[-2]}" for shape in (found, planned.input))
        raise UserError(
            f"encoders.image: its processor makes pictures of {made}, and the encoder sees {wanted}.",
            cure=f"Set encoders.image.config.image_size={found[-1]}, or the size of encoders.image.processor.",
        )
    return Pictures(processor, planned.input)


def feature_extractor(how: Mapping[str, Any], planned: Plan) -> Sounds:
    """Return the extractor of spectrograms, as `image_processor` does. Raises UserError for another number of bins."""
    bins = planned.input[0]
    with said_of("encoders.audio.processor"):
        if how.get("processor"):
            extractor = instantiate(how["processor"], _convert_="all")
        elif planned.folder:
            extractor = AutoFeatureExtractor.from_pretrained(planned.folder, local_files_only=True)
        else:
            extractor = WhisperFeatureExtractor(feature_size=bins)
    if not isinstance(extractor, WhisperFeatureExtractor):
        raise UserError(f"encoders.audio: {type(extractor).__name__} makes no log-mel frames as Whisper's does.")
    if extractor.feature_size != bins:
        raise UserError(
            f"encoders.audio: its extractor makes {extractor.feature_size} mel bins, and the encoder hears {bins}.",
            cure=f"Set encoders.audio.config.num_mel_bins={extractor.feature_size}.",
        )
    return Sounds(extractor, planned.input)
