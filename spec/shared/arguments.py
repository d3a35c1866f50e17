"""Argument checks: one sentence, the same in every backend, before any work.

Framework-free: an array is anything with `shape` and `dtype`, so the same check serves NumPy, PyTorch and JAX.
Shapes are named by letters: B samples, N tokens in, P tokens out, C channels, H heads.
"""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

FLOATING = ("float16", "bfloat16", "float32", "float64")
INTEGER = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
KINDS = {"floating point": FLOATING, "integer": INTEGER, "bool": ("bool",)}

# "bfloat16" holds "float16" and "uint8" holds "int8": the longer names first
_NAMES = sorted((name for names in KINDS.values() for name in names), key=len, reverse=True)


def dtype_name(array: Any) -> str:
    """The dtype's plain name, the same for every framework.

    >>> import numpy as np
    >>> dtype_name(np.zeros(2, np.float32))
    'float32'
    """
    text = str(array.dtype)  # "float32", "torch.float32", "mlx.core.float32", "<dtype: 'float32'>", ...
    last = text.rpartition(".")[2]
    return last if last in _NAMES else next((name for name in _NAMES if name in text), text)


def check_array(
    owner: str,
    name: str,
    array: Any,
    letters: str,
    *,
    kind: str = "floating point",
    array_type: type | tuple[type, ...] | None = None,
    **sizes: int,
) -> tuple[int, ...]:
    """Check type, dtype and shape of one array argument and return its shape.

    Args:
        owner: who asks, the first word of the sentence.
        name: the argument's name.
        array: the value; anything with `shape` and `dtype`.
        letters: one letter per axis, e.g. "B N C".
        kind: "floating point", "integer" or "bool".
        array_type: the backend's array class, where other arrays would fail later with a worse message.
        **sizes: letters whose size is known already.

    Raises:
        TypeError: not an array of this backend, or of another kind.
        ValueError: another rank, or an axis that contradicts `sizes`.

    >>> import numpy as np
    >>> check_array("tome", "size", np.ones((2, 7)), "B N", B=2, N=8)
    Traceback (most recent call last):
    ...
    ValueError: tome: `size` must have shape (B, N) = (2, 8), got (2, 7)
    """
    is_array = hasattr(array, "shape") and hasattr(array, "dtype")
    if not is_array or (array_type is not None and not isinstance(array, array_type)):
        _refuse(owner, name, "an array of this backend", array)
    if dtype_name(array) not in KINDS[kind]:
        raise TypeError(f"{owner}: `{name}` must be {kind}, got {dtype_name(array)}")
    axes, shape = letters.split(), tuple(array.shape)
    fits = len(shape) == len(axes)
    for axis, got in zip(axes, shape, strict=False):  # a generator takes longer
        fits = fits and sizes.get(axis, got) == got
    if not fits:
        raise ValueError(f"{owner}: `{name}` must have shape {_expected(axes, sizes)}, got {_tuple(shape)}")
    return shape


def check_integer(owner: str, name: str, value: Any, *, minimum: int, hint: str = "") -> None:
    """Check that an option is an integer of at least `minimum`; TypeError or ValueError otherwise.

    >>> check_integer("tome", "r", -3, minimum=0, hint="r=0 merges nothing")
    Traceback (most recent call last):
    ...
    ValueError: tome: `r` must be an integer >= 0, got -3 (r=0 merges nothing)
    """
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < minimum:  # the sentence is only made when it is needed: compilers trace this too
        sentence = f"{owner}: `{name}` must be an integer >= {minimum}, got {value!r}" + (f" ({hint})" if hint else "")
        raise (ValueError if is_integer else TypeError)(sentence)


