"""How fast this device is at a model's own kernels, in one setting or another: timed, in under a second.

The kernels are plain ones of the model's shapes: the three products of a weight matrix in a step, and attention there
and back. Settings take turns, on small pieces of the work first; what is far behind on those is not asked again: a
format without hardware may be a hundred times slower, and its first whole product would take seconds. On a CPU kernels
are compared on one thread, by its CPU time: so nobody else on the same cores decides what is picked.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TURNS, MOST_TURNS = 2, 12  # at a size of the work: before a larger one, and where there is none
FAR_BEHIND = 5.0  # times as long as the fastest
GROWTH = 4  # from one size of the work to the next
KINDS, ROWS, POSITIONS = 3, 8192, 2048  # the most that is tried: kinds of matrices, rows, positions of attention
CPU_SIDE = 512  # the longest side of a matrix on a CPU, lest the slowest format takes long
EXACT = 1e-5  # the largest error relative to the largest number: float32 has 1e-6, bfloat16 3e-3
LEAST_WORK = 1 << 24  # multiplications in a kernel: with less its call is what is timed
WAITING = 3  # times as long may it take where others compute on the same cores
TYPES = {"bf16": torch.bfloat16, "16": torch.float16}


@dataclass(frozen=True)
class Setting:
    """`matmul` is torch's float32 matmul precision, `attention` a kernel: sdpa or eager. `threads`: 0 leaves as many as
    there are."""

    precision: str = "32-true"
    matmul: str = "highest"
    attention: str = "sdpa"
    threads: int = 0

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' * (self.threads != 1)}" if self.threads else ""
        return f"{self.precision}, {self.matmul} matmul precision, {self.attention} attention{threads}"

    @property
    def dtype(self) -> torch.dtype:
        """The type that products have."""
        return TYPES.get(self.precision.partition("-")[0], torch.float32)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Compute in this setting, all but the type, and go back to what was set before."""
        before = torch.get_float32_matmul_precision(), torch.get_num_threads()
        self.enter()
        try:
            yield
        finally:
            Setting(matmul=before[0], threads=before[1]).enter()

    def enter(self) -> None:
        torch.set_float32_matmul_precision(self.matmul)
        if self.threads not in (0, torch.get_num_threads()):
            torch.set_num_threads(self.threads)


@dataclass(frozen=True)
class Attention:
    """Over how many layers, heads and positions, and how wide a head is."""

    layers: int
    heads: int
    positions: int
    width: int


