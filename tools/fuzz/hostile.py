"""Hostile arguments, one at a time, to every public function of every backend: `python tools/fuzz/hostile.py`.

A call that works is described once; one of its arguments is replaced by nonsense of its kind. Right is one sentence of
ours (`clear`), the same in every backend. Anything else is a finding: another exception (`traceback`), a result
(`accepted`), or sentences that differ.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_run import Tally, main

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig, get_merger, get_vit
from tokenmerge.backends import get_backend
from tokenmerge.spec import ats, attention, information_bottleneck, ltm, patch_merger, pooling, tome
from tokenmerge.spec.shared.schedule import merge_schedule

BACKENDS = ("spec", "numpy", "torch", "jax")
HUGE = 10**400
Call = tuple[Callable[..., Any], dict[str, tuple[str, Any]]]


class Odd:
    """An object whose `repr` raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


INTEGERS = ["3", 1.5, True, -1, HUGE, 10**5000, np.nan, [], (), {}, np.timedelta64(3, "D"), 1j, b"1", Odd(), np.inf]
REALS = ["3", np.nan, HUGE, -HUGE, True, [], (), {}, 1j, b"1", Odd(), np.timedelta64(3, "D"), Fraction(HUGE)]
FLAGS = ["no", "False", 0, 1, 2, None, [], np.array([True, False]), Odd()]
CHOICES = ["x", "", 5, None, [], {}, np.array(["x"]), b"x", Odd(), "x" * 5000, 1.5, True]
THINGS = ["x", 5, 1.5, [], [1.0], {}, (), b"x", Odd(), True, "x" * 5000]


def hostile(kind: str, value: Any, generator: np.random.Generator) -> Any:
    """Nonsense in place of a value of a kind; a function that makes it of the backend's array where it is an array."""
    pools = {"integer": INTEGERS, "real": REALS, "flag": FLAGS, "choice": CHOICES}
    if kind in pools:
        return pools[kind][generator.integers(len(pools[kind]))]
    bad = int(generator.integers(8))
    if bad < 2:
        return THINGS[generator.integers(len(THINGS))]
    if bad == 2:
        return value.astype({"float": "i4", "integer array": "f4", "bool": "f4"}[kind])
    if bad == 3:
        return value.astype({"float": "?", "integer array": "?", "bool": "u1"}[kind])
    if bad == 4:
        return value[None, None, None]
    if bad == 5:
        return value.reshape(-1)[:1] if value.ndim != 1 else value.reshape(1, -1)
    axis = int(generator.integers(value.ndim))
    grown = np.concatenate([value, value.take([0] * int(generator.integers(1, 4)), axis)], axis)
    return grown.astype(value.dtype)


