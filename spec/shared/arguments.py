"""Argument checks: one sentence, the same in every backend, before any work.

Framework-free: an array is anything with `shape` and `dtype`, so the same check serves NumPy, PyTorch and JAX.
Shapes are named by letters: B samples, N tokens in, P tokens out, C channels, H heads.
"""

from __future__ import annotations

import difflib
import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, NoReturn

import numpy as np

FLOATING = ("float16", "bfloat16", "float32", "float64")
INTEGER = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
KINDS = {"floating point": FLOATING, "integer": INTEGER, "bool": ("bool",)}

_NAMES = tuple(name for names in KINDS.values() for name in names)
LARGEST = 2**63 - 1  # an integer that every framework can count with
LONGEST = 80  # characters of a value in a sentence


def dtype_name(array: Any) -> str:
    """The dtype's plain name, the same for every framework.

    >>> import numpy as np
    >>> dtype_name(np.zeros(2, np.float32))
    'float32'
    """
    text = str(array.dtype)  # "float32", "torch.float32", "mlx.core.float32", "<dtype: 'float32'>", ...
    last = text.rpartition(".")[2]
    if last in _NAMES:
        return last
    return next((name for name in _NAMES if re.search(rf"(?<![a-z0-9]){name}(?![a-z0-9])", text)), text)


def check_array(
    owner: str,
    name: str,
    array: Any,
    letters: str,
    *,
    kind: str = "floating point",
    array_type: type | tuple[type, ...] | None = None,
    odd: Callable[[Any], str] | None = None,
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
        odd: says of an array of that class what it is, where it is none that every operation takes; else "".
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
    if not (rank(array) >= 0 and hasattr(array, "dtype") if array_type is None else isinstance(array, array_type)):
        _refuse(owner, name, "an array of this backend", array)
    kept_out = "" if odd is None else odd(array)
    if kept_out:
        raise TypeError(f"{owner}: `{name}` must be a plain array of this backend, got {kept_out}")
    if dtype_name(array) not in KINDS[kind]:
        raise TypeError(f"{owner}: `{name}` must be {kind}, got {dtype_name(array)}")
    axes, shape = letters.split(), tuple(array.shape)
    fits = len(shape) == len(axes)
    for axis, got in zip(axes, shape, strict=False):  # a generator takes longer
        fits = fits and sizes.get(axis, got) == got
    if not fits:
        raise ValueError(f"{owner}: `{name}` must have shape {_expected(axes, sizes)}, got {_tuple(shape)}")
    return shape


def shown(value: Any) -> str:
    """A value in a sentence: on one line, not too long, and whatever its `repr` does.

    >>> shown("abc"), shown(10**100)[:5], len(shown([1.5] * 100))
    ("'abc'", '10000', 80)
    """
    try:
        if isinstance(getattr(value, "shape", None), tuple) and not isinstance(value, np.generic):
            return f"an array of shape {_tuple(value.shape)}"
        text = " ".join(repr(value).split())
    except Exception:  # integers of 5,000 digits, or anybody's own
        return _class(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def check_integer(owner: str, name: str, value: Any, *, minimum: int, hint: str = "") -> int:
    """Check that an option is an integer of at least `minimum`; returns it as an `int`. TypeError, ValueError.

    >>> check_integer("tome", "r", -3, minimum=0, hint="r=0 merges nothing")
    Traceback (most recent call last):
    ...
    ValueError: tome: `r` must be an integer >= 0, got -3 (r=0 merges nothing)
    """
    # the first question is the cheap one; a time difference passes for an integer in NumPy
    is_integer = type(value) is int or (
        isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.timedelta64))
    )
    if not is_integer or value < minimum:  # the sentence is only made when it is needed: compilers trace this too
        sentence = f"{owner}: `{name}` must be an integer >= {minimum}, got {shown(value)}"
        raise (ValueError if is_integer else TypeError)(sentence + (f" ({hint})" if hint else ""))
    if value > LARGEST:
        raise ValueError(f"{owner}: `{name}` must be an integer below 2**63, got {shown(value)}")
    return value if type(value) is int else int(value)


