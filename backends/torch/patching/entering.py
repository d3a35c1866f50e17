"""Which call a block belongs to that begins: the rules, in the order in which they are tried."""

from __future__ import annotations

import torch

from tokenmerge.backends.torch import observers
from tokenmerge.backends.torch.patching.hook import Patch
from tokenmerge.backends.torch.patching.recompute import Tokens
from tokenmerge.backends.torch.patching.state import Call

Tensor = torch.Tensor
AT_ONCE = 8  # calls begun by a first block that may wait between blocks


def call_of(patch: Patch, index: int, name: str, x: Tensor) -> Call | None:
    """The call of a block; None for a block on its own, in which nothing merges.

    Raises:
        RuntimeError: the tokens are not those that a call knows the sizes of.
    """
    call = patch.thread.call()
    if call is not None and call.inside:
        return None if index else _begin(patch)
    compiling = observers.is_compiling()
    again = not compiling and observers.in_backward()
    if call is None or call.by_block or again or len(call.plans) != index:  # otherwise the network runs its next block
        call = _found(patch, index, name, x, compiling, again)
        if call is None:
            return None
    _check(patch, call, name, x)
    if not compiling and call.known is None:
        patch.memory.keep(index, x, call)
    return call


def _found(patch: Patch, index: int, name: str, x: Tensor, compiling: bool, again: bool) -> Call | None:
    call = None if compiling else _waiting_for(patch, x)
    if call is None and again:
        call = _again(patch, index, name, x)
    if call is None:
        call = _next(patch, index, name)
    if call is None:
        return None
    if len(call.plans) > index:
        if index == 0:
            return _begin(patch)
        raise RuntimeError(
            f"patch: the blocks of a patched model must run one after another, got {name} after block "
            f"{len(call.plans) - 1}"
        )
    _skip(patch, call, index, name)
    return call


def _waiting_for(patch: Patch, x: Tensor) -> Call | None:
    """The call whose last block returned these very tokens."""
    for call in patch.thread.between_blocks():
        if call.given is not None and call.given() is x:
            patch.thread.innermost(call)
            return call
    return None


def _again(patch: Patch, index: int, name: str, x: Tensor) -> Call:
    """A block runs again in a backward pass."""
    method = patch.method
    call = patch.memory.again(index, x, method.chained, patch.restore)
    if call is None:
        raise RuntimeError(
            f"patch: a block that runs again in a backward pass must be given the tokens that it had, got {name} with "
            "others"
        )
    stack = patch.thread.stack
    stack[:] = [each for each in stack if each.known is None or each.inside]
    stack.append(call)
    return call


def _next(patch: Patch, index: int, name: str) -> Call | None:
    """The call that is at this block."""
    thread = patch.thread
    call = thread.call()
    waiting = thread.between_blocks()
    if not waiting:
        if index == 0 and (call is None or call.started):
            return _begin(patch)
        if call is None:
            patch.say(f"{name} ran without the blocks before it, and merged nothing")
        return call
    if index == 0:
        return _begin(patch)
    fitting = [each for each in waiting if len(each.plans) == index and each.known is None]
    if len(fitting) > 1:
        raise RuntimeError(
            f"patch: calls of a patched model must not take turns block by block with tokens that somebody changed in "
            f"between, got {len(fitting)} calls that are at {name}"
        )
    if not fitting:
        patch.say(f"{name} ran without the blocks before it, and merged nothing")
        return None
    thread.innermost(fitting[0])
    return fitting[0]


def _begin(patch: Patch) -> Call:
    thread = patch.thread
    for call in thread.between_blocks()[AT_ONCE:]:
        thread.drop(call)
    call = Call(by_block=True, around=patch.method.around is not None)
    thread.stack.append(call)
    return call


def _skip(patch: Patch, call: Call, index: int, name: str) -> None:
    """Blocks that did not run have no plan."""
    missing = range(len(call.plans), index)
    for _ in missing:
        call.next_plan()
        call.counts.append(call.counts[-1] if call.counts else 0)
    if missing:
        patch.say(
            f"block {', '.join(map(str, missing))} of {patch.name} did not run as it was patched (skipped or "
            "replaced), and merged nothing"
        )


def _check(patch: Patch, call: Call, name: str, x: Tensor) -> None:
    """The tokens are as many as the last block returned, and where they are restored the same ones."""
    if not call.merged_any or not call.counts:
        return
    count = call.counts[-1]
    if x.shape[1] != count:
        raise RuntimeError(
            f"patch: {name} must be given the {count} tokens that the block before it returned, whose sizes are known, "
            f"got {x.shape[1]}"
        )
    if call.size is not None and x.shape[0] != call.size.shape[0]:
        raise RuntimeError(
            f"patch: {name} must be given the {call.size.shape[0]} images that the block before it returned, got "
            f"{x.shape[0]}"
        )
    if call.given is None or call.given.is_still(x):
        return
    given = call.given()
    if not patch.restore and (given is x or not _are_copies(given, x)):
        patch.say(
            f"{name} is given other tokens than the block before it returned; they are taken to be the same ones in "
            "the same order, as large as before",
            about="tokens between blocks",
        )
    if patch.restore:
        raise RuntimeError(
            f"patch: {name} must be given what the block before it returned where tokens are restored, got something "
            "else"
        )


def _are_copies(given: Tensor | None, x: Tensor) -> bool:
    """Whether tokens are those that somebody has only detached, or cast or moved as wrappers do."""
    if given is None:
        return False
    return given.dtype != x.dtype or given.device != x.device or Tokens(given).are(x)
