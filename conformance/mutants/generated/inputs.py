"""Operators on arguments: right for small inputs, wrong from some sample, token or channel on, or in precision."""

from __future__ import annotations

from collections.abc import Iterator

# argument -> axis of tokens and axis of channels, None where there is none; the batch is always first
BATCHED: dict[str, tuple[int | None, int | None]] = {
    "x": (1, 2),
    "y": (1, 2),
    "z": (1, 2),
    "metric": (1, 2),
    "m": (1, 2),
    "attn": (None, -1),
    "value": (2, 3),
    "query": (2, 3),
    "key": (2, 3),
    "size": (1, None),
    "mask": (1, None),
    "permutation": (None, None),
    "uniforms": (None, 1),
    "noise": (None, None),
}
UNBATCHED = {"queries": 1, "centroids": 1, "phi_in": 1, "phi_out": 1, "q": 1, "f": 1, "weight": 0}  # its last axis
FLOATING = {*BATCHED, *UNBATCHED} - {"mask", "permutation"}
SAMPLES, TOKENS, CHANNELS = 4, 128, 32


def changes(name: str) -> Iterator[tuple[str, str]]:
    """Operators of an argument: name, and an expression that makes the wrong array from the right one."""
    if name in BATCHED:
        tokens, channels = BATCHED[name]
        yield (
            f"from sample {SAMPLES} on",
            f"{name}[np.where(np.arange(len({name})) < {SAMPLES}, np.arange(len({name})), 0)]",
        )
        if tokens is not None:
            blank = "True" if name == "mask" else "1" if name == "size" else "0"
            yield f"from token {TOKENS} on", _blank(name, tokens, TOKENS, blank)
        if channels is not None:
            yield f"from channel {CHANNELS} on", _blank(name, channels, CHANNELS, "0")
            yield f"without the last channel from {CHANNELS} on", _last(name, channels)
        if name in ("value", "query", "key"):
            yield "from head 4 on", _blank(name, 1, 4, "0")
    elif name in UNBATCHED:
        yield f"from channel {CHANNELS} on", _blank(name, UNBATCHED[name], CHANNELS, "0")
        if UNBATCHED[name]:
            yield "from row 16 on", _blank(name, 0, 16, "0")
    if name in FLOATING:
        yield "in half precision", f"{name}.astype(np.float16).astype({name}.dtype)"
    if name in ("x", "y", "metric"):
        yield "subnormals flushed", f"np.where(np.abs({name}) < np.finfo({name}.dtype).tiny, {name} * 0, {name})"
    if name == "size":
        yield "fractions cut off", "np.trunc(size)"
        yield "at most 1000", "np.minimum(size, 1000)"
        yield "at least one", "np.maximum(size, 1)"


def _blank(name: str, axis: int, start: int, blank: str) -> str:
    """The array, `blank` from an index on an axis on."""
    shape = f"tuple(-1 if axis == {axis} % {name}.ndim else 1 for axis in range({name}.ndim))"
    inside = f"(np.arange({name}.shape[{axis}]) < {start}).reshape({shape})"
    return f"np.where({inside}, {name}, np.asarray({blank}, {name}.dtype))"


def _last(name: str, axis: int) -> str:
    shape = f"tuple(-1 if axis == {axis} % {name}.ndim else 1 for axis in range({name}.ndim))"
    width = f"{name}.shape[{axis}]"
    inside = f"((np.arange({width}) < {width} - 1) | ({width} < {CHANNELS})).reshape({shape})"
    return f"np.where({inside}, {name}, np.asarray(0, {name}.dtype))"
