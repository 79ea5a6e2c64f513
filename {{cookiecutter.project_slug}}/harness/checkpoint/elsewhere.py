"""Weights that a checkpoint leaves out, because they never change and lie elsewhere: those beneath an adapter."""

from dataclasses import dataclass

from torch import Tensor, nn

from harness.checkpoint.match import fitted
from harness.checkpoint.read import Checkpoint, load_weights
from harness.errors import UserError

ENTRY = "elsewhere"  # of the manifest


@dataclass(frozen=True)
class Elsewhere:
    """The weights called `names` in a network's state are those of `name` in `revision`, whose content has that
    `checksum`."""

    names: frozenset[str]
    name: str
    revision: str
    checksum: str

    @property
    def entry(self) -> dict[str, str]:
        """What a manifest says of it."""
        return {"name": self.name, "revision": self.revision, "checksum": self.checksum}


def of(module: nn.Module) -> Elsewhere | None:
    """Return what a module says that its checkpoints leave out."""
    found: Elsewhere | None = getattr(module, "weights_elsewhere", None)
    return found


def stored(state: dict[str, Tensor], elsewhere: Elsewhere | None, prefix: str = "") -> dict[str, Tensor]:
    """Return the part of a state that belongs into a checkpoint; `prefix` is before the network's names in it."""
    left_out = elsewhere.names if elsewhere else frozenset()
    return {name: tensor for name, tensor in state.items() if name.removeprefix(prefix) not in left_out}


def whole_state(checkpoint: Checkpoint, network: nn.Module, elsewhere: Elsewhere | None) -> dict[str, Tensor]:
    """Return a checkpoint's weights under the network's names, with those that it leaves out as the network has them.

    Raises UserError for what is missing, unexpected or of another shape, and where other weights lie beneath.
    """
    refuse_others(checkpoint, elsewhere)
    state = network.state_dict()
    return state | fitted(load_weights(checkpoint), stored(state, elsewhere), source=checkpoint.path)


def refuse_others(checkpoint: Checkpoint, elsewhere: Elsewhere | None) -> None:
    """Raise UserError when what was trained on one base would be put on another."""
    before = checkpoint.manifest.get(ENTRY)
    if before and elsewhere and before["checksum"] != elsewhere.checksum:
        was, now = (f"{e['name']} ({e['revision']}, checksum {e['checksum']})" for e in (before, elsewhere.entry))
        raise UserError(
            f"{checkpoint.path.as_posix()} was trained on top of {was}, and here is {now}: the weights are others.",
            cure="Bring the old ones back.",
        )