def check_real(owner: str, name: str, value: Any, low: float, high: float, interval: str) -> None:
    """Check that an option is a real number in an interval such as "(0, 1]".

    >>> check_real("ltm", "compression_ratio", 0, 0, 1, "(0, 1]")
    Traceback (most recent call last):
    ...
    ValueError: ltm: `compression_ratio` must be a number in (0, 1], got 0
    """
    # no fraction and no long double, which some frameworks cannot multiply with
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(
        value, (bool, np.timedelta64, np.longdouble)
    )
    number = _float(value) if is_number else low
    above = low <= number if interval[0] == "[" else low < number
    below = number <= high if interval[-1] == "]" else number < high
    if not (is_number and above and below):
        hint = " (give an int or a float)" if not is_number and isinstance(value, numbers.Real) else ""
        sentence = f"{owner}: `{name}` must be a number in {interval}, got {shown(value)}{hint}"
        raise (ValueError if is_number else TypeError)(sentence)


def plain(value: Any) -> Any:
    """A checked option, or a list or tuple of them, as Python's own numbers: NumPy's of eight bits overflow.

    >>> plain(np.int8(100)), plain((np.uint8(3), 0.5))
    (100, (3, 0.5))
    """
    if type(value) in (list, tuple):
        return type(value)(plain(each) for each in value)
    return value.item() if isinstance(value, np.generic) else value


def check_count(owner: str, name: str, value: Any, *, minimum: int = 0) -> None:
    """As `check_integer`, of a number of tokens, which may be a symbol of a compiler: what computes as an integer does.

    >>> check_count("tokens_removed", "num_tokens", 1.5)
    Traceback (most recent call last):
    ...
    TypeError: tokens_removed: `num_tokens` must be an integer >= 0, got 1.5
    """
    if type(value) is int and minimum <= value <= LARGEST:  # the cheap question first: every call asks
        return
    symbol = hasattr(value, "__floordiv__") and not isinstance(value, (numbers.Number, np.generic, timedelta, type))
    # `torch.jit.trace` has one in a tensor without axes
    traced = "int" in str(getattr(value, "dtype", "int")) and tuple(getattr(value, "shape", ())) == ()
    if not (symbol and traced) or isinstance(value, np.ndarray):
        check_integer(owner, name, value, minimum=minimum)


