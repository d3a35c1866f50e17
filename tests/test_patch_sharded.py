"""Patched models in the wrappers that share a model between processes: the same numbers, and true warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from patch_cases import images, near, vit  # noqa: E402
from torch.distributed._composable.replicate import replicate  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard  # noqa: E402

from tokenmerge.backends.torch import patch  # noqa: E402
from tokenmerge.backends.torch.patching import CannotPatch, handle  # noqa: E402

MERGERS: dict[str, dict[str, Any]] = {
    "tome": {"r": 3},
    "ats": {"max_tokens": (9, 6)},
    "ltm": {"compression_ratio": 0.6, "around": None},
}


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def sharded(model: Any) -> Any:
    return fully_shard(model, mesh=init_device_mesh("cpu", (1,)))


def block_by_block(model: Any) -> Any:
    for block in model.blocks:
        sharded(block)
    return sharded(model)


def flat(model: Any) -> Any:
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"))


def flat_with_names(model: Any) -> Any:
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


# the last two say things of their own about a single process
pytestmark = pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`")
WRAPPERS: list[Callable[[Any], Any]] = [sharded, block_by_block, replicate, flat, flat_with_names]


def logits_and_gradient(model: Any) -> tuple[Any, Any]:
    x = images().requires_grad_()
    logits = model(x)
    logits.square().mean().backward()
    return logits.detach(), x.grad


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("merger", MERGERS)
def test_a_patched_model_can_be_wrapped(merger: str, wrap: Callable[[Any], Any]) -> None:
    model = vit()
    patch(model, merger, **MERGERS[merger])
    wanted = logits_and_gradient(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="patch: ")
        got = logits_and_gradient(wrap(model))
    assert all(near(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_wrapped_model_can_be_patched(wrap: Callable[[Any], Any]) -> None:
    model = vit()
    with patch(model, "tome", r=3):
        wanted = logits_and_gradient(model)
    wrapped = wrap(vit())
    plain = logits_and_gradient(wrapped)
    with patch(wrapped, "tome", r=3):
        assert all(near(a, b) for a, b in zip(logits_and_gradient(wrapped), wanted, strict=True))
    assert near(logits_and_gradient(wrapped)[0], plain[0])


@pytest.mark.parametrize("wrap", WRAPPERS[:3])
@pytest.mark.parametrize("merger", ["tome", "ats"])
def test_blocks_are_checkpointed_inside_of_a_wrapper(merger: str, wrap: Callable[[Any], Any]) -> None:
    """A block gets other tensors from FSDP than those that the checkpoint keeps."""
    model = vit()
    patch(model, merger, **MERGERS[merger])
    wanted = logits_and_gradient(model)
    model.set_grad_checkpointing(True)
    model.train()
    assert all(near(a, b) for a, b in zip(logits_and_gradient(wrap(model)), wanted, strict=True))


def test_a_patch_is_taken_off_what_was_sharded_after_it() -> None:
    model = vit()
    wanted = logits_and_gradient(model)[0]
    patch(model, "tome", r=3)
    block_by_block(model)
    logits_and_gradient(model)
    handle(model).remove()
    assert near(logits_and_gradient(model)[0], wanted)


@pytest.mark.parametrize("wrap", [sharded, block_by_block, replicate, flat_with_names])
def test_parameters_that_come_too_late_for_a_wrapper(wrap: Callable[[Any], Any]) -> None:
    wrapped = wrap(vit())
    with pytest.warns(UserWarning, match=r"^patch: the parameters of 'ltm' will not be averaged .* because \w+ was"):
        patch(wrapped, "ltm", compression_ratio=0.6)
        logits_and_gradient(wrapped)


def test_blocks_whose_parameters_somebody_else_holds() -> None:
    wrapped = flat(vit())
    with (
        pytest.warns(UserWarning, match=r"will not be averaged"),
        pytest.raises(CannotPatch, match=r"^patch: `model` must have parameters in its blocks, .*, got Block without"),
    ):
        patch(wrapped, "ltm", compression_ratio=0.6)
