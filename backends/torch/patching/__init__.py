"""Token merging inside models that people already have: timm's and Hugging Face's vision transformers.

See docs/guides/timm.md and docs/guides/huggingface.md.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from tokenmerge.backends.torch import observers
from tokenmerge.backends.torch.patching import hf_families, other_families, own, timm, transformers
from tokenmerge.backends.torch.patching.ats import ATSPatch
from tokenmerge.backends.torch.patching.families import CannotPatch, Network
from tokenmerge.backends.torch.patching.grid_role import install_grid
from tokenmerge.backends.torch.patching.grids import find_grid
from tokenmerge.backends.torch.patching.handle import Handle, handle, hooks_of
from tokenmerge.backends.torch.patching.install import install
from tokenmerge.backends.torch.patching.ltm import LTMPatch
from tokenmerge.backends.torch.patching.method import Method
from tokenmerge.backends.torch.patching.own import register_block
from tokenmerge.backends.torch.patching.patch_merger import PatchMergerPatch
from tokenmerge.backends.torch.patching.readers import around, check_around
from tokenmerge.backends.torch.patching.refusals import what_is_there
from tokenmerge.backends.torch.patching.tome import ToMePatch
from tokenmerge.backends.torch.patching.trained import check_training
from tokenmerge.spec.shared.arguments import check_choice, check_names

METHODS: dict[str, type[Method]] = {method.NAME: method for method in (ToMePatch, ATSPatch, PatchMergerPatch, LTMPatch)}


def patch(model: nn.Module, name: str, *, restore: bool = False, **options: Any) -> Handle:
    """Merge tokens in a model that exists, by hooks on its own parts.

    In a block `x1 = x + attention(x)`, `x1 + f(x1)` the residual stream becomes `y + f(y)` with `y = W x1`.

    Args:
        model: a timm or Hugging Face vision transformer, or a module that holds exactly one.
        name: "tome", "ats", "patch_merger" or "ltm". The last two have parameters, which become the model's own.
        restore: whether everybody outside of the blocks sees all tokens: after every block they are unmerged, and the
            next one goes on with the merged ones. For whoever reads a grid. Dropped tokens come back as zeros.
        **options: of "tome" `r` (or `tokens_out`), `prop_attn=True`, `order="grouped"`, `protected=None`,
            `around=None`; of "ats" `max_tokens`, `score="per_head"`; of "patch_merger" `layer=None`,
            `num_tokens_out=8`, `logit_scale=None`, `seed=0`; of "ltm" `compression_ratio`, `protected=None`,
            `prior_smoothing=0.1`, `around="mlp"`. `protected=None` stands for the model's class, distillation and
            register tokens. `around`: None for the stream, "mlp" or "block" for that branch, around which the stream
            keeps all of its tokens. timm's Swin, MobileViT and EfficientViT (MIT), whose tokens lie on a map, take
            "tome" with `r` per window or pixel and "ltm", around a branch only, and `prior="grid"`.

    Returns:
        Handle: plans, `r`, `remove()`; a context manager.

    Raises:
        TypeError, ValueError: an unknown name or option, or a value out of range.
        CannotPatch: a `ValueError` that says which part of the model cannot be patched and why. In all cases the
            model is as it was.

    >>> import torch, timm
    >>> model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2).eval()
    >>> images = torch.zeros(1, 3, 64, 64)
    >>> with patch(model, "tome", r=4) as handle:
    ...     logits = model(images)
    >>> [plan.num_tokens_out for plan in handle.plans], model.forward_features(images).shape
    ([13, 9], torch.Size([1, 17, 192]))
    """
    check_choice("patch", "name", name, METHODS)
    if not isinstance(model, nn.Module):
        raise TypeError(f"patch: `model` must be a torch.nn.Module, got {type(model).__name__}")
    method_class = METHODS[name]
    if not isinstance(restore, bool):
        raise TypeError(f"patch: `restore` must be True or False, got {restore!r}")
    if "around" not in method_class.OPTIONS and options.pop("around", None) is not None:
        raise ValueError(
            f"patch: `around` must be None for {name!r}, whose tokens are no means of all others, got another"
        )
    check_names("patch", options, (*method_class.OPTIONS, *(("prior",) if name == "ltm" else ())), "option")
    for option in method_class.NEEDED:
        if option not in options:
            raise TypeError(f"patch: `{option}` must be given with {name!r}, got nothing")
    if hooks_of(model):
        raise CannotPatch("patch: `model` must not be patched already, got one that is (`remove()` its handle first)")
    on_grid = find_grid(model)
    if on_grid is not None:
        return Handle(model, install_grid(model, on_grid, name, options))
    if "prior" in options:
        raise ValueError(
            "patch: `prior` must be left out for a model whose tokens lie in a sequence, got "
            f"{options['prior']!r} (Swin, MobileViT and EfficientViT have a grid)"
        )
    keeps = options.get("around", method_class.AROUND) is not None  # so that nobody outside sees fewer tokens
    network = find(model, restore or keeps)
    method = method_class(network, **options)
    if network.pairs and method.around != "mlp":
        raise CannotPatch(
            f"patch: `around` must be 'mlp' with 'tome' or 'ltm' for {network.name}, whose attention adds a bias to "
            "every pair of places and has to see all tokens (around the MLP they are back before the next one), got "
            f"{name!r} with around={method.around!r}"
        )
    if network.unbiased and (method.proportional or method.sampled):
        raise CannotPatch(
            f"patch: `model` must have an attention that adds a bias to its logits (sdpa or eager) for {name!r}, "
            f"got {network.unbiased}"
        )
    method.given = dict(options) | ({"restore": True} if restore else {})
    warned = check_training(model, network, method)
    patched = Handle(model, install(model, network, method, restore))
    patched._patch.said |= {"training"} if warned else set()
    if network.unread and not restore and method.around is None:
        observers.warn(
            f"patch: {network.unread} reads merged tokens in a way that nobody has described: give "
            "`register_block` reads_class=True if it reads the class token only, or patch with restore=True"
        )
    return patched


def find(model: nn.Module, restore: bool = False) -> Network:
    """The one network in a model that is known, taken apart.

    Raises:
        CannotPatch: there is none, there are several, or the model needs its tokens on the grid.
    """
    found = [
        (family, name, module)
        for name, module in model.named_modules()
        for family in (timm, transformers, other_families, own)
        if family.is_network(module)
    ]
    if len(found) != 1:
        names = ", ".join(repr(name) for _, name, _ in found)
        which = f"{len(found)} ({names}): patch each of them" if found else what_is_there(model, known_networks())
        raise CannotPatch(
            "patch: `model` must hold exactly one network that is known (docs/guides/patched-models.md lists them), "
            f"got {which}"
        )
    family, name, module = found[0]
    check_around([*around(model, module), (name, module)], restore)
    network = family.read(model, module, name or type(module).__name__)
    if network.own and not restore:
        raise CannotPatch(
            f"patch: `model` must read its tokens in a way that is known, got {network.own} (patch with restore=True, "
            "which gives it all tokens)"
        )
    return network


def known_networks() -> set[str]:
    """The full names of the functions by which networks are known."""
    of_timm = {f"{name}.forward_features" for name in timm.NETWORKS}
    return of_timm | {*hf_families.KNOWN.networks, *other_families.KNOWN.networks}


__all__ = ["CannotPatch", "Handle", "handle", "patch", "register_block"]
