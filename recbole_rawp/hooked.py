"""How does every user of a batch run with weights of their own, without copies?

The loss of user u reads the rows of user u alone, so one forward and one backward pass of the sum of all losses give
every user's gradient (Goodfellow, 2015, "Efficient Per-Example Gradient Computations"). No gradient by a weight is
ever taken, only by the layers' outputs:

    linear layer      inputs A_u [m, in], gradients by the outputs D_u [m, out]:    G_u = D_u^T A_u
    embedding table   looked-up rows r_ui, gradients by them D_ui:                  G_u[r] = sum of D_ui over r_ui = r

The forward of the attacked layers is replaced while a pass runs, so a model must use its weights through them; what
uses a weight otherwise is not seen here. `choose` compares with the slow way on two users, which catches it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_rawp.ball import Ball, group_norms, normalize
from recbole_rawp.copies import (
    Candidates,
    NotSupported,
    OneByOne,
    PerUser,
    Steepest,
    Vectorized,
    cross_entropy,
    itself,
    pick,
    pseudo_labels,
    rms,
    users_ball,
)
from recbole_rawp.overlay import clear_caches
from recbole_rawp.selection import Weights

Forward = Callable[[Any, Tensor, int], Tensor]  # module, its input, how many calls there were before


# ----- A pass with some forwards replaced -----


@dataclass
class Calls:
    """What the calls of one weight's modules read and gave, in order; kept only while gradients are recorded."""

    number: int = 0
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    versions: list[tuple[int, int]] = field(default_factory=list)

    def add(self, read: Tensor, gave: Tensor) -> None:
        """Keep one call, and let its output have a gradient even if nothing before it is attacked."""
        if not gave.requires_grad:
            gave.requires_grad_()
        self.inputs.append(read.detach())
        self.outputs.append(gave)
        self.versions.append((read._version, gave._version))

    def changed(self) -> bool:
        """Tell whether the model overwrote one of them later: its gradient would be another tensor's."""
        pairs = zip(self.inputs, self.outputs)
        return any((x._version, y._version) != then for (x, y), then in zip(pairs, self.versions))


def call(module: nn.Module, forward: Forward, calls: Calls, rows: int, input: Tensor) -> Tensor:
    """Stand in for `module.forward`.

    Raises:
        NotSupported: if the input's first dimension is not one entry per row of the batch.
    """
    if input.dim() < 1 + input.is_floating_point() or input.shape[0] != rows:
        raise NotSupported(f"a {type(module).__name__} got {tuple(input.shape)} where the batch has {rows} rows")
    output = forward(module, input, calls.number)
    calls.number += 1
    if torch.is_grad_enabled():
        calls.add(input, output)
    return output


@contextmanager
def replaced(forwards: dict[nn.Module, tuple[Forward, Calls]], rows: int) -> Iterator[None]:
    """Put other forwards in the place of these modules' own, which come back afterwards, also after an error."""
    try:
        for module, (forward, calls) in forwards.items():
            module.forward = partial(call, module, forward, calls, rows)
        yield
    finally:
        for module in forwards:
            module.__dict__.pop("forward", None)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter ask for a gradient: the backward pass then computes none by a weight."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


