"""Whole networks as ONNX models, by the exporter as it is: no table of ours, few nodes, any batch, the same logits."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import pytest

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig, get_vit, patch

torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")
timm = pytest.importorskip("timm")

SMALL = dict(image_size=32, patch_size=4, dim=24, depth=3, heads=3, num_classes=5)
OURS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tome": {"merging": ToMeMerging(r=7)},
    "tome, by position": {"merging": ToMeMerging(r=7, order="positional")},
    "tome, by score": {"merging": ToMeMerging(r=7, order="score")},
    "ats": {"merging": ATSMerging((30, 20))},
    "ats, then tome": {"merging": {0: ATSMerging((30,)), 1: ToMeMerging(r=7)}},
    "patch_merger": {"merging": PatchMergerMerging(num_tokens_out=6), "pool": "mean", "class_token": False},
    "ltm": {"merging": LTMMerging(0.7)},
}
PATCHED: dict[str, dict[str, Any]] = {
    "plain": {},
    "tome": {"r": 4},
    "ats": {"max_tokens": (14, 12, 8)},
    "patch_merger": {"num_tokens_out": 6},
    "ltm": {"compression_ratio": 0.7},
}
NODES_OF_A_BLOCK = 45  # most that a merge adds to a block


def exported(model: Any, image: Any) -> onnx.ModelProto:
    program = torch.onnx.export(
        model, (image,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False
    )
    return program.model_proto


def check(model: Any, made: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    """The model in ONNX Runtime gives eager logits for three sizes of the batch, within what float32 rounding does."""
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    exact = model.double()
    for batch in (1, 2, 5):
        images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
        (got, *_) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.no_grad():
            want = exact(images.double())
            own = model.float()(images)
            exact = model.double()
        want, own = (out if isinstance(out, torch.Tensor) else out.logits for out in (want, own))
        budget = 16 * max((own - want).abs().max().item(), np.finfo(np.float32).eps * want.abs().max().item())
        assert abs(got - want.numpy()).max() <= budget


@functools.cache
def ours(name: str) -> onnx.ModelProto:
    torch.manual_seed(0)
    return exported(get_vit(ViTConfig(**SMALL, **OURS[name]), backend="torch").eval(), torch.zeros(2, 3, 32, 32))


def timm_model(name: str) -> Any:
    torch.manual_seed(0)
    pooling = {"class_token": False, "global_pool": "avg"} if name == "patch_merger" else {}
    model = timm.create_model("vit_tiny_patch16_224", img_size=80, depth=3, num_classes=5, **pooling).eval()
    if name != "plain":
        patch(model, name, **PATCHED[name])
    return model


@functools.cache
def patched(name: str) -> onnx.ModelProto:
    return exported(timm_model(name), torch.zeros(2, 3, 80, 80))


@pytest.mark.parametrize("name", OURS)
def test_our_network_in_onnx_runtime(name: str) -> None:
    torch.manual_seed(0)
    model = get_vit(ViTConfig(**SMALL, **OURS[name]), backend="torch").eval()
    check(model, ours(name), (3, 32, 32))


@pytest.mark.parametrize("name", PATCHED)
def test_a_patched_model_in_onnx_runtime(name: str) -> None:
    check(timm_model(name), patched(name), (3, 80, 80))


@pytest.mark.parametrize("name", ["tome", "ats", "patch_merger", "ltm"])
def test_a_merge_adds_few_nodes(name: str) -> None:
    blocks = 1 if name == "patch_merger" else 3
    more = len(patched(name).graph.node) - len(patched("plain").graph.node)
    assert more <= NODES_OF_A_BLOCK * blocks


def nodes_for_logits(made: onnx.ModelProto) -> int:
    """Our networks give sizes and plans besides, which cost some nodes of their own."""
    wanted, count = {made.graph.output[0].name}, 0
    for node in reversed(made.graph.node):  # which come after what they depend on
        if wanted & set(node.output):
            wanted |= set(node.input)
            count += 1
    return count


@pytest.mark.parametrize(("name", "blocks"), [("tome", 3), ("ats", 2), ("patch_merger", 1), ("ltm", 3)])
def test_a_merge_adds_few_nodes_to_our_network(name: str, blocks: int) -> None:
    assert nodes_for_logits(ours(name)) - nodes_for_logits(ours("plain")) <= NODES_OF_A_BLOCK * blocks


@pytest.mark.parametrize("name", PATCHED)
def test_every_runtime_has_the_operators(name: str) -> None:
    made = patched(name)
    assert not made.functions
    assert {node.domain for node in made.graph.node} == {""}
    types = {value.type.tensor_type.elem_type for value in made.graph.value_info}
    assert onnx.TensorProto.DOUBLE not in types


@pytest.mark.parametrize("masked", [False, True])
def test_an_exported_ats_decides_as_the_eager_one(masked: bool) -> None:
    """Ties, samples without any significance, and masks, of the class token too."""
    from tokenmerge import get_merger

    generator = torch.Generator().manual_seed(0)
    attn = torch.randint(0, 3, (6, 2, 9), generator=generator) / 8
    value = torch.randint(0, 2, (6, 2, 9, 4), generator=generator).float()
    attn[0], value[1], attn[2, :, 1:] = 0, 0, 0
    arguments = {"attn": attn, "value": value}
    if masked:
        arguments["mask"] = torch.rand(6, 9, generator=generator) < 0.6
        arguments["mask"][3] = False
    for tokens in (1, 3, 8):
        merger = get_merger("ats", backend="torch", max_tokens=tokens)
        x = torch.ones(6, 9, 8)
        got, want = torch.export.export(merger, (x,), arguments).module()(x, **arguments), merger(x, **arguments)
        assert torch.equal(got.plan.indices, want.plan.indices)
        assert torch.equal(got.plan.mask, want.plan.mask)


@pytest.mark.parametrize("masked", [False, True])
def test_an_exported_ats_keeps_the_tokens_in_front(masked: bool) -> None:
    """Class, distillation and register tokens, of which the mask of the first alone is looked at."""
    from tokenmerge.backends.torch.ats import ATS
    from tokenmerge.backends.torch.vit import sample

    class Sampled(torch.nn.Module):
        def forward(self, row: Any, value: Any, mask: Any) -> Any:
            made = sample(ATS(3), row, value, 3, mask)
            return made.indices, made.mask

    generator = torch.Generator().manual_seed(0)
    row = torch.randint(0, 3, (6, 2, 9), generator=generator) / 8
    value = torch.randint(0, 2, (6, 2, 9, 4), generator=generator).float()
    row[0], value[1] = 0, 0
    mask = torch.rand(6, 9, generator=generator) < 0.6 if masked else None
    program, eager = torch.export.export(Sampled(), (row, value, mask)).module(), Sampled()
    for got, want in zip(program(row, value, mask), eager(row, value, mask), strict=True):
        assert torch.equal(got, want)


def test_ties_go_to_the_lower_index_in_the_exported_program() -> None:
    """Equal tokens everywhere: every runtime of the program has to decide as eager PyTorch does."""
    from tokenmerge import get_merger

    for order in ("grouped", "positional", "score"):
        merger = get_merger("tome", backend="torch", r=5, protected=1, order=order)
        x = torch.ones(2, 17, 8)
        program = torch.export.export(merger, (x,)).module()
        assert torch.equal(program(x).plan.assignment, merger(x).plan.assignment)
