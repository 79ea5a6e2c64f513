"""The keys of `encoders=…`, beside those of lm/keys.py. Read before torch is imported."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Le

from harness.config.library import Library
from harness.config.schema import Above0, Amount, Positive, Section, Text, Whole, extra
from lm.keys import TRANSFORMERS
from lm.keys import Keys as LmKeys

if TYPE_CHECKING:
    from omegaconf import DictConfig

KINDS = {"image": "pictures", "audio": "sounds"}
# Configs of encoders, which are of no causal language model.
ENCODERS = ("SiglipVisionConfig", "CLIPVisionConfig", "ViTConfig", "Dinov2Config", "WhisperConfig")


class Part(Section):
    lr_scale: Amount = extra("its learning rate, in optimizer.lr's; 0 freezes it")


class Encoder(Section):
    config: dict[Any, Any] | None = extra("a config class of transformers with its arguments, for fresh weights")
    name: Text | None = extra("weights instead: a folder, or a name on a hub")
    revision: Text | None = extra("its branch, tag or commit")
    processor: dict[Any, Any] | None = extra("what makes its input of a file; null: as its name has it")
    layer: Annotated[Whole, Le(-1)] | None = extra("the layer that is read: -1 the last; null: behind its norm, too")
    stack: Positive = extra("how many neighbouring outputs become one token")
    slots: Positive = extra("how many media a row has room for")
    lr_scale: Amount = extra("its learning rate, in optimizer.lr's; 0 freezes it")
    projector: Part = extra("the two layers between it and the language model")


class Ear(Encoder):
    seconds: Above0 | None = extra("the longest sound that it hears; null: as long as it can, which costs most")


class Encoders(Section):
    image: Encoder = extra("what sees")
    audio: Ear = extra("what hears")
    language_model: Part = extra("the language model behind them")


class Keys(LmKeys):
    encoders: Encoders

    libraries: ClassVar[tuple[Library, ...]] = (
        replace(TRANSFORMERS, unfit=lambda name: "" if name in ENCODERS else TRANSFORMERS.unfit(name)),
    )

    @classmethod
    def complaints(cls, cfg: "DictConfig") -> Iterator[str]:
        yield from super().complaints(cfg)
        if cfg.model.get("lora"):  # whose checkpoints hold the adapter alone
            yield (
                "model=lora does not train beside encoders: take model=pretrained, where "
                "encoders.language_model.lr_scale=0 leaves the language model as it is."
            )
        for kind, encoder in cfg.encoders.items():
            if kind in KINDS and (encoder.get("config") is None) == (encoder.get("name") is None):
                has = "both a config and a name" if encoder.get("name") else "neither a config nor a name"
                yield f"encoders.{kind} has {has}: a config is for fresh weights, a name for those of a checkpoint."