def calls(backend: str) -> dict[str, Call]:
    """Calls that work, by name: a function, and its arguments with their kinds.

    What may have any size has the kind "any": its axes are not changed.
    """
    module: Any = get_backend(backend)
    single = backend == "spec"
    rooms = {room.__name__.rpartition(".")[2]: room for room in (ats, attention, ltm, patch_merger, pooling, tome)}
    rooms["information_bottleneck"] = information_bottleneck

    def room(name: str) -> Any:
        return rooms[name] if single else getattr(module, name)

    def array(*shape: int, kind: str = "f4") -> Any:
        values = np.ones(shape, kind)
        return np.arange(values.size).reshape(shape).astype(kind) if kind == "i4" else values

    x, mask, size = ("float", array(2, 6, 4)), ("bool", array(2, 6, kind="?")), ("float", array(2, 6))
    attn, value = ("float", array(2, 3, 6)), ("any", array(2, 3, 6, 5))
    mergers: dict[str, dict[str, tuple[str, Any]]] = {
        "tome": {"r": ("integer", 2), "protected": ("integer", 1), "order": ("choice", "grouped")},
        "ats": {"max_tokens": ("integer", 3), "score": ("choice", "per_head"), "sampling": ("choice", "gumbel")},
        "patch_merger": {
            "dim": ("integer", 4),
            "num_tokens_out": ("integer", 2),
            "logit_scale": ("real", 1.0),
            "normalize": ("flag", True),
            "use_bias": ("flag", True),
            "eps": ("eps", 1e-5),
            "seed": ("integer", 0),
        },
        "ltm": {
            "dim": ("integer", 4),
            "compression_ratio": ("real", 0.5),
            "protected": ("integer", 1),
            "prior_smoothing": ("real", 0.1),
        },
    }
    found: dict[str, Call] = {}
    for name, options in mergers.items():
        found[f"make {name}"] = (lambda name=name, **given: get_merger(name, backend=backend, **given), options)
    tokens = {"x": x, "size": size, "mask": mask}
    free = {**tokens, "x": ("any", x[1])}
    given = {"attn": attn, "value": value, "noise": ("float", array(2, 3, 5))}
    found["call tome"] = (get_merger("tome", backend=backend, r=2), {**free, "metric": ("any", array(2, 6, 3))})
    found["call ats"] = (get_merger("ats", backend=backend, max_tokens=3, sampling="gumbel"), {**free, **given})
    found["call patch_merger"] = (get_merger("patch_merger", backend=backend, dim=4, num_tokens_out=2), tokens)
    found["call ltm"] = (get_merger("ltm", backend=backend, dim=4, compression_ratio=0.5), tokens)
    plan = get_merger("tome", backend=backend, r=2).plan(module.from_numpy(array(2, 6, 4)))
    found["plan.merge"] = (plan.merge, {"x": ("any", array(2, 6, 4)), "size": size})
    found["plan.merge_size"] = (plan.merge_size, {"size": size})
    found["plan.matrix"] = (plan.matrix, {"size": size})
    found["plan.unmerge"] = (plan.unmerge, {"y": ("any", array(2, 4, 4))})
    found["from_numpy"] = (
        lambda **given: module.from_numpy(**given),
        {"dtype": ("choice", "float32")},
    )
    found["from_numpy"][1]["array"] = ("keep", array(2, 3))
    ib = room("information_bottleneck")
    found["estimate_q"] = (
        ib.estimate_q,
        {"phi_out": ("any", array(5, 3)), "labels": ("integer array", array(5, kind="i4"))},
    )
    found["estimate_q"][1]["num_classes"] = ("integer", 5)
    phi, labels = ("float", array(5, 3)), ("integer array", array(5, kind="i4"))
    found["ib_bound"] = (
        ib.ib_bound,
        {"phi_in": ("any", array(5, 2)), "phi_out": phi, "labels": labels, "q": ("any", array(3, 5))},
    )
    found["cluster_scores"] = (
        ib.cluster_scores,
        {"f": ("any", array(5, 3)), "centroids": ("any", array(2, 3)), "beta": ("real", 1.0)},
    )
    found["get_merger"] = (
        lambda **given: get_merger(**given, r=1),
        {"name": ("choice", "tome"), "backend": ("choice", backend)},
    )
    if not single:
        q = ("float", array(2, 3, 6, 5))
        found["attention"] = (
            room("attention").attention,
            {
                "query": ("any", array(2, 3, 4, 5)),
                "key": q,
                "value": ("any", q[1]),
                "size": size,
                "mask": mask,
                "scale": ("real", 1.0),
            },
        )
        found["mean_pool"] = (room("pooling").mean_pool, free)
        found["scores"] = (
            room("ats").scores,
            {"attn": attn, "value": value, "score": ("choice", "concat"), "mask": mask},
        )
        found["PartitionPlan"] = (
            module.PartitionPlan,
            {"assignment": ("any integers", np.array([[0, 1, 2]])), "num_tokens_out": ("integer", 3)},
        )
        found["SelectionPlan"] = (
            module.SelectionPlan,
            {"indices": ("any integers", np.array([[0, 2]])), "num_tokens_in": ("integer", 3)},
        )
    return found