@dataclass(frozen=True)
class Kernels:
    """What a micro-batch computes: `rows` of activations go through each weight matrix.

    products: (how many matrices, their inputs, their outputs), the most work first.
    """

    rows: int
    products: tuple[tuple[int, int, int], ...]
    attention: Attention | None = None

    @classmethod
    def of(cls, module: nn.Module, rows: int, attention: Attention | None = None) -> Self:
        """Return those of a module, which may be on torch's meta device. Embeddings are looked up, not multiplied."""
        numbers: dict[tuple[int, int], int] = {}
        for part in module.modules():
            for weight in () if isinstance(part, nn.Embedding) else part.parameters(recurse=False):
                if weight.ndim == 2:
                    outputs, inputs = weight.shape
                    numbers[inputs, outputs] = numbers.get((inputs, outputs), 0) + 1
        products = [(number, *shape) for shape, number in numbers.items()]
        return cls(rows, tuple(sorted(products, key=lambda product: (-math.prod(product), product))), attention)

    @property
    def sequences(self) -> int:
        """How many rows of attention a micro-batch has, those of all heads."""
        return self.attention.heads * max(1, self.rows // self.attention.positions) if self.attention else 0

    @property
    def scores(self) -> int:
        """How many attention scores a micro-batch has."""
        return self.sequences * self.attention.layers * self.attention.positions**2 if self.attention else 0

    def __str__(self) -> str:
        products = " ".join("x".join(map(str, product)) for product in self.products)
        attention = "x".join(map(str, astuple(self.attention))) if self.attention else "none"
        return f"{self.rows} rows, products {products}, attention {attention}"


Clock = Callable[[], float]  # in seconds
Work = Callable[[Setting, int], object]  # does so many units of it, in a setting


def seconds_of(settings: Sequence[Setting], kernels: Kernels, device: str, seconds: float) -> dict[Setting, float]:
    """Return about how long the kernels of a micro-batch take in each setting, tried for so many `seconds` in all.

    The first setting is never left out; what is far behind keeps the time of the piece at which it was.
    """
    clock, first = clock_of(settings), settings[0]
    began, rows = clock(), min(kernels.rows, ROWS)
    alike: dict[tuple[object, ...], Setting] = {}  # products are the same whatever attention is
    of_products = {s: alike.setdefault((s.precision, s.matmul, s.threads), s) for s in settings}
    share = 0.5 if kernels.attention else 1.0
    work = Products(kernels, rows, device)
    products = race([*alike.values()], work, sizes(work.least, rows), seconds * share, device)
    times = {s: kernels.rows * products[of_products[s]] / work.share for s in settings}
    if kernels.attention:
        fast = [s for s in settings if s == first or times[s] <= FAR_BEHIND * min(times.values())]
        heads = AttentionRows(kernels.attention, device)
        left = began + seconds - clock()
        scored = race(fast, heads, sizes(heads.least, kernels.sequences), left, device)
        longer = (kernels.attention.positions / min(kernels.attention.positions, POSITIONS)) ** 2
        for setting in settings:  # the others are out already
            times[setting] += kernels.sequences * kernels.attention.layers * longer * scored.get(setting, scored[first])
    return times


def sizes(first: int, last: int) -> list[int]:
    """Return the sizes of the work from a small one to all of it."""
    found = [min(first, last)]
    while found[-1] < last:
        found.append(min(last, found[-1] * GROWTH))
    return found


def race(
    settings: Sequence[Setting], work: Work, growing: Sequence[int], seconds: float, device: str
) -> dict[Setting, float]:
    """Return the least seconds of each setting for a unit of `work`, at the largest size that there was time for.

    On a machine where others are at work it takes up to WAITING times as many seconds.
    """
    clock = clock_of(settings)
    ends, ends_at_last = clock() + seconds, time.perf_counter() + WAITING * seconds
    found: dict[Setting, float] = {}
    taking_part = list(settings)
    for size, larger in zip(growing, [*growing[1:], math.inf], strict=True):
        least = dict.fromkeys(taking_part, math.inf)
        for turn in range(MOST_TURNS):
            for setting in taking_part:
                least[setting] = min(least[setting], _once(setting, work, size, device, clock))
            if turn:  # the first one chooses and makes kernels
                limit = FAR_BEHIND * min(least.values())
                taking_part = [s for s in taking_part if s == settings[0] or least[s] <= limit]
            left = min(ends - clock(), ends_at_last - time.perf_counter())
            affordable = TURNS * sum(least[s] for s in taking_part) * larger / size < left
            if left <= 0 or (affordable and turn + 1 >= TURNS):
                break
        found |= {setting: time_taken / size for setting, time_taken in least.items()}
        if not affordable:
            break
    return found


def clock_of(settings: Sequence[Setting]) -> Clock:
    """Return what tells the time: of work on one thread its own, which on Windows comes in steps of 16 ms."""
    alone = all(setting.threads == 1 for setting in settings) and sys.platform != "win32"
    return time.thread_time if alone else time.perf_counter


def _once(setting: Setting, work: Work, size: int, device: str, clock: Clock) -> float:
    with setting.entered():
        _wait_for(device)
        began = clock()
        work(setting, size)
        _wait_for(device)
        return clock() - began


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class Products:
    """The products of a step with a matrix of each of the largest kinds, `share` of them all; a unit is a row."""

    def __init__(self, kernels: Kernels, rows: int, device: str) -> None:
        most = CPU_SIDE if device == "cpu" else math.inf
        shapes = [tuple(int(min(side, most)) for side in sides) for _, *sides in kernels.products[:KINDS]]
        self.weights = [torch.ones(outputs, inputs, device=device) for inputs, outputs in shapes]
        self.rows = {side: torch.ones(rows, side, device=device) for shape in shapes for side in shape}
        self.share = sum(map(math.prod, shapes)) / sum(map(math.prod, kernels.products))
        self.least = max(16, LEAST_WORK // max(map(math.prod, shapes)))

    def __call__(self, setting: Setting, size: int) -> None:
        for weight in self.weights:
            w, x, g = (tensor.to(setting.dtype) for tensor in (weight, *self._rows(weight, size)))
            F.linear(x, w), g @ w, g.T @ x  # forward, and the gradients of activations and weights

    def _rows(self, weight: Tensor, size: int) -> tuple[Tensor, Tensor]:
        outputs, inputs = weight.shape
        return self.rows[inputs][:size], self.rows[outputs][:size]


class AttentionRows:
    """Causal attention of a layer, forward and backward; a unit is a head over one sequence."""

    def __init__(self, attention: Attention, device: str) -> None:
        self.positions, self.width, self.device = min(attention.positions, POSITIONS), attention.width, device
        self.least = max(1, LEAST_WORK // (self.positions**2 * self.width))
        hidden = torch.ones(self.positions, self.positions, dtype=torch.bool, device=device).triu(1)
        self.mask = torch.zeros(hidden.shape, device=device).masked_fill(hidden, -math.inf)

    def __call__(self, setting: Setting, size: int) -> None:
        shape = (1, size, self.positions, self.width)
        q, k, v = (torch.ones(shape, dtype=setting.dtype, device=self.device, requires_grad=True) for _ in "qkv")
        if setting.attention == "eager":  # as transformers computes it
            scores = q @ k.mT * self.width**-0.5 + self.mask.to(setting.dtype)
            out = scores.softmax(-1, dtype=torch.float32).to(setting.dtype) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out.sum().backward()


def is_exact(matmul: str) -> bool:
    """Say whether this matmul precision keeps the digits of float32 on this CPU. Where there are matrix units, torch
    may let them compute in bfloat16."""
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(128, 128, generator=draw) for _ in "ab")
    with Setting(matmul=matmul).entered():
        found = a @ b
    exact = a.double() @ b.double()
    return bool((found - exact).abs().max() < EXACT * exact.abs().max())
