"""Ways in which people use a model. Each gives what a call gives, or None where it has compared by itself."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from check import Wrong, same, tensors
from torch import nn

from tokenmerge.backends.torch.patching import Handle, handle

Tensor = torch.Tensor


@dataclass
class Run:
    """A model, what is around it, and what it is called with."""

    top: nn.Module
    model: nn.Module
    inputs: dict[str, Any]
    epsilon: float

    def call(self, model: nn.Module, rows: slice = slice(None)) -> Any:
        """A call of a model, with some of the images."""
        return model(**{name: value[rows] for name, value in self.inputs.items()})

    def before(self, use: str) -> Any:
        """What a use needs from before the patch."""
        if use == "compiled before":
            torch.compiler.reset()
            compiled = torch.compile(self.top, backend="eager")
            with torch.no_grad():
                self.call(compiled)
            return compiled
        if use in ("removed", "nothing"):
            with torch.no_grad():
                return self.call(self.top)
        return None


Use = Callable[[Run, Handle, Any], Any]


def call(run: Run, handle: Handle, before: Any) -> Any:
    with torch.no_grad():
        return run.call(run.top)


def with_gradients(run: Run, handle: Handle, before: Any) -> Any:
    return detached(run.call(run.top))


def twice(run: Run, handle: Handle, before: Any) -> Any:
    """After a call with fewer images."""
    with torch.no_grad():
        run.call(run.top, slice(1))
        return run.call(run.top)


def after_a_failure(run: Run, handle: Handle, before: Any) -> Any:
    with torch.no_grad():
        hook = last_norm(run.model).register_forward_pre_hook(lambda *_: 1 / 0)
        try:
            run.call(run.top)
        except ZeroDivisionError:
            pass
        hook.remove()
        return run.call(run.top)


def last_norm(model: nn.Module) -> nn.Module:
    """A module that runs late in a model."""
    return [module for module in model.modules() if isinstance(module, nn.LayerNorm)][-1]


def image_by_image(run: Run, handle: Handle, before: Any) -> Any:
    """The second image alone gives what it gives in the batch."""
    with torch.no_grad():
        whole, part = run.call(run.top), run.call(run.top, slice(1, None))
    for (name, a), (_, b) in zip(tensors(whole), tensors(part), strict=True):
        if a.ndim and a.shape[0] == 2 and b.shape == (1, *a.shape[1:]):
            same({name: a[1:]}, {name: b}, 64 * run.epsilon)


def copied(run: Run, handle: Handle, before: Any) -> Any:
    return of_another(run, copy.deepcopy(run.top))


def of_another(run: Run, model: Any) -> Any:
    """What a copy gives; the model is called as well, so that its handle knows the plans."""
    with torch.no_grad():
        got = run.call(model)
        run.call(run.top)
    return got


def pickled(run: Run, handle: Handle, before: Any) -> Any:
    if isinstance(run.top, nn.Module) and not can_be_pickled(run.top):  # the library's own hooks cannot
        return call(run, handle, None)
    return of_another(run, pickle.loads(pickle.dumps(run.top)))


def can_be_pickled(model: nn.Module) -> bool:
    """Whether nobody has put a function of a function on a model: Hugging Face does where it collects hidden states."""
    hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    return not any("<locals>" in getattr(hook, "__qualname__", "") for hook in hooks)


def saved(run: Run, handle: Handle, before: Any) -> Any:
    if not can_be_pickled(run.top):
        return call(run, handle, None)
    file = io.BytesIO()
    torch.save(run.top, file)
    file.seek(0)
    return of_another(run, torch.load(file, weights_only=False))


def functional(run: Run, handle: Handle, before: Any) -> Any:
    with torch.no_grad():
        model = run.model if isinstance(run.top, nn.DataParallel) else run.top  # which PyTorch refuses there
        return torch.func.functional_call(model, dict(model.named_parameters()), (), run.inputs)


def threads(run: Run, handle: Handle, before: Any) -> Any:
    """Two threads with different images, many times."""

    def work(index: int) -> Any:
        with torch.no_grad():
            return [run.call(run.top, slice(index, index + 1)) for _ in range(4)]

    with torch.no_grad():
        alone = [run.call(run.top, slice(index, index + 1)) for index in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for index, found in enumerate(pool.map(work, range(2))):
            for each in found:
                same(each, alone[index], run.epsilon)


def removed(run: Run, handle: Handle, before: Any) -> Any:
    """After `remove()` it is the model that it was, to the last bit."""
    call(run, handle, None)
    handle.remove()
    equal(call(run, handle, None), before, "after `remove`")


def nothing(run: Run, handle: Handle, before: Any) -> Any:
    """With nothing to merge it is the model that it was, to the last bit."""
    if "r" in handle._patch.method.given:
        handle.r = 0
        equal(call(run, handle, None), before, "with r=0")


def other_r(run: Run, handle: Handle, before: Any) -> Any:
    """Another `r`, and back."""
    if "r" not in handle._patch.method.given:
        return call(run, handle, None)
    r, handle.r = handle.r, [1, 1, 1]
    call(run, handle, None)
    handle.r = r
    return call(run, handle, None)


def hidden_states(run: Run, handle: Handle, before: Any) -> Any:
    """Hidden states of Hugging Face go back to their places, layer by layer."""
    if not hasattr(run.model, "config"):
        return call(run, handle, None)
    with torch.no_grad():
        output = run.top(**run.inputs, output_hidden_states=True)
    states = output.get("hidden_states")
    for layer, state in enumerate(states or ()):
        if state.ndim == 3 and layer <= len(handle.plans) and state.shape[1] == ([0, *handle.num_tokens])[layer]:
            handle.unmerge(state, layer=layer)
    if any("hidden_states" in name for name, _ in tensors(call(run, handle, None))):  # it always gives them
        return output
    return {name: value for name, value in tensors(output) if "hidden_states" not in name}


def features_and_head(run: Run, handle: Handle, before: Any) -> Any:
    """timm's two halves."""
    if not hasattr(run.model, "forward_head"):
        return call(run, handle, None)
    with torch.no_grad():
        return run.model.forward_head(run.model.forward_features(*run.inputs.values()))


