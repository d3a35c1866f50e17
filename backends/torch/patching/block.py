"""What happens around a block of a patched model, and around its attention.

A block computes `x1 = x + attention(norm1(x))`, then `x1 + f(x1)` with `f = mlp(norm2(.))`. Wanted is `y + f(y)` with
`y = W x1`. So the norm is given `y` in place of `x1`; at the end of the branch `f(y)` is put aside and a zero goes on,
which the block adds to `x1`; and when the block returns, `y + f(y)` takes the place of that sum. Every part of the
block runs as it did, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch import observers
from tokenmerge.backends.torch.patching.bias import attention_dtype, key_bias
from tokenmerge.backends.torch.patching.entering import call_of
from tokenmerge.backends.torch.patching.families import Attention, Block, part_of
from tokenmerge.backends.torch.patching.hook import Patch
from tokenmerge.backends.torch.patching.marks import Role, role_of
from tokenmerge.backends.torch.patching.parts import first, holds_parts, hook_parts, parts_of, with_first
from tokenmerge.backends.torch.patching.readers import check_readers
from tokenmerge.backends.torch.patching.state import Call, returned
from tokenmerge.backends.torch.patching.tome import mean_key
from tokenmerge.backends.torch.plan import compose_layers
from tokenmerge.spec.shared.arguments import shown

Tensor = torch.Tensor


class BlockRole(Role):
    """A block.

    Args:
        patch: whose it is. index: of the block. name: for sentences. parts, attention: its description.
        tokens: the name of its first argument. learned: whether it has a part `merger`.
    """

    def __init__(
        self, patch: Patch, index: int, name: str, parts: Block, attention: Attention, tokens: str, learned: bool
    ) -> None:
        super().__init__(patch)
        self.index, self.name, self.parts, self.of_attention = index, name, parts, attention
        self.tokens, self.learned = tokens, learned
        self.kind = index + 1
        self.inner = None if parts.own is None else AttentionRole(patch, index, name, attention, False)
        self.wanted = tuple((tuple(path.split(".")), kind.where, kind.name) for path, kind in parts_of(self))
        self.to_attention = tuple(parts.attention.split(".")) if parts.own is None else ()

    def run(self, name: str, module: Any, original: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        self._look_at_parts(module)
        x = args[0] if args else kwargs[self.tokens]
        call = call_of(self.patch, self.index, self.name, x)
        if call is None:
            return self._alone(module, original, args, kwargs)
        call.enter(module, x, self.parts)
        left = False
        try:
            given = self._enter(call, x)
            call.num_tokens_here = given.shape[1]
            if given is not x:
                args, kwargs = ((given, *args[1:]), kwargs) if args else ((), kwargs | {self.tokens: given})
            if self.inner is not None:
                call.attention = module
                args, kwargs = self.inner.biased(call, given, args, kwargs)
            output = original(module, *args, **kwargs)
            output = with_first(output, self._leave(call, first(output)))
            left = True
        finally:
            call.leave()
            if not left:
                self.patch.thread.drop_stale()
        self._end(call, output)
        return output

    def _alone(self, module: nn.Module, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        alone = self.patch.thread.alone
        alone.append(self.index)
        try:
            return original(module, *args, **kwargs)
        finally:
            alone.pop()

    def _look_at_parts(self, module: nn.Module) -> None:
        if not holds_parts(module, self):
            if observers.is_compiling():
                raise RuntimeError(f"patch: `model` must be patched again, got {self.name} with parts that are new")
            hook_parts(module, self)
        inner: Any = module
        if observers.is_compiling():
            inner = module if self.inner is not None else part_of(module, self.parts.attention)
        else:  # the same, not by `getattr`, which is slow in a module
            for each in self.to_attention:
                inner = inner._modules[each]
        if role_of(inner) is None:
            raise RuntimeError(
                f"patch: `model` must be patched again, got {self.name}.{self.parts.attention} "
                f"({type(inner).__name__}) in place of the attention that was patched"
            )

    def _enter(self, call: Call, x: Tensor) -> Tensor:
        if self.patch.restore and call.kept is not None:
            x, call.kept = call.kept, None
        return self.patch.method.before(call, x)

    def _leave(self, call: Call, x: Tensor) -> Tensor:
        method = self.patch.method
        if not self.parts.norm and method.reads_between:
            merged = method.between(call, x)
            x = x if merged is None else merged
        elif call.merged is not None and method.around != "block":
            if call.mlp is None:
                raise RuntimeError(
                    f"patch: `model` must run `{self.parts.mlp_end}` after its MLP, got {self.name} that did not"
                )
            if self.parts.mlp_rest is not None:
                call.mlp = self.parts.mlp_rest(call.block, call.mlp)
            x = method.joined(call)
        elif call.plans[-1] is None and method.expects(call, call.num_tokens_here):
            self.patch.say(
                f"nothing was merged in {self.name}, whose part `{self.parts.norm}` did not run between attention and "
                "MLP (was it replaced or left out after `patch`?)"
            )
        x = method.after(call, x)
        last = self.index == self.patch.depth - 1
        if last and call.mask is not None and call.merged_any:
            x = torch.where(call.mask[:, :, None], x, 0)
        if self.patch.restore and not call.around:
            x = self._restored(call, x)
        call.tokens = x
        call.counts.append(x.shape[1])
        call.given = returned(x)
        return x

    def _restored(self, call: Call, x: Tensor) -> Tensor:
        plan, size = call.plans[-1], call.sizes[-1]
        if plan is not None:
            call.whole = plan if call.whole is None else compose_layers([(call.whole, None), (plan, size)])
        if call.whole is None:
            return x
        call.kept = x
        return call.whole.unmerge(x)

    def _end(self, call: Call, output: Any) -> None:
        """The last block ends a call; what a backward pass runs again is no call of the model's."""
        if self.index < self.patch.depth - 1:
            return
        thread = self.patch.thread
        if call.known is None:
            thread.last.keep(call)
        if call.by_block:
            thread.drop(call)
        if call.by_block and call.known is None:
            check_readers(self.patch, call, output)