class _Passes:
    """Forward and backward passes in which the layers of some names run a forward of ours."""

    def __init__(self, candidates: Candidates, modules: dict[str, list[nn.Module]]) -> None:
        self.candidates, self.modules = candidates, modules

    def steepest(self, ball: Ball) -> Steepest:
        """Return the one-step attack; its `logits` write out no more of it than they need."""
        return Steepest(ball)

    def loss(self, logits: Tensor) -> Tensor:
        """Return [U]."""
        return cross_entropy(logits, self.labels, self.candidates.mask)

    @cached_property
    def labels(self) -> Tensor:
        """The labels [U, n]."""
        given = self.candidates.labels
        return pseudo_labels(self._clean[0]) if given is None else given

    @cached_property
    def _clean(self) -> tuple[Tensor, dict[str, Calls]]:
        """The pass at w, with its graph; both go once `_at_w` has been taken from them."""
        return self._run({}, gradient=True)

    def _run(self, own: dict[str, Any], *, gradient: bool) -> tuple[Tensor, dict[str, Calls]]:
        """Return the logits of one pass, and its calls by name.

        Raises:
            NotSupported: if a layer is never called, or what it read or gave is overwritten.
        """
        candidates, calls = self.candidates, {name: Calls() for name in self.modules}
        forwards = {
            module: (self._forward(name, own.get(name)), calls[name])
            for name, modules in self.modules.items()
            for module in modules
        }
        # cuDNN's recurrent layers have no backward pass in evaluation mode.
        with frozen(candidates.model), torch.set_grad_enabled(gradient), torch.backends.cudnn.flags(enabled=False):
            with replaced(forwards, candidates.mask.numel()):
                clear_caches(candidates.model.modules())
                logits = candidates.logits()
            clear_caches(candidates.model.modules())
        for name, made in calls.items():
            if not made.number:
                raise NotSupported(f"{name}: its module is never called")
            if made.changed():
                raise NotSupported(f"{name}: the model overwrites what the layer reads or gives")
        return logits, calls

    def _backward(self, logits: Tensor, calls: dict[str, Calls]) -> dict[str, list[Tensor]]:
        """Return the gradients by the outputs of all calls, each [U, m, out], name by name."""
        users = self.candidates.users
        outputs = [output for made in calls.values() for output in made.outputs]
        found = iter(torch.autograd.grad(self.loss(logits).sum(), outputs, allow_unused=True))
        slopes = {name: [(y, next(found)) for y in made.outputs] for name, made in calls.items()}
        return {
            name: [(torch.zeros_like(y) if d is None else d).reshape(users, -1, y.shape[-1]) for y, d in pairs]
            for name, pairs in slopes.items()
        }

    def _forward(self, name: str, own: Any) -> Forward:
        """Return the forward of a layer, given what is the users' own of it (None: nothing)."""
        raise NotImplementedError


# ----- Two kinds of layers -----


@dataclass(frozen=True)
class Written:
    """Gradients [U, r, k], written out."""

    gradient: Tensor

    @cached_property
    def norms(self) -> Tensor:
        """Of each row, [U, r, 1]."""
        return torch.linalg.vector_norm(self.gradient, dim=2, keepdim=True)

    def moved(self, base: Tensor, factor: Tensor) -> Tensor:
        """Return w + factor * G."""
        return torch.addcmul(base, self.gradient, factor)


@dataclass(frozen=True)
class Ghost:
    """Gradients of a linear layer as D^T A, not written out: A [U, m, in], D [U, m, out]."""

    inputs: Tensor
    slopes: Tensor

    @property
    def gradient(self) -> Tensor:
        """G_u = D_u^T A_u, [U, out, in]."""
        return self.slopes.transpose(1, 2) @ self.inputs

    @cached_property
    def norms(self) -> Tensor:
        """||G_r||^2 = d_r^T (A A^T) d_r, [U, out, 1]; D is scaled first, since its square might underflow."""
        scale = self.slopes.abs().amax(dim=(1, 2), keepdim=True)
        slopes = self.slopes / torch.where(scale > 0, scale, 1.0)
        squares = (slopes * (self.inputs @ self.inputs.transpose(1, 2) @ slopes)).sum(1)
        return squares.clamp_min(0).sqrt().unsqueeze(2) * scale

    def moved(self, base: Tensor, factor: Tensor) -> "Ghost":
        """Return factor * G, for the layer adds it to what it gives."""
        return Ghost(self.inputs, self.slopes * factor.transpose(1, 2))

    def added(self, x: Tensor) -> Tensor:
        """Return x G^T = (x A^T) D for x [U, m', in]."""
        return x @ self.inputs.transpose(1, 2) @ self.slopes


