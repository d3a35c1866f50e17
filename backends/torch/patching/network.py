"""What happens around the functions of a network that run all of its blocks, and around the heads that read it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch import observers
from tokenmerge.backends.torch.patching.hook import Patch
from tokenmerge.backends.torch.patching.marks import Role
from tokenmerge.backends.torch.patching.parts import BEFORE, hook_part
from tokenmerge.backends.torch.patching.pooling import Pooling, counted
from tokenmerge.backends.torch.patching.readers import check_readers
from tokenmerge.backends.torch.patching.state import Call, Reader
from tokenmerge.backends.torch.patching.trained import look_at_wrappers

Tensor = torch.Tensor


class PoolsInParts(Role):
    """A module some of whose parts pool tokens: `pools` are their names and hooks, put back where one is replaced."""

    def __init__(self, patch: Patch, pools: Sequence[tuple[str, Any]]) -> None:
        super().__init__(patch)
        self.pools = tuple(pools)

    def look_at_parts(self, module: nn.Module) -> None:
        """Hook the parts that lack their hook.

        Raises:
            RuntimeError: one is missing while a compiler reads this.
        """
        for path, hook in self.pools:
            try:
                part = module.get_submodule(path)
            except AttributeError:  # it was taken out, and with it the pooling
                continue
            if hook.name not in getattr(part, BEFORE):
                if observers.is_compiling():
                    raise RuntimeError(f"patch: `model` must be patched again, got {path} that is new")
                hook_part(part, hook, kwargs=True)


class HeadRole(PoolsInParts):
    """A model around the network that pools by itself, in front of a part of its own."""

    reads = True

    def run(self, name: str, module: Any, original: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        self.look_at_parts(module)
        readers = self.patch.thread.readers
        readers.append(Reader())
        try:
            return original(module, *args, **kwargs)
        finally:
            readers.pop()


class LoopRole(Role):
    """A module that runs lists in its own loop: here they are blocks."""

    def run(self, name: str, module: Any, original: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        x = args[0]
        for layer in module.layers:
            x = layer(x)
        return module.norm(x)


class NetworkRole(PoolsInParts):
    """The network. Every function in `doors` runs its blocks; a door's value says whether it lays tokens out on a grid,
    given its name and what it was called with.

    Args:
        patch: whose it is. doors: by name. pools: parts that pool. pooling: how its method `pool_name` pools; None for
            a network without one.
        makes_mask: the argument without which it makes a mask that masks nothing; "" for none.
        num_patches: from the module, how many patches an image of the usual size has.
        takes_mask: whether that argument, of two or three axes, says which tokens are real.
    """

    def __init__(
        self,
        patch: Patch,
        doors: dict[str, Callable[..., bool]],
        pools: Sequence[tuple[str, Any]],
        pooling: Pooling | None,
        makes_mask: str,
        num_patches: Callable[[Any], int | None] | None = None,
        pool_name: str = "pool",
        takes_mask: bool = False,
    ) -> None:
        super().__init__(patch, pools)
        self.doors, self.pooling, self.makes_mask = doors, pooling, makes_mask
        self.num_patches = num_patches
        self.pool_name, self.takes_mask = pool_name, takes_mask
        self.methods = (*doors, *(() if pooling is None else (pool_name,)))

    def tokens_of(self, module: nn.Module) -> int | None:
        """The tokens of an image of the usual size, as the module is now; None if that is open."""
        patches = None if self.num_patches is None else self.num_patches(module)
        return None if patches is None else self.patch.prefix + patches

    def run(self, name: str, module: Any, original: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        if name == self.pool_name:
            return self._pool(module, original, *args, **kwargs)
        self.look_at_parts(module)
        thread = self.patch.thread
        call = thread.call()
        if call is not None and not call.started and not call.by_block:  # a function that calls another one
            return original(module, *args, **kwargs)
        thread.drop_stale()
        call = Call(around=self.patch.method.around is not None)
        given = self._mask_of(original, args, kwargs)
        call.own_mask = bool(self.makes_mask) and given is None
        if self.takes_mask and isinstance(given, Tensor) and given.ndim in (2, 3):
            call.take_mask(given, self.makes_mask)
        depth = len(thread.stack)
        thread.stack.append(call)
        grid = self.doors[name](name, args, kwargs)
        try:
            output = original(module, *args, **kwargs)
            if grid and self._shrunk(call):
                raise self._refusal(module, name)
        except (RuntimeError, ValueError) as error:
            if grid and self._shrunk(call) and not str(error).startswith("patch: "):
                raise self._refusal(module, name) from error
            raise
        finally:
            del thread.stack[depth:]
        self._end(name, module, call, output)
        if self.patch.learned and not observers.is_compiling():
            look_at_wrappers(self.patch, module)
        return output

    def _mask_of(self, original: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """The argument that says which tokens are real, by its name or its place."""
        if not args or not self.makes_mask or self.makes_mask in kwargs:
            return kwargs.get(self.makes_mask)
        names = list(inspect.signature(original).parameters)[1:]
        at = names.index(self.makes_mask) if self.makes_mask in names else len(args)
        return args[at] if at < len(args) else None

    def _pool(self, module: Any, original: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
        """The network's own method of that name, with merged tokens weighted by size."""
        assert self.pooling is not None
        counts = counted(self.patch, x)
        if counts is None:
            return original(module, x, *args, **kwargs)
        return self.pooling(module, original, counts, x, *args, **kwargs)

    def _shrunk(self, call: Call) -> bool:
        return call.merged_any and not self.patch.restore

    def _refusal(self, module: nn.Module, name: str) -> RuntimeError:
        return RuntimeError(
            f"patch: {type(module).__name__}.{name} lays tokens out on a grid, which merged tokens have left, and "
            "must be given restored ones (patch with restore=True, or `unmerge` what `forward_features` gives)"
        )

    def _end(self, name: str, module: nn.Module, call: Call, output: Any) -> None:
        patch = self.patch
        own = [each for each in ("forward_head", self.pool_name) if callable(module.__dict__.get(each))]
        if own and name == "forward" and self._shrunk(call):
            raise RuntimeError(
                f"patch: `{own[0]}` of {patch.name} must be that of its class, whose way to read tokens is known, got "
                "another on the instance (patch with restore=True, which gives it all tokens)"
            )
        if len(call.plans) < patch.depth:
            patch.thread.last.keep(call)  # it has stopped early: what is older must not be taken for it
            if name in ("forward", "forward_features"):
                patch.say(
                    f"{len(call.plans)} of {patch.depth} blocks of {patch.name} ran as they were patched in a call of "
                    f"`{name}`, and the others merged nothing (were they replaced after `patch`?)"
                )
        if patch.thread.readers:
            patch.thread.readers[-1].call = call
        check_readers(patch, call, output)
