"""One class: patched, compared with the independent computation, and what is to be said of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from oracle import ATS, ToMe, hooked
from torch import nn

from tokenmerge.backends.torch import patch
from tokenmerge.backends.torch.patching import CannotPatch, Handle

Tensor = torch.Tensor
R = (3, -0.5)
OPTIONS: dict[str, dict[str, Any]] = {"restored": {"restore": True}, "around": {"around": "mlp"}}


class Wrong(Exception):
    """A patched model that gives something else."""


@dataclass(frozen=True)
class Found:
    """What came out: "accepted", "restored" (with restore=True only), "around" (with around="mlp" only) or "refused",
    the sentence of that, and what was compared."""

    outcome: str
    sentence: str = ""
    compared: tuple[str, ...] = ()


def shaken(model: nn.Module) -> nn.Module:
    """In float64 and evaluation mode, with random parameters: zeros and ones would hide what is left out."""
    torch.manual_seed(0)
    model = model.double().eval()
    with torch.no_grad():
        for value in model.parameters():
            width = max(value.shape[-1] if value.ndim else 1, 24)  # wide sums would leave a softmax nothing but one
            value.add_(0.2 * (24 / width) ** 0.5 * torch.randn_like(value))
    return model


def tensors(output: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors of an output, with their names."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield name, output
    elif isinstance(output, dict):
        for key, value in output.items():
            yield from tensors(value, f"{name}.{key}")
    elif isinstance(output, list | tuple):
        for index, value in enumerate(output):
            yield from tensors(value, f"{name}[{index}]")


def same(got: Any, wanted: Any, epsilon: float, handle: Handle | None = None) -> None:
    """Compare two outputs; merged tokens go back to their places first. Raises Wrong."""
    pairs = list(zip(tensors(got), tensors(wanted), strict=True))
    if not pairs:
        raise Wrong("nothing to compare")
    for (name, a), (_, b) in pairs:
        if handle is not None and a.ndim == 3 and a.shape != b.shape:
            front = handle.num_tokens[-1] - a.shape[1]  # tokens in front that are left out
            a = handle.unmerge(nn.functional.pad(a, (0, 0, front, 0)))[:, front:] if 0 <= front < 6 else a
        if a.shape != b.shape:
            raise Wrong(f"{name} has shape {tuple(a.shape)} and not {tuple(b.shape)}")
        # sums in another order: thousands of roundings, amplified by the network's own size
        finite = b.isfinite()
        if not torch.equal(a[~finite], b[~finite]):
            raise Wrong(f"{name} is infinite elsewhere")
        off, largest = ((each[finite].abs().amax().item() if finite.any() else 0.0) for each in (a - b, b))
        bound = 2**14 * epsilon * max(largest, 1.0)
        if not off <= bound:
            raise Wrong(f"{name} is off by {off:.1e}, allowed are {bound:.1e}")


def refused(model: nn.Module) -> Found:
    """What is said of a model whose blocks the independent computation does not know. Raises Wrong if nothing is."""
    for restore in (False, True):
        try:
            patch(model, "tome", r=R, restore=restore).remove()
        except CannotPatch as error:
            sentence = str(error)
        else:
            raise Wrong("it is accepted, and nobody can check it")
    return Found("refused", sentence)


def check(
    model: nn.Module,
    inputs: dict[str, Any],
    blocks: list[tuple[nn.Module, Any]],
    prefix: int,
    float32: bool = False,
) -> Found:
    """Patch a model in all ways and compare.

    Args:
        inputs: what the model is called with. blocks: with their joints. prefix: tokens in front.

    Raises:
        Wrong: something differs from the independent computation, or from the model before.
    """
    epsilon = float(torch.finfo(torch.float32 if float32 else torch.float64).eps)
    keys = list(model.state_dict())

    def run(model: nn.Module, images: int = 2) -> Any:
        return model(**{name: value[:images] for name, value in inputs.items()})

    with torch.no_grad():
        before = run(model)
        with hooked(ToMe(blocks, R, prefix)):
            wanted = run(model)
        found = _tome(model, run, wanted, epsilon)
        if found.outcome == "refused":
            found = _around(model, run, blocks, prefix, epsilon, found)
        if found.outcome != "refused":
            options = OPTIONS.get(found.outcome, {})
            _nothing_to_merge(model, run, before, options)
            ats = () if options else _ats(model, run, blocks, prefix, epsilon)
            found = Found(found.outcome, found.sentence, (*found.compared, *ats))
        if list(model.state_dict()) != keys:
            raise Wrong("the state dict is another one")
        _equal(run(model), before, "after `remove`")
    return found


def _tome(model: nn.Module, run: Callable[..., Any], wanted: Any, epsilon: float) -> Found:
    sentences, outcome = [], ""
    for restore in (False, True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                with patch(model, "tome", r=R, restore=restore) as handle:
                    got = run(model)
                    said = [str(each.message) for each in caught if str(each.message).startswith("patch:")]
                    if not said:
                        same(got, wanted, epsilon, handle)
                        outcome = outcome or ("restored" if restore else "accepted")
            except (CannotPatch, RuntimeError, ValueError) as error:
                said = [str(each.message) for each in caught if str(each.message).startswith("patch:")]
                if not said and not str(error).startswith("patch:"):
                    raise
                said.append(str(error))  # the library's own, after our warning
            sentences += said[:1]
    return Found(outcome or "refused", sentences[0] if sentences else "", ("tome",) if outcome else ())


def _around(model: nn.Module, run: Callable[..., Any], blocks: Any, prefix: int, epsilon: float, found: Found) -> Found:
    """What is refused for the stream may be accepted around the MLP."""
    try:
        with patch(model, "tome", r=R, around="mlp"):
            got = run(model)
    except CannotPatch:
        return found
    with hooked(ToMe(blocks, R, prefix, around_mlp=True)):
        same(got, run(model), epsilon)
    return Found("around", found.sentence, ("tome",))


def _nothing_to_merge(model: nn.Module, run: Callable[..., Any], before: Any, options: dict[str, Any]) -> None:
    with patch(model, "tome", r=0, **options):
        _equal(run(model), before, "with r=0")


def _ats(model: nn.Module, run: Callable[..., Any], blocks: Any, prefix: int, epsilon: float) -> tuple[str, ...]:
    budgets = [9, 6]
    if any(joints.end for _, joints in blocks):  # it drops tokens, and can do neither
        return ()
    try:
        with patch(model, "ats", max_tokens=budgets):
            got = run(model, 1)
    except CannotPatch:
        return ()
    with hooked(ATS(blocks, budgets, prefix)):
        wanted = run(model, 1)
    for (name, a), (_, b) in zip(tensors(got), tensors(wanted), strict=True):
        if a.shape == b.shape:
            same({name: a}, {name: b}, epsilon)
    return ("ats",)


def _equal(got: Any, wanted: Any, when: str) -> None:
    for (name, a), (_, b) in zip(tensors(got), tensors(wanted), strict=True):
        if not torch.equal(a, b):
            raise Wrong(f"{name} is not the same to the last bit {when}")