class Linear:
    """Weight [out, in] of nn.Linear modules; a delta is [U, out, in]."""

    def __init__(self, weight: Tensor, users: int, ghost: bool | None) -> None:
        self.base, self.users, self.ghost = weight.detach().unsqueeze(0), users, ghost
        self.shape = (users, *weight.shape)

    def start(self, calls: Calls) -> None:
        """Learn nothing from the first pass."""

    def reduce(self, calls: Calls, slopes: list[Tensor]) -> Written | Ghost:
        """Return the gradients: as D^T A where m < in * out / (in + out), which costs less, else written out."""
        inputs = [self._split(x) for x in calls.inputs]
        _, out, width = self.base.shape
        rows = sum(x.shape[1] for x in inputs)
        if rows * (width + out) < width * out if self.ghost is None else self.ghost:
            return Ghost(torch.cat(inputs, 1), torch.cat(slopes, 1))
        parts = [d.transpose(1, 2) @ x for x, d in zip(inputs, slopes)]
        return Written(sum(parts[1:], parts[0]))

    def forward(self, module: Any, x: Tensor, number: int, *, own: Tensor | Ghost | None) -> Tensor:
        """Return x W_u^T + b, where W_u is `own`, w + `own` (Ghost) or w (None)."""
        if own is None:
            return functional.linear(x, self.base[0], module.bias)
        rows, bias = self._split(x), module.bias
        if isinstance(own, Ghost):
            return functional.linear(x, self.base[0], bias) + own.added(rows).view(*x.shape[:-1], -1)
        turned = own.transpose(1, 2)
        result = rows @ turned if bias is None else torch.baddbmm(bias, rows, turned)
        return result.view(*x.shape[:-1], -1)

    def _split(self, x: Tensor) -> Tensor:
        """Return [U, m, in]."""
        return x.reshape(self.users, -1, x.shape[-1])


