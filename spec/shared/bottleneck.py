"""What the trackers of the information bottleneck share: options, when the loss is on, the shape of their state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tokenmerge.spec.shared.arguments import check_choice, check_integer, check_names, check_real, shown

OWNER = "bottleneck_tracker"
RECIPES = ("aligned", "released")
ARRAYS = ("centroids_in", "centroids_out", "q", "q_next")
MOST_NUMBERS = 2**24  # of differences between samples and centroids at a time


class Options(NamedTuple):
    """Of a tracker; `clusters` on both sides."""

    num_classes: int
    epochs: int
    clusters: int
    beta: float
    weight: float
    start: float
    recipe: str
    seed: int


class Measures(NamedTuple):
    """What a pass over the training images says, in nats.

    Attributes:
        in_out: I(in;out); out_label: I(out;label); difference: of the two, the loss itself.
        bound: its upper bound, up to a constant, with this epoch's `Q`.
    """

    in_out: float
    out_label: float
    difference: float
    bound: float


def options(
    num_classes: Any, epochs: Any, clusters: Any, beta: Any, weight: Any, start: Any, recipe: Any, seed: Any
) -> Options:
    """Checked options. TypeError, ValueError.

    >>> options(10, 30, None, 1.0, 0.1, 0.3, "aligned", 0).clusters
    10
    """
    num_classes = check_integer(OWNER, "num_classes", num_classes, minimum=1)
    epochs = check_integer(OWNER, "epochs", epochs, minimum=1)
    clusters = num_classes if clusters is None else check_integer(OWNER, "clusters", clusters, minimum=1)
    check_real(OWNER, "beta", beta, 0.0, float("inf"), "[0, inf)")
    check_real(OWNER, "weight", weight, 0.0, float("inf"), "[0, inf)")
    check_real(OWNER, "start", start, 0.0, 1.0, "[0, 1]")
    check_choice(OWNER, "recipe", recipe, RECIPES)
    seed = check_integer(OWNER, "seed", seed, minimum=0)
    return Options(num_classes, epochs, clusters, float(beta), float(weight), float(start), recipe, seed)


def active(chosen: Options, passes: int) -> bool:
    """Whether the bound is on in the epoch after so many passes: the first `start * epochs` go without.

    >>> chosen = options(10, 10, None, 1.0, 0.1, 0.3, "aligned", 0)
    >>> [active(chosen, passes) for passes in (1, 2, 3, 4)]
    [False, False, False, True]
    """
    return passes > 0 and passes - 1 >= chosen.start * chosen.epochs


def rows_at_a_time(shape: tuple[int, ...]) -> int:
    """How many samples to hold against centroids `(A,C)` at a time.

    >>> rows_at_a_time((1000, 3072)), rows_at_a_time((10**5, 10**5))
    (5, 1)
    """
    return max(1, MOST_NUMBERS // max(1, shape[0] * shape[1]))


def check_state(chosen: Options, state: Any) -> None:
    """Check that a state is one of a tracker of these options. TypeError, ValueError."""
    if not isinstance(state, Mapping):
        raise TypeError(f"{OWNER}: `state` must be a mapping, got {type(state).__name__}")
    names = ("epoch", *ARRAYS)
    check_names(OWNER, state, names, "entry of the state")
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(f"{OWNER}: `state` must have an entry {missing[0]!r}, got none")
    check_integer(OWNER, "epoch", state["epoch"], minimum=0)
    wanted = {"q": (chosen.clusters, chosen.num_classes), "q_next": (chosen.clusters, chosen.num_classes)}
    for name in ARRAYS:
        value = state[name]
        if not (value is None or hasattr(value, "shape")):
            raise TypeError(f"{OWNER}: `{name}` must be an array or None, got {shown(value)}")
        shape = None if value is None else tuple(value.shape)
        needed = wanted.get(name, (chosen.clusters, shape[1] if shape is not None and len(shape) == 2 else None))
        if shape is not None and shape != needed:
            raise ValueError(f"{OWNER}: `{name}` must have shape {needed}, got {shape}")
