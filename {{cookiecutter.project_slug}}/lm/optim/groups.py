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
    (biases, norms), which it must not."""
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [(name, parameter) for name, parameter in trainable if parameter.dim() >= 2]
    vectors = [(name, parameter) for name, parameter in trainable if parameter.dim() < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(factory: Callable[..., Optimizer], model: nn.Module) -> Optimizer:
    """Return `factory(groups)`, as every optimizer of torch takes them; one that has a parameter called `roles`, such
    as `lm.optim.muon.Muon`, gets those too, {name: role}."""
    groups = parameter_groups(model)
    if "roles" in inspect.signature(factory).parameters:
        return factory(groups, roles=roles(model))
    return factory(groups)
