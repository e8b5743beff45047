"""Torch operations in terms of graph nodes: one rule per operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .rules import RULES, Recorder, Rule, rule


def find(op: Any) -> Rule | None:
    """The rule of an operator."""
    packet = op._schema.name.removeprefix("aten::")
    return RULES.get(f"{packet}.{op._overloadname}", RULES.get(packet))


# -- elementwise --------------------------------------------------------------------------------

_SAME = {
    "negative": "neg",
    "maximum": "max",
    "minimum": "min",
    "multiply": "mul",
    "absolute": "abs",
}
for _name in (
    *("neg", "abs", "sqrt", "rsqrt", "reciprocal", "exp", "expm1", "log", "log1p", "log2", "exp2"),
    *("sin", "cos", "tan", "tanh", "sigmoid", "erf", "floor", "ceil", "trunc", "round", "sign"),
    *("mul", "maximum", "minimum", "remainder", "fmod", "atan2", "copysign", "hypot"),
):

    def _elementwise(
        r: Recorder, out: Tensor, args: Any, kwargs: Any, op: str = _SAME.get(_name, _name)
    ) -> int:
        if kwargs:
            raise r.refuse(f"{op} with {sorted(kwargs)}")
        return r.add(op, tuple(r.node(a) for a in args), out.dtype)

    RULES[_name] = _elementwise

for _name in ("eq", "ne", "lt", "le", "gt", "ge"):

    def _compare(r: Recorder, out: Tensor, args: Any, kwargs: Any, op: str = _name) -> int:
        common = str(torch.result_type(*args)).removeprefix("torch.")
        return r.add(op, (r.node(args[0]), r.node(args[1])), torch.bool, common)

    RULES[_name] = _compare

for _name in ("logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or"):

    def _logic(r: Recorder, out: Tensor, args: Any, kwargs: Any, op: str = _name) -> int:
        if op.startswith("bitwise") and out.dtype != torch.bool:
            raise r.refuse(f"{op} of integers")
        truths = tuple(_truth(r, r.node(a), _dtype(a)) for a in args)
        return r.add(op.rpartition("_")[2], truths, torch.bool)

    RULES[_name] = _logic


def _truth(r: Recorder, x: int, dtype: torch.dtype) -> int:
    return x if dtype == torch.bool else r.add("cast", (x,), torch.bool)


def _dtype(value: Any) -> torch.dtype:
    if isinstance(value, Tensor):
        return value.dtype
    return torch.result_type(torch.zeros((), dtype=torch.float32, device="cpu"), value)


@rule("logical_not", "bitwise_not")
def _not(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    if out.dtype != torch.bool:
        raise r.refuse("bitwise_not of integers")
    return r.add("not", (_truth(r, r.node(args[0]), args[0].dtype),), torch.bool)


def _additive(op: str) -> Rule:
    def lower(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
        a, b = r.node(args[0]), r.node(args[1])
        alpha = args[2] if len(args) > 2 else kwargs.get("alpha", 1)
        if op == "rsub":
            a, b = b, a
        if alpha != 1:
            scaled = r.add("mul", (r.node(alpha), a if op == "rsub" else b), out.dtype)
            a, b = (scaled, b) if op == "rsub" else (a, scaled)
        return r.add("add" if op == "add" else "sub", (a, b), out.dtype)

    return lower


RULES.update({op: _additive(op) for op in ("add", "sub", "rsub")})


@rule("div")
def _div(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    mode = kwargs.get("rounding_mode")
    quotient = r.add("div", (r.node(args[0]), r.node(args[1])), out.dtype)
    if mode is None:
        return quotient
    if not out.dtype.is_floating_point:
        raise r.refuse("rounded division of integers")
    return r.add(mode, (quotient,), out.dtype)


@rule("square")
def _square(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    x = r.node(args[0])
    return r.add("mul", (x, x), out.dtype)


@rule("pow")
def _pow(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    x, power = r.node(args[0]), args[1]
    if isinstance(power, (int, float)):
        if power == 1:
            return x
        if power in (2, 3):
            square = r.add("mul", (x, x), out.dtype)
            return square if power == 2 else r.add("mul", (square, x), out.dtype)
        simple = {0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}.get(power)
        if simple:
            return r.add(simple, (x,), out.dtype)
    return r.add("pow", (x, r.node(power)), out.dtype)


@rule("where")
def _where(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    if len(args) != 3:
        raise r.refuse("where with one argument")
    return r.add("where", tuple(r.node(a) for a in args), out.dtype)


@rule("masked_fill")
def _masked_fill(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    x, mask, value = (r.node(a) for a in args)
    return r.add("where", (mask, value, x), out.dtype)


def _limit(low_at: int, high_at: int) -> Rule:
    def lower(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
        x = r.node(args[0])
        for op, at, key in (("max", low_at, "min"), ("min", high_at, "max")):
            bound = args[at] if 0 < at < len(args) else kwargs.get(key)
            if bound is not None:
                x = r.add(op, (x, r.node(bound)), out.dtype)
        return x

    return lower


RULES.update(clamp=_limit(1, 2), clamp_min=_limit(1, -1), clamp_max=_limit(-1, 1))


@rule("relu")
def _relu(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    return r.add("max", (r.node(args[0]), r.node(0)), out.dtype)


@rule("lerp")
def _lerp(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    a, b, weight = (r.node(x) for x in args)
    step = r.add("mul", (weight, r.add("sub", (b, a), out.dtype)), out.dtype)
    return r.add("add", (a, step), out.dtype)


def _add_combined(op: str) -> Rule:
    def lower(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
        x, a, b = (r.node(v) for v in args[:3])
        term = r.add(op, (a, b), out.dtype)
        value = args[3] if len(args) > 3 else kwargs.get("value", 1)
        if value != 1:
            term = r.add("mul", (r.node(value), term), out.dtype)
        return r.add("add", (x, term), out.dtype)

    return lower


RULES.update(addcmul=_add_combined("mul"), addcdiv=_add_combined("div"))


@rule("isnan")
def _isnan(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    x = r.node(args[0])
    return r.add("ne", (x, x), torch.bool, str(args[0].dtype).removeprefix("torch."))


@rule("isinf")
def _isinf(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    size = r.add("abs", (r.node(args[0]),), args[0].dtype)
    return r.add(
        "eq", (size, r.node(float("inf"))), torch.bool, str(args[0].dtype).removeprefix("torch.")
    )


# -- the same values in another form ------------------------------------------------------------


@rule("_to_copy")
def _cast(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    return r.add("cast", (r.node(args[0]),), out.dtype)


@rule("detach", "alias", "clone", "lift_fresh", "lift", "view", "_unsafe_view", "reshape")
@rule("squeeze", "unsqueeze", "contiguous", "_reshape_alias")
def _same(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    return r.node(args[0])


@rule("slice")
def _slice(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    given: list[Any] = [*args, *(0, 0, None, 1)[len(args) - 1 :]]
    x, dim, start, stop, step = given
    if out.shape == x.shape:
        return r.node(x)
    if x.ndim > 1 or dim or start or (stop or x.numel()) < x.numel():
        raise r.refuse("uses part of a tensor")
    return r.every(x, step, out)


@rule("expand")
def _expand(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    if out.numel() == args[0].numel():
        return r.node(args[0])
    return r.add("mul", (r.node(args[0]), r.fill(1, out)), out.dtype)


@rule("select")
def _select(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    return r.pick(args[0], args[2])


@rule("stack", "cat")
def _stack(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    if len(args[0]) == 2 and out.shape == (2,):
        return r.pair(*args[0])
    if len(args[0]) != 1:
        raise r.refuse("stack or cat of several tensors")
    return r.node(args[0][0])


# -- constants ----------------------------------------------------------------------------------


@rule("zeros_like", "new_zeros", "zeros")
def _zeros(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    return r.fill(0, out, args[0] if isinstance(args[0], Tensor) else None)


@rule("ones_like", "new_ones", "ones")
def _ones(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    return r.fill(1, out, args[0] if isinstance(args[0], Tensor) else None)


@rule("full_like", "full")
def _full(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    return r.fill(args[1], out, args[0] if isinstance(args[0], Tensor) else None)


@rule("new_full")
def _new_full(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    return r.fill(args[2], out, args[0])


@rule("scalar_tensor")
def _scalar_tensor(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    return r.fill(args[0], out)


# -- reductions ---------------------------------------------------------------------------------


def _dims(args: Any, kwargs: Any, at: int = 1) -> Any:
    dims = args[at] if len(args) > at else kwargs.get("dim")
    return (dims,) if isinstance(dims, int) else dims


def _total(r: Recorder, x: int, source: Tensor, out: Tensor, dims: Any) -> int:
    return r.add("cast", (r.reduction("sum", x, source, out, dims),), out.dtype)


@rule("sum")
def _sum(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    return _total(r, r.node(args[0]), args[0], out, _dims(args, kwargs))


@rule("mean")
def _mean(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    total = _total(r, r.node(args[0]), args[0], out, _dims(args, kwargs))
    if args[0].numel() == out.numel() and args[0].ndim:
        return total
    return r.add("div", (total, r.count(args[0], out)), out.dtype)


def _extremum(op: str) -> Rule:
    def lower(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
        return r.reduction(op, r.node(args[0]), args[0], out, _dims(args, kwargs))

    return lower


RULES.update({"amax": _extremum("max"), "amin": _extremum("min")})
RULES.update({"max.default": _extremum("max"), "min.default": _extremum("min")})


def _quantifier(is_all: bool) -> Rule:
    def lower(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
        x = _truth(r, r.node(args[0]), args[0].dtype)
        if is_all:
            x = r.add("not", (x,), torch.bool)
        count = r.reduction("sum", x, args[0], out, _dims(args, kwargs))
        return r.add("eq" if is_all else "ne", (count, r.node(0)), torch.bool, "int64")

    return lower


RULES.update(any=_quantifier(False), all=_quantifier(True))


@rule("linalg_vector_norm")
def _norm(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    x, order = r.node(args[0]), args[1] if len(args) > 1 else 2
    dims = _dims(args, kwargs, 2)
    if order == 2:
        square = r.add("mul", (x, x), out.dtype)
        return r.add("sqrt", (r.reduction("sum", square, args[0], out, dims),), out.dtype)
    size = r.add("abs", (x,), out.dtype)
    if order == 1:
        return _total(r, size, args[0], out, dims)
    if order == float("inf"):
        return r.reduction("max", size, args[0], out, dims)
    raise r.refuse(f"norm of order {order}")


@rule("dot", "vdot")
def _dot(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    product = r.add("mul", (r.node(args[0]), r.node(args[1])), out.dtype)
    return _total(r, product, args[0], out, None)


# -- signs as bits ------------------------------------------------------------------------------


@rule("gradtx::pack_signs")
def _pack(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    return r.pack(args[0])


@rule("gradtx::unpack_signs")
def _unpack(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    return r.unpack(args[0], out)


# -- codes of blocks, random numbers ------------------------------------------------------------


@rule("gradtx::block_dequantize")
def _decode(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    codes, scale, _, *spec = args
    return r.decode(codes, scale, out, (spec[0], spec[1], spec[2]))


@rule("gradtx::block_quantize")
def _encode(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    x, *spec = args
    return r.encode(x, out, (spec[0], spec[1], spec[2]))


@rule("gradtx::random_bits16")
def _draw(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    return r.draw(args[0], out)


@rule("gradtx::random_bits16_of_part")
def _draw_part(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    return r.draw(args[0], out, args[2:])


@rule("gradtx::round_stochastic")
def _round_stochastic(r: Recorder, out: Tensor, args: Any, kwargs: Any) -> int:
    x, bits, clamp = args
    return r.add("round_stochastic", (r.node(x), r.node(bits)), out.dtype, clamp)