def check_flag(owner: str, name: str, value: Any) -> None:
    """Check that an option is True or False.

    >>> check_flag("patch_merger", "normalize", "no")
    Traceback (most recent call last):
    ...
    TypeError: patch_merger: `normalize` must be True or False, got 'no'
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{owner}: `{name}` must be True or False, got {shown(value)}")


def check_choice(owner: str, name: str, value: Any, choices: Iterable[str]) -> None:
    """Check that an option is one of a few words; the sentence lists them and the closest match.

    >>> check_choice("tome", "order", "groupd", ("grouped", "positional", "score"))
    Traceback (most recent call last):
    ...
    ValueError: tome: `order` must be one of 'grouped', 'positional', 'score', got 'groupd' (did you mean 'grouped'?)
    """
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:
        close = difflib.get_close_matches(value, choices, n=1) if isinstance(value, str) else []
        known = ", ".join(repr(choice) for choice in choices)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        sentence = f"{owner}: `{name}` must be one of {known}, got {shown(value)}{hint}"
        raise (ValueError if isinstance(value, str) else TypeError)(sentence)


def check_source(owner: str, source: Any, kind: type | tuple[type, ...]) -> None:
    """Check that a source of random numbers is one of the framework."""
    if not isinstance(source, kind):
        _refuse(owner, "generator", "a source of random numbers of this backend", source)


def check_source_array(
    array: Any, dtype: Any, device: Any, dtypes: Iterable[str], devices: Callable[[], Iterable[str]]
) -> None:
    """Check what `from_numpy` takes: an array of NumPy, a dtype of the backend or None, a device or None."""
    if not isinstance(array, (np.ndarray, np.generic)):
        _refuse("from_numpy", "array", "an array of NumPy", array)
    if array.dtype.kind in "OSUMm" or array.dtype.names or array.dtype.type in (np.longdouble, np.clongdouble):
        raise TypeError(f"from_numpy: `array` must be of numbers that every framework has, got {array.dtype}")
    if dtype is not None:
        check_choice("from_numpy", "dtype", dtype, dtypes)
    if isinstance(device, (bool, int, float, complex, bytes, list, tuple, dict, np.ndarray, np.generic)):
        _refuse("from_numpy", "device", "a device by its name, or None", device)
    if isinstance(device, str):  # a framework's own object for a device is its own affair
        check_choice("from_numpy", "device", device.partition(":")[0], devices())


def check_own_array(array: Any, array_type: Any, odd: Callable[[Any], str]) -> None:
    """Check what `to_numpy` takes: a plain array of the backend, with numbers in it."""
    if not isinstance(array, array_type):
        _refuse("to_numpy", "array", "an array of this backend", array)
    kept_out = odd(array)
    if kept_out:
        raise TypeError(f"to_numpy: `array` must be a plain array of this backend, got {kept_out}")
    if dtype_name(array) not in _NAMES:
        raise TypeError(f"to_numpy: `array` must be {', '.join(KINDS)}, got {dtype_name(array)}")


def check_protected(owner: str, protected: int, num_tokens: int) -> None:
    """Check that there are at least `protected` tokens."""
    if protected > num_tokens:
        raise ValueError(f"{owner}: `protected` must be at most N = {num_tokens}, got {protected}")


def check_composable(tokens_out: int, tokens_in: int) -> None:
    """Check that a second plan takes what the first gives."""
    if tokens_in != tokens_out:
        raise ValueError(f"compose: `second` must take the {tokens_out} tokens that `first` gives, got {tokens_in}")


def check_plans(first: Any, second: Any, plan: type) -> None:
    """Check that two plans are of this backend, and of batches of the same size where they have a batch."""
    for name, value in (("first", first), ("second", second)):
        if not isinstance(value, plan):
            _refuse("compose", name, "a plan of this backend", value)
    one, other = (getattr(value, "_batch", None) for value in (first, second))
    if one is not None and one != other:
        raise ValueError(f"compose: `second` must have the batch size B = {one} of `first`, got {other}")


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
        raise ValueError(f"{owner}: `{name}` must be None without {reason}, got {shown(value)}")


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
        expected, got = (", ".join(sorted(map(shown, names))) or "nothing" for names in (shapes, params))
        raise ValueError(f"{owner}: `params` must hold exactly {expected}, got {got}")
    for name, shape in shapes.items():
        check_parameter(owner, name, params[name])
        if tuple(params[name].shape) != shape:
            raise ValueError(f"{owner}: `{name}` must have shape {_tuple(shape)}, got {_tuple(params[name].shape)}")


def check_parameter(owner: str, name: str, value: Any) -> None:
    """Check that a parameter is an array of real floating-point numbers, of NumPy, PyTorch or JAX.

    >>> check_parameter("ltm", "weight", np.array(["a"]))
    Traceback (most recent call last):
    ...
    TypeError: ltm: `weight` must be floating point, got <U1
    """
    if not isinstance(getattr(value, "shape", None), tuple) or not hasattr(value, "dtype"):
        _refuse(owner, name, "an array", value)
    if type(value) is not np.ndarray and isinstance(value, np.ndarray) and not isinstance(value, np.memmap):
        raise TypeError(f"{owner}: `{name}` must be a plain array, got {_class(value)}")
    if dtype_name(value) not in FLOATING:
        raise TypeError(f"{owner}: `{name}` must be floating point, got {dtype_name(value)}")


def parameter(owner: str, name: str, value: Any, dtype: Any = None) -> np.ndarray[Any, Any]:
    """A parameter as a NumPy array of its own, in its dtype or another one, after `check_parameter`.

    Raises:
        TypeError: not an array of real floating-point numbers.
        ValueError: a number that is finite and does not fit.

    >>> parameter("ltm", "weight", np.array([1e300]), np.float32)
    Traceback (most recent call last):
    ...
    ValueError: ltm: `weight` must fit into float32, got 1e+300
    """
    check_parameter(owner, name, value)
    if hasattr(value, "detach"):  # PyTorch, which has no NumPy array of bfloat16
        value = value.detach().cpu()
        value = (value.float() if dtype_name(value) == "bfloat16" else value).numpy()
    given = np.asarray(value)
    with np.errstate(over="ignore"):
        taken = np.array(given, dtype=given.dtype if dtype is None else dtype)
    if given.dtype.itemsize > taken.dtype.itemsize:
        lost = np.isfinite(given) & ~np.isfinite(taken)
        if lost.any():
            raise ValueError(f"{owner}: `{name}` must fit into {taken.dtype}, got {float(given[lost].flat[0])!r}")
    return taken


# The options of the four mergers.


def check_tome(r: Any, protected: Any, order: Any, matching: Any, k: Any) -> tuple[int | None, int, int | None]:
    """Options of ToMe; `r`, `protected` and `k` as integers."""
    check_choice("tome", "matching", matching, ("bipartite", "kth", "random"))
    check_choice("tome", "order", order, ("grouped", "positional", "score"))
    if matching != "bipartite" and order != "grouped":
        raise ValueError(
            f"tome: `order` must be 'grouped' with matching={matching!r}, which fixes its own, got {order!r}"
        )
    if matching != "kth" or r is not None:
        r = check_integer("tome", "r", r, minimum=0, hint="r=0 merges nothing")
    protected = check_integer("tome", "protected", protected, minimum=0)
    check_given("tome", "k", k, matching == "kth", "matching='kth'")
    if matching == "kth":
        k = check_integer("tome", "k", k, minimum=1)
    return r, protected, k


def check_ats(max_tokens: Any, score: Any, sampling: Any) -> int:
    """Options of ATS; `max_tokens` as an integer."""
    max_tokens = check_integer("ats", "max_tokens", max_tokens, minimum=1, hint="the class token is not counted")
    check_score(score)
    check_choice("ats", "sampling", sampling, ("inverse_transform", "gumbel", "released"))
    return max_tokens


def check_score(score: Any) -> None:
    """The way in which ATS scores tokens."""
    check_choice("ats", "score", score, ("per_head", "concat"))


def check_patch_merger(
    dim: Any,
    num_tokens_out: Any,
    logit_scale: Any,
    eps: Any,
    seed: Any = 0,
    normalize: Any = True,
    use_bias: Any = True,
) -> None:
    """Options of PatchMerger."""
    check_integer("patch_merger", "dim", dim, minimum=1)
    check_integer("patch_merger", "num_tokens_out", num_tokens_out, minimum=1)
    check_integer("patch_merger", "seed", seed, minimum=0)
    infinity = float("inf")
    if logit_scale is not None:
        check_real("patch_merger", "logit_scale", logit_scale, -infinity, infinity, "(-inf, inf)")
    check_real("patch_merger", "eps", eps, 0.0, infinity, "[0, inf)")
    check_flag("patch_merger", "normalize", normalize)
    check_flag("patch_merger", "use_bias", use_bias)


def check_ltm(dim: Any, compression_ratio: Any, protected: Any, prior_smoothing: Any) -> int:
    """Options of LTM; `protected` as an integer."""
    check_integer("ltm", "dim", dim, minimum=1)
    check_real("ltm", "compression_ratio", compression_ratio, 0.0, 1.0, "(0, 1]")
    protected = check_integer("ltm", "protected", protected, minimum=0)
    check_real("ltm", "prior_smoothing", prior_smoothing, 0.0, 1.0, "[0, 1]")
    return protected


def _refuse(owner: str, name: str, needed: str, value: Any) -> NoReturn:
    raise TypeError(f"{owner}: `{name}` must be {needed}, got {_class(value)}")


def rank(value: Any) -> int:
    """The number of axes, -1 for what has none, or does not say, as a nested tensor."""
    try:
        return len(value.shape)
    except Exception:
        return -1


def _class(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _float(value: Any) -> float:
    """A real number as a float; one that is out of range as NaN, which is in no interval."""
    try:
        return float(value)
    except (OverflowError, ValueError):
        return float("nan")


def _expected(axes: list[str], sizes: dict[str, int]) -> str:
    letters = _tuple(axes)
    if not any(axis in sizes for axis in axes):
        return letters
    return f"{letters} = {_tuple([sizes.get(axis, axis) for axis in axes])}"


def _tuple(items: Iterable[Any]) -> str:
    items = [str(item) for item in items]
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
