"""Encoders of pictures and sounds: from a config class with fresh weights, or out of a checkpoint of transformers.

image: {config: {_target_: transformers.SiglipVisionConfig, …}, layer: -1, stack: 1}
audio: {name: openai/whisper-tiny, seconds: 10, stack: 4}

What an encoder puts out at `layer` is read, what lies behind it is cut off, and `stack` neighbours become one output.
N media, P outputs each, D numbers an output.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from harness.checkpoint.match import refuse_misfit
from harness.errors import UserError
from harness.hub import has_weights, readable, refuse_without_safetensors, snapshot
from lm.models.pretrained import quiet
from media.kinds import KINDS

FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "model*.safetensors*")
FRAMES_PER_SECOND = 100  # of Whisper's spectrogram; its encoder makes one output of two


@dataclass(frozen=True)
class Family:
    """How a class of transformers is cut: the `norm` after its last layer, what is asked of its config so that it has
    no part without a gradient, and how many outputs stand before those of the patches."""

    kind: str
    norm: str | None
    options: Mapping[str, Any]
    before: int = 0


FAMILIES = {
    "siglip_vision_model": Family("image", "post_layernorm", {"vision_use_head": False}),
    "clip_vision_model": Family("image", None, {}, before=1),
    "vit": Family("image", "layernorm", {}, before=1),
    "dinov2": Family("image", "layernorm", {"use_mask_token": False}, before=1),
    "whisper": Family("audio", "layer_norm", {}),
}


@dataclass(frozen=True)
class Plan:
    """What an encoder takes and gives, known from its config alone.

    input: (3, height, width) of a picture, (mel bins, frames) of a sound. outputs: how many positions of a row a whole
    medium takes. folder: where its weights and its processor are; None for one from scratch.
    """

    kind: str
    config: PretrainedConfig
    folder: Path | None
    input: tuple[int, ...]
    outputs: int
    layer: int | None
    stack: int

    @property
    def family(self) -> Family:
        return FAMILIES[self.config.model_type]

    @property
    def width(self) -> int:
        """How many numbers an output has, the stacked ones beside each other."""
        return int(self.config.hidden_size) * self.stack

    @property
    def layers(self) -> int:
        """How many layers are kept."""
        every = int(self.config.num_hidden_layers)
        return every if self.layer is None else every + 1 + self.layer


def plans(encoders: Mapping[str, Any]) -> dict[str, Plan]:
    """Return the plan of each kind in `encoders`, as conf/encoders/ has it. Reads configs, not weights."""
    return {kind: plan(kind, encoders[kind]) for kind in KINDS if encoders.get(kind)}


def plan(kind: str, how: Mapping[str, Any]) -> Plan:
    """Raises UserError for what is no encoder of this kind, and for what cannot be read at that layer or stacked so."""
    key = f"encoders.{kind}"
    folder = folder_of(kind, how) if how.get("name") else None
    config = _config(key, how, folder)
    family = FAMILIES.get(config.model_type)
    if family is None or family.kind != kind:
        known = ", ".join(sorted(name for name, other in FAMILIES.items() if other.kind == kind))
        what = f"{key} is a model of type {config.model_type}, which is no encoder here"
        raise UserError(f"{what}.", cure=f"Known are {known}.")
    layer, stack, every = how.get("layer"), int(how.get("stack") or 1), int(config.num_hidden_layers)
    if layer is not None and not -every <= layer < 0:
        raise UserError(
            f"{key}.layer={layer}: this encoder has {every} layers.",
            cure=f"-1 is its last, {-every} its first, and null reads behind its last norm.",
        )
    shape = _picture(key, config, stack) if kind == "image" else _sound(key, config, how.get("seconds"), stack)
    return Plan(kind, config, folder, *shape, layer=layer, stack=stack)


def folder_of(kind: str, how: Mapping[str, Any]) -> Path:
    """Return the folder of config.json, weights and processor that `name` says."""
    name, key = str(how["name"]), f"encoders.{kind}.name"
    return snapshot(name, revision=how.get("revision"), files=FILES, whole=has_weights, key=key)


def _config(key: str, how: Mapping[str, Any], folder: Path | None) -> PretrainedConfig:
    if folder is None:
        given = how.get("config")
        if given is None:
            raise UserError(f"{key} has neither a config nor a name.", cure=f"Say {key}.name=FOLDER, or encoders=tiny.")
        found = instantiate(given, _convert_="all") if isinstance(given, Mapping) else given
    else:
        with quiet(), readable(str(how["name"]), f"{key}.name"):
            found = AutoConfig.from_pretrained(folder, local_files_only=True)
    found = getattr(found, "vision_config", found)  # of a checkpoint that has a text tower besides
    found = copy.deepcopy(found)
    family = FAMILIES.get(found.model_type)
    for name, value in (family.options if family else {}).items():
        setattr(found, name, value)
    return found  # type: ignore[no-any-return]


def _picture(key: str, config: PretrainedConfig, stack: int) -> tuple[tuple[int, ...], int]:
    size, patch, side = int(config.image_size), int(config.patch_size), math.isqrt(stack)
    across = size // patch
    if side * side != stack or across % side:
        squares = [str(n * n) for n in range(1, across + 1) if across % n == 0]
        raise UserError(
            f"{key}.stack={stack} does not divide {across} x {across} patches into squares.",
            cure=f"Take {', '.join(squares[:-1])} or {squares[-1]}." if len(squares) > 1 else "Take 1.",
        )
    return (3, size, size), (across // side) ** 2


def _sound(key: str, config: Any, seconds: float | None, stack: int) -> tuple[tuple[int, ...], int]:
    """Let the encoder hear `seconds` at most: its positions are sines, and a shorter table of them is a prefix."""
    most = config.max_source_positions * 2 / FRAMES_PER_SECOND
    frames = round((seconds or most) * FRAMES_PER_SECOND)
    if frames > most * FRAMES_PER_SECOND:
        raise UserError(f"{key}.seconds={seconds:g}: this encoder hears {most:g} s.", cure=f"Take {most:g} or less.")
    if frames < 2 or frames % (2 * stack):
        raise UserError(
            f"{key}.seconds={seconds or most:g} makes {frames // 2} outputs, not a multiple of {key}.stack={stack}.",
            cure=f"Take {max(1, round(frames / 2 / stack)) * 2 * stack / FRAMES_PER_SECOND:g} seconds.",
        )
    config.max_source_positions = frames // 2
    return (int(config.num_mel_bins), frames), frames // 2 // stack


class Encoder(nn.Module):
    """`tower` is the class of transformers, cut behind the layer that is read."""

    def __init__(self, plan: Plan, *, load: bool) -> None:
        super().__init__()
        self.plan = plan
        config = copy.deepcopy(plan.config)  # which is cut with its tower
        self.tower = _loaded(plan, config) if load and plan.folder else _fresh(config)
        _cut(self.tower, plan)

    def forward(self, media: Tensor) -> Tensor:
        """Return (N, P, D) of media (N, …)."""
        outputs: Tensor = self.tower(media.to(_dtype(self.tower))).last_hidden_state[:, self.plan.family.before :]
        return stacked(outputs, self.plan.stack, square=self.plan.kind == "image")


def stacked(outputs: Tensor, stack: int, *, square: bool) -> Tensor:
    """Put `stack` neighbouring outputs (N, P, D) beside each other: of a picture a square, of a sound what follows."""
    media, count, width = outputs.shape
    if stack == 1:
        return outputs
    if not square:
        return outputs.reshape(media, count // stack, stack * width)
    across, side = math.isqrt(count), math.isqrt(stack)
    blocks = outputs.reshape(media, across // side, side, across // side, side, width)
    return blocks.transpose(2, 3).reshape(media, count // stack, stack * width)


def _fresh(config: PretrainedConfig) -> PreTrainedModel:
    if config.model_type == "whisper":
        return WhisperEncoder(config)  # type: ignore[arg-type]  # its type says that it is Whisper's
    more = {"add_pooling_layer": False} if config.model_type == "vit" else {}
    return AutoModel.from_config(config, **more)  # type: ignore[no-any-return]


def _loaded(plan: Plan, config: PretrainedConfig) -> PreTrainedModel:
    """Return the encoder out of a whole checkpoint, with every weight it has. transformers fills in what is missing
    with random numbers: here that is an error."""
    assert plan.folder is not None
    key, hears = f"encoders.{plan.kind}", plan.config.model_type == "whisper"
    refuse_without_safetensors(plan.folder, str(plan.folder), key=f"{key}.name")
    more = {"add_pooling_layer": False} if config.model_type == "vit" else {}
    # With all of its positions, as the file has them.
    whole_config = AutoConfig.from_pretrained(plan.folder, local_files_only=True) if hears else config
    kind: Any = WhisperModel if hears else type(_on_meta(config))
    with quiet(), readable(str(plan.folder), f"{key}.name"):
        whole, found = kind.from_pretrained(
            plan.folder,
            config=whole_config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # then they are listed
            **more,
        )
    ours = "encoder." if hears else ""
    missing = [name for name in found["missing_keys"] if name.startswith(ours)]
    shapes = [entry for entry in found["mismatched_keys"] if entry[0].startswith(ours)]
    refuse_misfit(missing, [], shapes, plan.folder, cure=f"{key}.name has to be a whole {plan.config.model_type}.")
    if not hears:
        return whole  # type: ignore[no-any-return]
    encoder: Any = whole.encoder
    short = config.max_source_positions
    encoder.embed_positions = nn.Embedding.from_pretrained(encoder.embed_positions.weight[:short].clone())
    encoder.config, encoder.max_source_positions = config, short
    return encoder  # type: ignore[no-any-return]


def _on_meta(config: PretrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return _fresh(config)


def _cut(tower: PreTrainedModel, plan: Plan) -> None:
    """Take out what lies behind the layer that is read: it would never have a gradient."""
    blocks = next(part for part in tower.modules() if isinstance(part, nn.ModuleList))
    del blocks[plan.layers :]
    tower.config.num_hidden_layers = len(blocks)
    behind = {plan.family.norm} if plan.layer is not None else set()
    behind |= {"post_layernorm"} - {plan.family.norm}  # CLIP's, of the class token alone
    for name in dict(tower.named_children()):
        if name in behind:
            setattr(tower, name, nn.Identity())


def _dtype(network: nn.Module) -> torch.dtype:
    return next(parameter.dtype for parameter in network.parameters() if parameter.is_floating_point())
