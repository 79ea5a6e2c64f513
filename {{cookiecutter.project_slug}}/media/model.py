"""Pictures and sounds in front of a causal language model.

    encoder → the layer that is read → neighbours stacked → two layers → put where a position says → language model

A batch has the row first in every tensor: input_ids (B, T); and for each kind k, k (B, M, …), the media in M slots of a
row, and k_at (B, T): which of the row's M x P outputs a position takes, -1 for none. P outputs a medium, D the width of
the language model. A slot that nobody takes from has a gradient of exactly zero.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.checkpoint.loaded import in_words
from harness.errors import UserError
from media.encoders import Encoder, Plan, plans
from media.processors import processors

log = logging.getLogger(__name__)


class Projector(nn.Sequential):
    """Two layers from the width of an encoder's outputs to that of the language model, named as in LLaVA."""

    def __init__(self, width: int, to: int) -> None:
        super().__init__()
        self.linear_1, self.act, self.linear_2 = nn.Linear(width, to), nn.GELU(), nn.Linear(to, to)


class Normalize(nn.Module):
    """Makes of pixels (N, 3, H, W) in uint8 what an image processor would have made."""

    def __init__(self, processor: Any) -> None:
        super().__init__()
        self.rescale = float(processor.rescale)
        self.mean: Tensor
        self.std: Tensor
        for name, values in (("mean", processor.mean), ("std", processor.std)):
            self.register_buffer(name, torch.tensor(values).reshape(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.float() * self.rescale - self.mean) / self.std


class SeeingAndHearing(nn.Module):
    """`language_model` with encoders in front, as conf/encoders/ has them. It answers what is asked of a language
    model: config, device, embeddings.

    load: whether weights that `encoders` names are wanted; not where a checkpoint is about to bring all. start_from:
    the run that they are taken from afterwards. An `lr_scale` of 0 freezes a part: no gradient, no dropout.
    """

    def __init__(
        self,
        language_model: nn.Module,
        *,
        encoders: Mapping[str, Any],
        load: bool = True,
        start_from: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(language_model, PreTrainedModel):
            raise UserError(
                f"encoders=… stand in front of a model of transformers, and {type(language_model).__name__} is none.",
                cure="Take model=tiny, 14m, … or pretrained, or leave encoders out.",
            )
        self.language_model: Any = language_model
        self.plans = plans(encoders)
        embeddings: Any = language_model.get_input_embeddings()
        width = embeddings.weight.shape[1]
        self.encoders = nn.ModuleDict({kind: Encoder(plan, load=load) for kind, plan in self.plans.items()})
        self.projectors = nn.ModuleDict({kind: Projector(plan.width, width) for kind, plan in self.plans.items()})
        made = processors({kind: encoders[kind] for kind in self.plans})
        self.inputs = nn.ModuleDict(
            {kind: Normalize(made[kind]) if kind == "image" else nn.Identity() for kind in self.plans}
        )
        self.scales = dict(_scales(encoders, self.plans))
        self.beginning = "a checkpoint" if not load else f"from {start_from}" if start_from else None
        for part in self._frozen():
            part.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise UserError("Every lr_scale is 0: nothing is left to train.", cure="Say encoders.image.lr_scale=1.")
        self.train()
        if load and not start_from:
            self._warn()

    def forward(self, input_ids: Tensor, **inputs: Any) -> Any:
        """Return what the language model does. Without media it reads the text alone."""
        embeddings = self.language_model.get_input_embeddings()(input_ids)
        for kind in self.plans:
            media, at = inputs.pop(kind, None), inputs.pop(f"{kind}_at", None)
            if media is not None:
                embeddings = put(embeddings, self.outputs(kind, media), at)
        return self.language_model(inputs_embeds=embeddings, **{"use_cache": False, **inputs})

    def outputs(self, kind: str, media: Tensor) -> Tensor:
        """Return (B, M·P, D) of media (B, M, …)."""
        rows = media.shape[0]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.scales[f"encoders.{kind}"] > 0):
            encoded = self.encoders[kind](self.inputs[kind](media.flatten(0, 1)))
        projected: Tensor = self.projectors[kind](encoded)
        return projected.reshape(rows, -1, projected.shape[-1])

    def train(self, mode: bool = True) -> "SeeingAndHearing":
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def lr_scale(self, name: str) -> float:
        """Return by what the learning rate of a parameter is multiplied."""
        return next(scale for part, scale in self.scales.items() if name.startswith(f"{part}."))

    def parts(self) -> list[dict[str, Any]]:
        """Return a row for each encoder, each projector and the language model, for the log of a run."""
        return [self._row(part) for part in self.scales]

    @property
    def config(self) -> Any:
        return self.language_model.config

    @property
    def device(self) -> torch.device:
        return self.language_model.device  # type: ignore[no-any-return]

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()  # type: ignore[no-any-return]

    def get_output_embeddings(self) -> nn.Module | None:
        return self.language_model.get_output_embeddings()  # type: ignore[no-any-return]

    def _frozen(self) -> Iterator[nn.Module]:
        return (self.get_submodule(part) for part, scale in self.scales.items() if not scale)

    def _warn(self) -> None:
        for kind, plan in self.plans.items():
            if plan.folder is None and not self.scales[f"encoders.{kind}"]:
                log.warning(
                    "encoders.%s is fresh and frozen: what it puts out is noise, though the rest may learn from it. "
                    "Name its weights with encoders.%s.name=…, or train it with encoders.%s.lr_scale=1.",
                    *[kind] * 3,
                )

    def _row(self, part: str) -> dict[str, Any]:
        module, kind = self.get_submodule(part), part.rpartition(".")[2]
        plan = self.plans[kind] if part.startswith("encoders.") else None
        source = plan.folder.as_posix() if plan and plan.folder else ""
        if part == "language_model":
            source = str(self.config.name_or_path)
        parameters = list(module.parameters())
        row: dict[str, Any] = {
            "part": part,
            "class": type(getattr(module, "tower", module)).__name__,
            "weights": self.beginning or source or "fresh",
            "parameters": sum(parameter.numel() for parameter in parameters),
            "trained": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            "lr_scale": self.scales[part],
        }
        if plan:
            row |= {"input": list(plan.input), "outputs": [plan.outputs, plan.width], "tokens": plan.outputs}
        return row


def put(embeddings: Tensor, outputs: Tensor, at: Tensor) -> Tensor:
    """Return embeddings (B, T, D) with outputs (B, M·P, D) at the positions where `at` (B, T) names one of them."""
    index = at.clamp(min=0)[..., None].expand(-1, -1, outputs.shape[-1])
    return torch.where((at >= 0)[..., None], outputs.gather(1, index).to(embeddings.dtype), embeddings)


def table(parts: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table of `parts`."""
    head = ("part", "class", "weights", "parameters", "", "input", "tokens")
    rows = [head] + [
        (
            row["part"], row["class"], row["weights"], in_words(row["parameters"]),
            f"trained, lr x {row['lr_scale']:g}" if row["trained"] else "frozen",
            " x ".join(map(str, row.get("input", ()))), str(row.get("tokens", "")),
        ) for row in parts
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _scales(encoders: Mapping[str, Any], known: Mapping[str, Plan]) -> Iterator[tuple[str, float]]:
    """Yield the learning rate's factor for each part, by the beginning of its parameters' names."""
    for kind in known:
        yield f"encoders.{kind}", _scale(encoders[kind])
        yield f"projectors.{kind}", _scale(encoders[kind].get("projector"))
    yield "language_model", _scale(encoders.get("language_model"))


def _scale(part: Mapping[str, Any] | None) -> float:
    asked = (part or {}).get("lr_scale")
    return 1.0 if asked is None else float(asked)