def check_real(owner: str, name: str, value: Any, low: float, high: float, interval: str) -> None:
    """Check that an option is a real number in an interval such as "(0, 1]".

    >>> check_real("ltm", "compression_ratio", 0, 0, 1, "(0, 1]")
    Traceback (most recent call last):
    ...
    ValueError: ltm: `compression_ratio` must be a number in (0, 1], got 0
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    number = float(value) if is_number else low
    above = low <= number if interval[0] == "[" else low < number
    below = number <= high if interval[-1] == "]" else number < high
    if not (is_number and above and below):
        sentence = f"{owner}: `{name}` must be a number in {interval}, got {value!r}"
        raise (ValueError if is_number else TypeError)(sentence)


def check_choice(owner: str, name: str, value: Any, choices: Iterable[str]) -> None:
    """Check that an option is one of a few words; the sentence lists them and the closest match.

    >>> check_choice("tome", "order", "groupd", ("grouped", "positional", "score"))
    Traceback (most recent call last):
    ...
    ValueError: tome: `order` must be one of 'grouped', 'positional', 'score', got 'groupd' (did you mean 'grouped'?)
    """
    choices = tuple(choices)
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, n=1)
        known = ", ".join(repr(choice) for choice in choices)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"{owner}: `{name}` must be one of {known}, got {value!r}{hint}")


def check_protected(owner: str, protected: int, num_tokens: int) -> None:
    """Check that there are at least `protected` tokens."""
    if protected > num_tokens:
        raise ValueError(f"{owner}: `protected` must be at most N = {num_tokens}, got {protected}")


def check_composable(tokens_out: int, tokens_in: int) -> None:
    """Check that a second plan takes what the first gives."""
    if tokens_in != tokens_out:
        raise ValueError(f"compose: `second` must take the {tokens_out} tokens that `first` gives, got {tokens_in}")


def check_given(owner: str, name: str, value: Any, needed: bool, reason: str) -> None:
    """Check that an argument is given exactly when an option asks for it.

    >>> check_given("tome", "permutation", None, True, "matching='random'")
    Traceback (most recent call last):
    ...
    ValueError: tome: `permutation` must be given with matching='random', got None
    """
    if needed and value is None:
        raise ValueError(f"{owner}: `{name}` must be given with {reason}, got None")
    if not needed and value is not None:
        got = f"an array of shape {_tuple(value.shape)}" if hasattr(value, "shape") else repr(value)
        raise ValueError(f"{owner}: `{name}` must be None without {reason}, got {got}")


def check_names(owner: str, got: Iterable[str], known: Iterable[str], what: str) -> None:
    """Check that every name is a known one; the sentence names the closest match.

    >>> check_names("tome", ["R"], ["r", "protected"], "option")
    Traceback (most recent call last):
    ...
    TypeError: tome: `R` must be an option of 'r', 'protected', got an unknown name (did you mean 'r'?)
    """
    known = tuple(known)
    for name in got:
        if name not in known:
            close = [k for k in known if k.lower() == str(name).lower()] or difflib.get_close_matches(str(name), known)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            names = ", ".join(repr(k) for k in known)
            raise TypeError(f"{owner}: `{name}` must be an {what} of {names}, got an unknown name{hint}")


def check_params(owner: str, params: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    """Check a mapping of parameters against the names and shapes a merger has, before any is loaded.

    >>> import numpy as np
    >>> check_params("ltm", {"weigth": np.zeros(3)}, {"weight": (3,)})
    Traceback (most recent call last):
    ...
    ValueError: ltm: `params` must hold exactly 'weight', got 'weigth'
    """
    if not isinstance(params, Mapping):
        _refuse(owner, "params", "a mapping of names to arrays", params)
    if set(params) != set(shapes):
        expected, got = (", ".join(map(repr, sorted(names))) or "nothing" for names in (shapes, params))
        raise ValueError(f"{owner}: `params` must hold exactly {expected}, got {got}")
    for name, shape in shapes.items():
        if not hasattr(params[name], "shape"):
            _refuse(owner, name, "an array", params[name])
        if tuple(params[name].shape) != shape:
            raise ValueError(f"{owner}: `{name}` must have shape {_tuple(shape)}, got {_tuple(params[name].shape)}")


# The options of the four mergers.


def check_tome(r: Any, protected: Any, order: Any, matching: Any, k: Any) -> None:
    """Options of ToMe."""
    check_choice("tome", "matching", matching, ("bipartite", "kth", "random"))
    check_choice("tome", "order", order, ("grouped", "positional", "score"))
    if matching != "bipartite" and order != "grouped":
        raise ValueError(
            f"tome: `order` must be 'grouped' with matching={matching!r}, which fixes its own, got {order!r}"
        )
    if matching != "kth" or r is not None:
        check_integer("tome", "r", r, minimum=0, hint="r=0 merges nothing")
    check_integer("tome", "protected", protected, minimum=0)
    check_given("tome", "k", k, matching == "kth", "matching='kth'")
    if matching == "kth":
        check_integer("tome", "k", k, minimum=1)


def check_ats(max_tokens: Any, score: Any, sampling: Any) -> None:
    """Options of ATS."""
    check_integer("ats", "max_tokens", max_tokens, minimum=1, hint="the class token is not counted")
    check_choice("ats", "score", score, ("per_head", "concat"))
    check_choice("ats", "sampling", sampling, ("inverse_transform", "gumbel", "released"))


def check_patch_merger(dim: Any, num_tokens_out: Any, logit_scale: Any, eps: Any, seed: Any = 0) -> None:
    """Options of PatchMerger."""
    check_integer("patch_merger", "dim", dim, minimum=1)
    check_integer("patch_merger", "num_tokens_out", num_tokens_out, minimum=1)
    check_integer("patch_merger", "seed", seed, minimum=0)
    infinity = float("inf")
    if logit_scale is not None:
        check_real("patch_merger", "logit_scale", logit_scale, -infinity, infinity, "(-inf, inf)")
    check_real("patch_merger", "eps", eps, 0.0, infinity, "[0, inf)")


def check_ltm(dim: Any, compression_ratio: Any, protected: Any, prior_smoothing: Any) -> None:
    """Options of LTM."""
    check_integer("ltm", "dim", dim, minimum=1)
    check_real("ltm", "compression_ratio", compression_ratio, 0.0, 1.0, "(0, 1]")
    check_integer("ltm", "protected", protected, minimum=0)
    check_real("ltm", "prior_smoothing", prior_smoothing, 0.0, 1.0, "[0, 1]")


def _refuse(owner: str, name: str, needed: str, value: Any) -> NoReturn:
    kind = type(value)
    got = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    raise TypeError(f"{owner}: `{name}` must be {needed}, got {got}")


def _expected(axes: list[str], sizes: dict[str, int]) -> str:
    letters = _tuple(axes)
    if not any(axis in sizes for axis in axes):
        return letters
    return f"{letters} = {_tuple([sizes.get(axis, axis) for axis in axes])}"


def _tuple(items: Iterable[Any]) -> str:
    items = [str(item) for item in items]
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