def intermediates(run: Run, handle: Handle, before: Any) -> Any:
    """timm's maps: right, or an error."""
    if not hasattr(run.model, "get_intermediate_layers"):
        return call(run, handle, None)
    with torch.no_grad():
        maps = run.model.forward_intermediates(*run.inputs.values(), intermediates_only=True)
    if any(each.shape[-2:] != (4, 4) for each in maps):
        raise Wrong("a map of another shape")
    return call(run, handle, None)


def checkpointed(run: Run, handle: Handle, before: Any) -> Any:
    """Gradients with checkpoints, and without."""
    found = []
    for on in (False, True):
        if hasattr(run.model, "set_grad_checkpointing"):
            run.model.set_grad_checkpointing(on)
        elif hasattr(run.model, "gradient_checkpointing_enable") and run.model.supports_gradient_checkpointing:
            (run.model.gradient_checkpointing_enable if on else run.model.gradient_checkpointing_disable)()
        else:
            return call(run, handle, None)
        run.model.train()
        torch.manual_seed(0)
        run.model.zero_grad()
        sum(value.square().mean() for _, value in tensors(run.call(run.top)) if value.requires_grad).backward()
        found.append([value.grad.clone() for value in run.model.parameters() if value.grad is not None])
    run.model.eval()
    same(found[1], found[0], run.epsilon)


def own_mask(run: Run, handle: Handle, before: Any) -> Any:
    """A mask that masks nothing."""
    if not hasattr(getattr(run.model, "config", None), "hidden_size") or "input_ids" in run.inputs:
        return call(run, handle, None)
    tokens = call(run, handle, None)
    count = handle.source().num_tokens_in if any(handle.plans) else 0
    if not count or "attention_mask" not in type(run.model).forward.__code__.co_varnames:
        return tokens
    with torch.no_grad():
        return run.top(**run.inputs, attention_mask=torch.ones(2, count))


def compiled_after(run: Run, handle: Handle, before: Any) -> Any:
    torch.compiler.reset()
    with torch.no_grad():
        return run.call(torch.compile(run.top, backend="eager"))


def compiled_before(run: Run, handle: Handle, before: Any) -> Any:
    with torch.no_grad():
        return run.call(before)


def exported(run: Run, handle: Handle, before: Any) -> Any:
    with torch.no_grad():
        try:
            program = torch.export.export(run.model, (), run.inputs, strict=False)
        except Exception as error:
            if "patch: " in str(error) or can_be_exported(run, handle):
                raise
            return None
        return of_another(run, program.module())


def can_be_exported(run: Run, handle: Handle) -> bool:
    """Whether the model can without its patch, which this takes off: some of the library's cannot."""
    handle.remove()
    try:
        torch.export.export(run.model, (), run.inputs, strict=False)
    except Exception:
        return False
    return True


def detached(output: Any) -> dict[str, Tensor]:
    """The tensors of an output, without gradients."""
    return {name: value.detach() for name, value in tensors(output)}


def equal(got: Any, wanted: Any, when: str) -> None:
    """Raises Wrong unless all bits are the same."""
    for (name, a), (_, b) in zip(tensors(got), tensors(wanted), strict=True):
        if not torch.equal(a, b):
            raise Wrong(f"{name} is not the same to the last bit {when}")


USES: dict[str, Use] = {
    "called": call,
    "called with gradients": with_gradients,
    "called twice": twice,
    "after a failure": after_a_failure,
    "image by image": image_by_image,
    "copied": copied,
    "pickled": pickled,
    "saved": saved,
    "functional": functional,
    "threads": threads,
    "removed": removed,
    "nothing": nothing,
    "another r": other_r,
    "hidden states": hidden_states,
    "features and head": features_and_head,
    "intermediates": intermediates,
    "checkpointed": checkpointed,
    "a mask of ones": own_mask,
    "compiled after": compiled_after,
    "compiled before": compiled_before,
    "exported": exported,
}
COSTLY = ("compiled after", "compiled before", "exported")
__all__ = ["COSTLY", "USES", "Run", "handle"]