class AttentionRole(Role):
    """The attention of a block: sizes and padding become a bias of its keys, a rotary table that of the tokens left.

    Args:
        patch: whose it is. index: of the block. name: for sentences. parts: its description.
        sampled: whether it is for chosen queries only.
    """

    def __init__(self, patch: Patch, index: int, name: str, parts: Attention, sampled: bool) -> None:
        super().__init__(patch)
        self.index, self.name, self.parts, self.sampled = index, name, parts, sampled

    def run(self, name: str, module: Any, original: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        call = self.patch.running()
        if call is None or len(call.plans) - 1 != self.index:
            self._outside(call)
            return original(module, *args, **kwargs)
        call.attention = module
        x = args[0] if args else kwargs[self.parts.arguments[0]]
        args, kwargs = self.biased(call, x, args, kwargs)
        if self.parts.beside is not None and self.patch.method.keys and self.patch.method.expects(call, x.shape[1]):
            call.keys = self.parts.beside(module, x)
        written_out = self._is_written_out(call, x)
        if self.sampled or written_out:
            named = dict(zip(self.parts.arguments, args, strict=False)) | kwargs
            named.pop(self.parts.arguments[0])
            if call.own_mask and not call.merged_any:
                named.pop(self.parts.mask, None)
            out = self.patch.method.sample(call, module, self.parts, x, named) if self.sampled else None
            if out is not None:
                return out
            if written_out:
                return self._part_by_part(call, module, x, named)
        return original(module, *args, **kwargs)

    def _is_written_out(self, call: Call, x: Tensor) -> bool:
        """Whether the module's own `forward` cannot take what it needs here, or tell the keys."""
        if not self.parts.written_out:
            return False
        wants_keys = not self.parts.keys and self.patch.method.keys and self.patch.method.expects(call, x.shape[1])
        return wants_keys or call.size is not None or call.mask is not None or call.merged_any

    def _part_by_part(self, call: Call, module: Any, x: Tensor, named: dict[str, Any]) -> Any:
        query, key, value = self.parts.heads(module, x, named)
        if not self.parts.keys and self.patch.method.keys:
            call.keys = mean_key(key, 1)
        return self.parts.attend(module, query, key, value, x, None, named)

    def _outside(self, call: Call | None) -> None:
        """Attention without its block: it says so, because nothing merges there."""
        if call is not None or self.patch.thread.alone:
            return
        self.patch.say(
            f"{self.name} ran outside of its block, where nothing is merged; a module that runs the parts of a block "
            "itself leaves the merger out",
            about="attention outside",
        )

    def biased(self, call: Call, x: Tensor, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The arguments of attention, with sizes and padding as its mask, and the table of the tokens that are left."""
        at, method = self.parts.mask_position, self.patch.method
        given = args[at] if at is not None and len(args) > at else kwargs.get(self.parts.mask)
        counted = call.size is not None or call.mask is not None or call.merged_any
        if call.real is not None and not call.merged_any and not self.sampled and not self.parts.written_out:
            return args, kwargs  # its own mask says the same
        if call.own_mask or call.real is not None or self.parts.pairs:  # it masks nothing, or what is known
            given = None
        merges = counted or method.expects(call, x.shape[1])
        for name in self.parts.refused if merges else ():
            if kwargs.get(name) is not None and kwargs[name] is not False:
                raise ValueError(f"patch: `{name}` must be left out in a patched model, got {shown(kwargs[name])}")
        if merges and (given is not None or kwargs.get("is_causal")):
            raise ValueError(
                f"patch: `{self.parts.mask}` must be None in a patched model, whose tokens no longer are the ones it "
                f"names, got {'a mask' if given is not None else 'is_causal=True'}"
            )
        if not counted:
            return args, kwargs
        kwargs = dict(kwargs)
        bias = bias_of(call, method.proportional, x)
        if at is not None and len(args) > at:
            args = (*args[:at], bias, *args[at + 1 :])
        elif bias is not None or self.parts.mask in kwargs:
            kwargs[self.parts.mask] = bias
        if self.parts.rotary and kwargs.get(self.parts.rotary) is not None:
            kwargs[self.parts.rotary] = call.rotary(kwargs[self.parts.rotary], x.shape[0])
        return args, kwargs


def bias_of(call: Call, proportional: bool, x: Tensor) -> Tensor | None:
    """Sizes, if they count, and padding of the last tokens of a call, as a bias of the keys that are made of `x`."""
    size, mask = (None if each is None else each[:, each.shape[1] - x.shape[1] :] for each in (call.size, call.mask))
    return key_bias(size if proportional else None, mask, attention_dtype(x))
