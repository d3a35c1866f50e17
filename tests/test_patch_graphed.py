"""A patched model in CUDA graphs: on a GPU for real, without one with a stand-in for the capture."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from tokenmerge.backends.torch import patch  # noqa: E402
from tokenmerge.backends.torch.patching import graphed  # noqa: E402


def network() -> Any:
    torch.manual_seed(0)
    options = {"img_size": 48, "patch_size": 16, "depth": 2, "embed_dim": 32, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", **options).eval()


def images(batch: int, seed: int = 0) -> Any:
    return torch.randn(batch, 3, 48, 48, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The CPU is taken for a GPU; a replay runs the call again, from where it read, to where it wrote."""
    captures: list[int] = []

    def captured(run: Any) -> Any:
        captures.append(1)
        written = run()
        return lambda: written.copy_(run()), written

    monkeypatch.setattr(graphed, "captured", captured)
    monkeypatch.setattr(graphed, "DEVICE", "cpu")
    return captures


def test_on_a_cpu_it_is_refused_in_a_sentence() -> None:
    with pytest.raises(
        RuntimeError, match="patch: `graphed` must be asked of a model on a CUDA device, got one on cpu"
    ):
        patch(network(), "tome", r=2).graphed()


def test_it_captures_once_for_a_shape_and_gives_what_the_model_gives(stand_in: list[int]) -> None:
    model = network()
    handle: Any = patch(model, "tome", r=2)
    run = handle.graphed()
    first = images(1)
    for x in (first, images(1, 1), images(2), images(1, 2)):
        want = model(x)
        wanted = [plan.assignment.clone() for plan in handle.plans]
        model(images(3, 9))  # somebody else's call in between
        got = run(x)
        assert torch.equal(got, want) and not got.requires_grad
        assert [plan.assignment.shape[0] for plan in handle.plans] == [len(x)] * 2
        assert handle.num_tokens == [8, 6] and len(wanted) == 2
    assert len(stand_in) == 2
    kept = run(first)
    run(images(1, 3))
    assert torch.equal(kept, model(first))  # results are copies


def test_another_rate_is_another_graph_and_the_oldest_goes(stand_in: list[int], monkeypatch: Any) -> None:
    monkeypatch.setattr(graphed, "MOST", 2)
    model = network()
    handle: Any = patch(model, "tome", r=2)
    run = handle.graphed()
    run(images(1))
    handle.r = 1
    assert torch.equal(run(images(1)), model(images(1))) and handle.num_tokens == [9, 8]
    run(images(2))
    assert len(stand_in) == 3
    handle.r = 2
    run(images(1))
    assert len(stand_in) == 4


def test_what_it_cannot_do_is_a_sentence(stand_in: list[int]) -> None:
    model = network()
    handle: Any = patch(model, "tome", r=2)
    run = handle.graphed()
    with pytest.raises(TypeError, match="patch: argument 0 of a graphed model must be a tensor or a plain value"):
        run([1])
    with pytest.raises(ValueError, match="patch: argument 0 of a graphed model must be on cpu, got one on meta"):
        run(images(1).to("meta"))
    model.train()
    with pytest.raises(RuntimeError, match="patch: `graphed` must be called in eval mode"):
        run(images(1))
    model.eval()
    handle.remove()
    with pytest.raises(RuntimeError, match="patch: `graphed` must be called while the model is patched"):
        run(images(1))
    assert not stand_in


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_graph_gives_the_bits_of_the_call(dtype: Any) -> None:
    model = network().to("cuda", dtype)
    handle: Any = patch(model, "tome", r=2)
    run = handle.graphed()
    for batch, seed in ((1, 0), (1, 1), (4, 2), (1, 3)):
        x = images(batch, seed).to("cuda", dtype)
        with torch.no_grad():
            want = model(x)
        wanted = [plan.assignment.clone() for plan in handle.plans]
        assert torch.equal(run(x), want)
        assert all(torch.equal(plan.assignment, own) for plan, own in zip(handle.plans, wanted, strict=True))
