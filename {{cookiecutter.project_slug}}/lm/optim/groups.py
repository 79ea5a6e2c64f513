"""Which parameter learns how: roles of named parameters, and the groups that an optimizer is built from."""

import inspect
from collections.abc import Callable
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

Role = Literal["matrix", "embedding", "head", "vector"]
Roles = dict[str, Role]


def roles(model: nn.Module) -> Roles:
    """Return the role of each trainable parameter by its name. A head that is tied to the embedding is an embedding."""
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    output: Any = getattr(model, "get_output_embeddings", lambda: None)()  # transformers' name for the head
    head = getattr(output, "weight", None)

    def role(parameter: nn.Parameter) -> Role:
        if parameter.dim() < 2:
            return "vector"
        if id(parameter) in embeddings:
            return "embedding"
        return "head" if parameter is head else "matrix"

    return {name: role(parameter) for name, parameter in model.named_parameters() if parameter.requires_grad}


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Return two optimizer groups of (name, parameter): matrices of any role, which weight decay shrinks, and vectors
    (biases, norms), which it must not; two for each scale where the model says `lr_scale(name)`."""
    scale_of = getattr(model, "lr_scale", lambda name: 1.0)
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            vector, scale = parameter.dim() < 2, scale_of(name)
            options = {"weight_decay": 0.0} if vector else {}
            options |= {} if scale == 1 else {"lr_scale": scale}
            groups.setdefault((vector, -scale), {"params": [], **options})["params"].append((name, parameter))
    return [groups[key] for key in sorted(groups)]


def build_optimizer(factory: Callable[..., Optimizer], model: nn.Module) -> Optimizer:
    """Return `factory(groups)`, as every optimizer of torch takes them; one that has a parameter called `roles`, such
    as `lm.optim.muon.Muon`, gets those too, {name: role}."""
    more = {"roles": roles(model)} if "roles" in inspect.signature(factory).parameters else {}
    optimizer = factory(parameter_groups(model), **more)
    for group in optimizer.param_groups:
        if "lr_scale" in group:
            group["lr"] *= group["lr_scale"]
    return optimizer