FREE: dict[str, Call] = {
    "ViTConfig": (
        ViTConfig,
        {
            **{
                name: ("integer", 4)
                for name in ("patch_size", "dim", "depth", "heads", "channels", "num_classes", "mlp_dim")
            },
            **{
                name: ("flag", False)
                for name in ("distillation_token", "qkv_bias", "qk_norm", "pre_norm", "no_embed_class")
            },
            **{
                name: ("real", 0.5)
                for name in ("norm_eps", "dropout", "attn_dropout", "emb_dropout", "drop_path", "layer_scale")
            },
            "image_size": ("integer", 8),
            "pool": ("choice", "class"),
        },
    ),
    "ToMeMerging": (ToMeMerging, {"r": ("integer", 1), "prop_attn": ("flag", True), "order": ("choice", "score")}),
    "ATSMerging": (ATSMerging, {"max_tokens": ("integer", (4,)), "score": ("choice", "concat")}),
    "LTMMerging": (LTMMerging, {"compression_ratio": ("real", 0.5), "prior_smoothing": ("real", 0.1)}),
    "PatchMergerMerging": (PatchMergerMerging, {"layer": ("integer", 1), "num_tokens_out": ("integer", 1)}),
    "get_vit": (
        lambda **given: get_vit(ViTConfig(image_size=8, patch_size=4, dim=4, depth=1, heads=1), **given),
        {"seed": ("integer", 0)},
    ),
    "merge_schedule": (merge_schedule, {"r": ("integer", 1), "depth": ("integer", 3)}),
}
# nonsense of one that is sense of another: `True` is no choice, but no empty tuple is a schedule of no block
SENSE = {
    ("ATSMerging", "max_tokens"): ((), []),
    ("from_numpy", "dtype"): (None,),
    ("ToMeMerging", "r"): ([],),
    ("merge_schedule", "r"): ([],),
}


def said(function: Callable[..., Any], arguments: dict[str, Any]) -> tuple[str, str]:
    """The outcome of a call, and the sentence or what happened."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            function(**arguments)
    except (TypeError, ValueError) as error:
        text = str(error)
        ours = "\n" not in text and ": `" in text and ", got " in text and len(text) < 600
        return ("clear", text) if ours else ("traceback", f"{type(error).__name__}: {text[:150]!r}")
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {str(error)[:150]!r}"
    return "accepted", "a result"


ALL = {backend: calls(backend) for backend in BACKENDS}
NAMES = sorted({name for found in ALL.values() for name in found} | set(FREE))


def one(generator: np.random.Generator, tally: Tally) -> None:
    """One argument of one function, in every backend that has it."""
    name = NAMES[generator.integers(len(NAMES))]
    described = FREE[name] if name in FREE else next(found[name] for found in ALL.values() if name in found)
    argument = str(generator.choice([each for each, (kind, _) in described[1].items() if kind != "keep"]))
    kind, value = described[1][argument]
    base = {"any": "float", "any integers": "integer array", "eps": "real"}.get(kind, kind)
    bad = hostile(base, value, generator)
    grown = isinstance(bad, np.ndarray) and isinstance(value, np.ndarray) and bad.ndim == value.ndim
    if kind.startswith("any") and grown and bad.dtype == value.dtype:
        return
    if any(type(bad) is type(sense) and repr(bad) == repr(sense) for sense in SENSE.get((name, argument), ())):
        return
    sentences = set()
    for backend in BACKENDS if name not in FREE else ("numpy",):
        if name not in FREE and name not in ALL[backend]:
            continue
        function, arguments = FREE[name] if name in FREE else ALL[backend][name]
        module: Any = get_backend(backend)
        given = {each: value for each, (_, value) in arguments.items()} | {argument: bad}
        if name not in ("from_numpy", *FREE):
            given = {
                each: module.from_numpy(v)
                if isinstance(v, np.ndarray) and v.dtype.kind in "fiub" and kind not in ("choice", "flag")
                else v
                for each, v in given.items()
            }
        outcome, text = said(function, given)
        finding = "" if outcome == "clear" else f"{backend} {name}({argument}={_shown(bad)}): {text}"
        tally.add(outcome, finding)
        sentences.add(text.replace("(B, ", "("))
    if len(sentences) > 1 and name not in ("from_numpy", "get_merger"):  # of other dtypes, or naming the backends
        tally.add("differ", f"{name}({argument}={_shown(bad)}): {sorted(sentences)}")


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}"
    try:
        return repr(value)[:60]
    except Exception:
        return type(value).__name__


if __name__ == "__main__":
    sys.exit(main("hostile", ("clear", "traceback", "accepted", "differ"), one))