class Table:
    """Weight [V, k] of nn.Embedding modules; a delta is [U, R, k]: the rows that a user's candidates look up.

    R is the most distinct rows of one user; those with fewer have slots that nothing reads: their gradient is 0.
    """

    def __init__(self, weight: Tensor, users: int, padding: int | None) -> None:
        self.weight, self.users, self.padding = weight.detach(), users, padding

    def start(self, calls: Calls) -> None:
        """Give each row that a user looks up a slot: index [U, R] -> row, and slots, look-up -> u * R + slot."""
        self.lookups = calls.inputs
        index = torch.cat([x.reshape(self.users, -1) for x in self.lookups], 1)
        user = torch.arange(self.users, device=index.device).unsqueeze(1)
        pairs, which = (user * len(self.weight) + index).unique(return_inverse=True)
        owner = pairs // len(self.weight)
        count = owner.bincount(minlength=self.users)
        most = int(count.max())
        slot = owner * most + torch.arange(len(pairs), device=index.device) - (count.cumsum(0) - count)[owner]
        self.index = pairs.new_zeros(self.users * most).index_copy(0, slot, pairs % len(self.weight))
        parts = slot[which].split([x.numel() // self.users for x in self.lookups], 1)
        self.slots = [part.reshape(x.shape) for part, x in zip(parts, self.lookups)]
        self.shape = (self.users, most, self.weight.shape[1])
        self.base = self.weight[self.index].view(self.shape)

    def reduce(self, calls: Calls, slopes: list[Tensor]) -> Written:
        """Return the gradients, 0 for the padding row."""
        total = self.weight.new_zeros(len(self.index), self.shape[2])
        if self.shape[1] == 1:  # every look-up of a user reads the same row
            total = sum((d.sum(1) for d in slopes), total)
        for slots, d in zip(self.slots, slopes if self.shape[1] > 1 else []):
            total.index_add_(0, slots.flatten(), d.reshape(-1, self.shape[2]))
        if self.padding is not None:
            total[self.index == self.padding] = 0.0
        return Written(total.view(self.shape))

    def forward(self, module: Any, x: Tensor, number: int, *, own: Tensor | None) -> Tensor:
        """Look up in the user's own rows, or in the table (None)."""
        if own is None:
            return functional.embedding(x, self.weight)
        if number >= len(self.lookups) or not torch.equal(x, self.lookups[number]):
            raise NotSupported("an embedding is asked for other rows under attack than before")
        return functional.embedding(self.slots[number], own.reshape(-1, self.shape[2]))


def layer(name: str, owners: list[nn.Module], weight: Tensor, users: int, ghost: bool | None) -> Linear | Table:
    """Return how to attack `weight`.

    Raises:
        NotSupported: if not all its modules are plain nn.Linear, or plain nn.Embedding, with this weight.
    """
    plain = all(getattr(owner, "weight", None) is weight and "forward" not in owner.__dict__ for owner in owners)
    if plain and all(type(owner).forward is nn.Linear.forward for owner in owners):
        return Linear(weight, users, ghost)
    if plain and all(type(owner).forward is nn.Embedding.forward for owner in owners):
        kinds = {(owner.padding_idx, owner.max_norm, owner.scale_grad_by_freq) for owner in owners}
        padding, max_norm, by_frequency = next(iter(kinds))
        if len(kinds) == 1 and max_norm is None and not by_frequency:
            return Table(weight, users, padding)
    kinds_of_owner = ", ".join(sorted({type(owner).__name__ for owner in owners})) or "no module"
    raise NotSupported(f"{name}: belongs to {kinds_of_owner}, not to plain nn.Linear or nn.Embedding modules")


# ----- The engines -----


class Hooked(_Passes):
    """The per-user attack on weights of nn.Linear and nn.Embedding modules; see `PerUser`.

    A delta of a linear weight is [U, out, in]; of an embedding table [U, R, k], see `Table`. Memory: the written-out
    gradients of one batch, and once more for the attack in progress; choose U by that.

    Args:
        candidates: the attack.
        ghost: whether linear layers keep their gradients as D^T A (True), written out (False), or as costs less.

    Raises:
        NotSupported: here or at the first pass, see `layer` and `call`.
    """

    def __init__(self, candidates: Candidates, *, ghost: bool | None = None) -> None:
        modules = {
            name: [m for m in candidates.model.modules() if any(p is weight for p in m._parameters.values())]
            for name, weight in candidates.weights.items()
        }
        super().__init__(candidates, modules)
        self.layers = {
            name: layer(name, modules[name], weight, candidates.users, ghost)
            for name, weight in candidates.weights.items()
        }

    @property
    def weights(self) -> Weights:
        """Zeros in the shapes of a delta, in views that take no memory."""
        self._at_w  # noqa: B018  (tables learn their shapes there)
        return {name: layer.base.new_zeros(()).expand(layer.shape) for name, layer in self.layers.items()}

    def gradient(self, delta: Weights | None) -> Weights:
        """Return d loss_u / d w at w + delta_u."""
        if delta is None:
            return {name: found.gradient for name, found in self._at_w[1].items()}
        found = self._reduce(*self._run(self._written(delta), gradient=True))
        return {name: summary.gradient for name, summary in found.items()}

    def logits(self, delta: Weights | Steepest | None) -> Tensor:
        """Return [U, n]."""
        if delta is None:
            return self._at_w[0]
        own = self._along(delta.ball) if isinstance(delta, Steepest) else self._written(delta)
        return self._run(own, gradient=False)[0]

    def ball(self, radius: float, *, granularity: str = "row", relative: bool = True) -> Ball:
        """Return the users' balls: radius [1 or U, r, 1] (`row`) or a number (`sign`)."""
        self._at_w  # noqa: B018  (tables learn their rows there)
        if granularity == "row":
            sizes = group_norms({name: layer.base for name, layer in self.layers.items()}, "row", users=True)
        else:
            sizes = {name: rms(weight.detach()) for name, weight in self.candidates.weights.items()}
        return users_ball(sizes, radius, granularity, relative)

    @cached_property
    def _at_w(self) -> tuple[Tensor, dict[str, Written | Ghost]]:
        """The logits and gradients at w."""
        logits, calls = self._clean
        for name, layer in self.layers.items():
            layer.start(calls[name])
        found = self._reduce(logits, calls)
        self.labels  # noqa: B018  (the pass is not kept)
        del self._clean
        return logits.detach(), found

    def _reduce(self, logits: Tensor, calls: dict[str, Calls]) -> dict[str, Written | Ghost]:
        slopes = self._backward(logits, calls)
        return {name: layer.reduce(calls[name], slopes[name]) for name, layer in self.layers.items()}

    def _written(self, delta: Weights) -> dict[str, Any]:
        """Return w + delta."""
        self._at_w  # noqa: B018
        return {name: self.layers[name].base + d for name, d in delta.items()}

    def _along(self, ball: Ball) -> dict[str, Any]:
        """Return w + normalize(gradient at w, ball), for rows as w + (radius / ||G_r||) * G_r in one step."""
        found = self._at_w[1]
        norms = {name: summary.norms for name, summary in found.items()}
        if ball.granularity != "row" or not all(norm.isfinite().all() for norm in norms.values()):
            return self._written(normalize(self.gradient(None), ball))
        ratio = {name: ball.radius[name] / norm for name, norm in norms.items()}
        factor = {name: torch.where(r.isfinite(), r, 0.0) for name, r in ratio.items()}
        return {name: found[name].moved(layer.base, factor[name]) for name, layer in self.layers.items()}

    def _forward(self, name: str, own: Any) -> Forward:
        return partial(self.layers[name].forward, own=own)


class HookedActivations(_Passes):
    """The per-user attack on the outputs of nn.Linear modules, before the activation function; see `PerUser`.

    A delta is [U, m, out] for each module, m = n times any further dimensions, of all calls one after the other. Its
    rows are output vectors, so the balls are around these: `row` bounds each vector in L2, `sign` each entry.

    Args:
        candidates: the attack; its `weights` are not used.
        modules: names of nn.Linear modules of the model.

    Raises:
        NotSupported: if a module is not a plain nn.Linear, here, or is not called row by row, at the first pass.
    """

    def __init__(self, candidates: Candidates, modules: Sequence[str]) -> None:
        found = {name: candidates.model.get_submodule(name) for name in modules}
        for name, module in found.items():
            if type(module).forward is not nn.Linear.forward or "forward" in module.__dict__:
                raise NotSupported(f"{name}: is a {type(module).__name__}, not a plain nn.Linear")
        super().__init__(candidates, {name: [module] for name, module in found.items()})

    @property
    def weights(self) -> Weights:
        """Zeros in the shapes of a delta, in views that take no memory."""
        return {name: slopes.new_zeros(()).expand(slopes.shape) for name, slopes in self._at_w[1].items()}

    def gradient(self, delta: Weights | None) -> Weights:
        """Return d loss_u / d output at output + delta_u."""
        if delta is None:
            return self._at_w[1]
        return self._join(self._backward(*self._run(self._pieces(delta), gradient=True)))

    def logits(self, delta: Weights | Steepest | None) -> Tensor:
        """Return [U, n]."""
        if delta is None:
            return self._at_w[0]
        written = normalize(self._at_w[1], delta.ball) if isinstance(delta, Steepest) else delta
        return self._run(self._pieces(written), gradient=False)[0]

    def ball(self, radius: float, *, granularity: str = "row", relative: bool = True) -> Ball:
        """Return the users' balls, radius [U, m, 1]; `relative` to the clean vector's norm (`sign`: to its rms)."""
        norms, gradients = self._at_w[2], self._at_w[1]
        width = {name: 1 if granularity == "row" else gradients[name].shape[2] for name in norms}
        return users_ball({n: norm / width[n] ** 0.5 for n, norm in norms.items()}, radius, granularity, relative)

    @cached_property
    def _at_w(self) -> tuple[Tensor, Weights, Weights]:
        """The logits, gradients and norms of the outputs at w."""
        logits, calls = self._clean
        slopes = self._backward(logits, calls)
        self.pieces = {name: [d.shape[1] for d in parts] for name, parts in slopes.items()}
        users = self.candidates.users
        outputs = {n: [y.detach().reshape(users, -1, y.shape[-1]) for y in c.outputs] for n, c in calls.items()}
        self.labels  # noqa: B018  (the pass is not kept)
        del self._clean
        return logits.detach(), self._join(slopes), group_norms(self._join(outputs), "row", users=True)

    def _join(self, parts: dict[str, list[Tensor]]) -> Weights:
        return {name: torch.cat(tensors, 1) for name, tensors in parts.items()}

    def _pieces(self, delta: Weights) -> dict[str, Any]:
        """Return the delta of each call."""
        self._at_w  # noqa: B018
        return {name: d.split(self.pieces[name], 1) for name, d in delta.items()}

    def _forward(self, name: str, own: Any) -> Forward:
        def forward(module: Any, x: Tensor, number: int) -> Tensor:
            """Return x W^T + b + delta."""
            clean = functional.linear(x, module.weight, module.bias)
            return clean if own is None else clean + own[number].reshape(clean.shape)

        return forward


# ----- Which engine? -----


@dataclass(frozen=True)
class Choice:
    """An engine that gave what the slow way gives.

    Attributes:
        name: `hooked`, `vmap` or `loop`.
        make: candidates -> engine, for this and later batches of the same model and weights.
        reason: why not a faster one; empty if it is the fastest.
    """

    name: str
    make: Callable[[Candidates], PerUser]
    reason: str


def choose(
    candidates: Candidates,
    *,
    rows: Callable[[Any, Tensor], Any] = pick,
    rebuild: Callable[[Any], Any] = itself,
    tolerance: float = 1e-3,
    radius: float = 0.01,
) -> Choice:
    """Return the fastest engine that agrees with `OneByOne` on the first two users.

    Args:
        candidates: the attack; at least one user.
        rows, rebuild: how `Vectorized` takes the batch apart.
        tolerance: of the gradient norms and of the logits' shift at `radius`, relative to their largest.
        radius: of the one-step attack by which the engines are compared.
    """
    few = candidates.subset(torch.arange(min(2, candidates.users), device=candidates.mask.device))
    # Labels 0, 1, 0, .. of its own: where the model is sure, others might leave no gradient to compare.
    few = replace(few, labels=torch.arange(few.mask.shape[1], device=few.mask.device).expand_as(few.mask) % 2)
    slow = OneByOne(few)
    engines: dict[str, Callable[[Candidates], PerUser]] = {
        "hooked": Hooked,
        "vmap": partial(Vectorized, rows=rows, rebuild=rebuild),
    }
    reasons: list[str] = []
    for name, make in engines.items():
        try:
            flaw = disagreement(make(few), slow, radius, tolerance)
        except Exception as error:  # whatever a model makes of replaced forwards or of vmap
            flaw = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if not flaw:
            return Choice(name, make, "; ".join(reasons))
        reasons.append(f"{name}: {flaw}")
    return Choice("loop", OneByOne, "; ".join(reasons))


def disagreement(engine: PerUser, slow: PerUser, radius: float, tolerance: float) -> str:
    """Return in what `engine` differs from `slow`: a gradient's norm or the logits' shift; empty if it agrees."""
    fast_gradient, slow_gradient = engine.gradient(None), slow.gradient(None)
    for name, expected in slow_gradient.items():
        want, got = expected.flatten(1).norm(dim=1), fast_gradient[name].flatten(1).norm(dim=1)
        if not apart(got, want, tolerance):
            continue
        return f"the gradient of {name} has norms {got.tolist()}, one by one {want.tolist()}"
    moved = [e.logits(e.steepest(e.ball(radius))) for e in (engine, slow)]
    clean = slow.logits(None)
    rounding = 100 * torch.finfo(clean.dtype).eps * float(clean.abs().max())
    if apart(moved[0] - clean, moved[1] - clean, tolerance, rounding):
        return f"the logits at radius {radius} differ by up to {float((moved[0] - moved[1]).abs().max()):.3g}"
    return ""


def apart(got: Tensor, want: Tensor, tolerance: float, rounding: float = 0.0) -> bool:
    """Tell whether two tensors differ by more than tolerance * max |want| + rounding anywhere, or are not finite."""
    return not bool(((got - want).abs() <= tolerance * want.abs().max() + rounding).all())
