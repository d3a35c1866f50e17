"""The counted multiply-adds are those that PyTorch's own counter sees, block by block, to the last one."""

from __future__ import annotations

from typing import Any

import pytest

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig, get_vit
from tokenmerge.spec.shared.flops import flops
from tokenmerge.spec.shared.vit_steps import Step, steps

SMALL: dict[str, Any] = dict(image_size=32, patch_size=8, dim=24, depth=3, heads=3, num_classes=5)
WIDE: dict[str, Any] = dict(image_size=(20, 28), patch_size=4, dim=8, depth=4, heads=2, mlp_dim=20, num_classes=3)
MEAN: dict[str, Any] = dict(pool="mean")

NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "without a head": {"num_classes": 0},
    "mean": MEAN,
    "no class token": {"class_token": False, **MEAN},
    "one channel": {"channels": 1},
    "distillation": {"distillation_token": True},
    "every part": {"register_tokens": 3, "qk_norm": True, "layer_scale": 0.1, "pre_norm": True, "qkv_bias": False},
    "tome": {"merging": ToMeMerging(r=4)},
    "tome, schedule": {"merging": ToMeMerging(r=(3, -1.0))},
    "tome, clamped": {"merging": ToMeMerging(r=8)},
    "tome, plain attention": {"merging": ToMeMerging(r=4, prop_attn=False)},
    "tome, registers": {"register_tokens": 3, "merging": ToMeMerging(r=4)},
    "tome, nothing protected": {"merging": ToMeMerging(r=4, protected=0)},
    "tome, mean": {"merging": ToMeMerging(r=4), **MEAN},
    "ats": {"merging": ATSMerging((9, 9, 4))},
    "ats, enough for all": {"merging": ATSMerging((500, 5))},
    "ats, registers": {"register_tokens": 2, "merging": ATSMerging((9,))},
    "ats, mean": {"merging": ATSMerging((9, 4)), **MEAN},
    "patch_merger": {"merging": PatchMergerMerging(num_tokens_out=6), **MEAN},
    "patch_merger, last": {"merging": PatchMergerMerging(3, 2), **MEAN},
    "patch_merger, more tokens": {"merging": PatchMergerMerging(1, 90), **MEAN},
    "ltm": {"merging": LTMMerging(0.6, around=None)},
    "ltm, chained": {"merging": LTMMerging(1.0, around=None)},
    "ltm, nothing protected": {"merging": LTMMerging(0.6, protected=0, around=None)},
    "ltm, mean": {"merging": LTMMerging(0.5, around=None), **MEAN},
    "ltm around mlp": {"merging": LTMMerging(0.6)},
    "ltm around mlp, mean": {"merging": LTMMerging(0.5), **MEAN},
    "ltm around block": {"register_tokens": 1, "merging": LTMMerging(0.5, around="block")},
    "tome around mlp": {"merging": ToMeMerging(r=4, around="mlp")},
    "tome around block": {"merging": ToMeMerging(r=4, around="block", protected=0), **MEAN},
    "tome restored": {"merging": ToMeMerging(r=4), "restore": True},
    "mixture": {
        "merging": {
            0: ATSMerging((12,)),
            1: ToMeMerging(r=3),
            2: LTMMerging(0.5, around=None),
        }
    },
    "mixture around": {"merging": {0: ATSMerging((12,)), 1: ToMeMerging(r=3, around="block"), 2: LTMMerging(0.5)}},
    "mixture, mean": {
        "register_tokens": 1,
        "merging": {0: ToMeMerging(r=3), 1: PatchMergerMerging(num_tokens_out=7), 2: LTMMerging(0.5, around=None)},
        **MEAN,
    },
}


@pytest.mark.parametrize("size", [SMALL, WIDE], ids=["small", "wide"])
@pytest.mark.parametrize("network", NETWORKS)
def test_flops_are_those_that_pytorch_counts(network: str, size: dict[str, Any]) -> None:
    config = ViTConfig(**size | NETWORKS[network])
    seen, counted = seen_by_pytorch(config, batch=2), flops(config)
    assert seen.get("patch_embed") == counted.embed
    assert seen.get("head", 0) + seen.get("head_dist", 0) == counted.head
    for index, (step, block) in enumerate(zip(steps(config), counted.blocks, strict=True)):
        assert seen[f"blocks.{index}.mlp"] == block.mlp
        assert seen[f"blocks.{index}"] == block.total + more_in_pytorch(config, step), f"block {index}"
    rest = sum(more_in_pytorch(config, step) for step in steps(config)) + pooling_product(config)
    assert seen[""] == counted.total + rest


def seen_by_pytorch(config: ViTConfig, batch: int) -> dict[str, int]:
    """Multiply-adds for one image by the name of the module; "" for the whole network.

    PyTorch counts two operations for each. It knows products and convolutions; attention is asked for in its written
    out form, because not every version of PyTorch knows what the fused one costs.
    """
    torch = pytest.importorskip("torch")
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = get_vit(config, backend="torch").eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(torch.randn(batch, config.channels, *config.image_shape))
    found = {}
    for name, operations in counter.get_flop_counts().items():
        each, rest = divmod(sum(operations.values()), 2 * batch)
        assert rest == 0, name
        found[name.partition(".")[2]] = each
    return found


def more_in_pytorch(config: ViTConfig, step: Step) -> int:
    """Products that our PyTorch makes in a block and that are not in the definition (positive), or the reverse."""
    n, p, c = step.tokens_in, step.tokens_merged, config.dim
    protected = dict(step.options).get("protected", 0)
    if step.merger == "tome":
        # protected tokens have similarity -inf by definition: theirs are never computed
        compared = (n + 1) // 2 * (n // 2)
        free = ((n + 1) // 2 - (protected + 1) // 2) * (n // 2 - protected // 2)
        return (free - compared) * (c if step.around == "block" else config.head_dim)
    if step.merger == "ltm":
        # protected tokens are in the products, with weight zero or one: in targets and step as columns, in the merge
        # as columns and rows, and so in unmerging; sizes are merged by a product
        whole = p * n - (p - protected) * (n - protected)
        more = 2 * (p - protected) * protected * c + whole * c * (1 if step.around is None else 2)
        if step.around != "mlp":
            more += 5 * p * n
        before = steps(config)[: steps(config).index(step)]
        masked = any(each.merger == "ats" for each in before)
        if not masked and not step.chained and (n - protected) % (p - protected) == 0:
            more -= (p - protected) * n * c  # windows that do not overlap: targets are means, not a product
        return more
    if step.merger == "patch_merger":
        return 5 * p * n  # sizes are merged by products, and nothing infinite beside a zero weight gets in
    return 0


def pooling_product(config: ViTConfig) -> int:
    """The mean over tokens of different sizes, or of real tokens only, is a product with the weights."""
    merged_before = False
    for step in steps(config):
        if step.around is None:
            merged_before = (merged_before or bool(step.merger)) and step.merger != "patch_merger"
    if config.pool != "mean" or not merged_before or config.restore:
        return 0
    last = steps(config)[-1]
    return (last.tokens_out - (last.prefix if last.merger != "patch_merger" else 0)) * config.dim


# Known numbers


def test_vit_base_is_the_network_everybody_knows() -> None:
    counted = flops(ViTConfig())
    assert {block.total for block in counted.blocks} == {1_453_954_560}  # docs/plan.md
    assert counted.merging == 0
    assert round(counted.total / 1e9, 2) == 17.56


@pytest.mark.parametrize(
    ("config", "blocks", "merging"),
    [
        (ViTConfig(merging=ToMeMerging(r=16)), 8_655_439_872, 2_866_688),  # docs/tome.md
        (ViTConfig(merging=PatchMergerMerging(), pool="mean"), 9_064_055_808, 2_420_736),  # docs/patch_merger.md
    ],
    ids=["tome", "patch_merger"],
)
def test_numbers_of_the_pages(config: ViTConfig, blocks: int, merging: int) -> None:
    counted = flops(config)
    assert sum(block.attention + block.mlp for block in counted.blocks) == blocks
    assert counted.merging == merging


def test_ats_counts_its_class_row_and_the_chosen_queries_only() -> None:
    full, sampled = (flops(ViTConfig(merging=merging)).blocks[0] for merging in (None, ATSMerging((100,))))
    assert sampled.merging == 151_296
    assert full.total - sampled.total == 28_897_536 + 96 * 5_308_416  # docs/ats.md


def test_ltm_counts_its_three_products() -> None:
    assert flops(ViTConfig(merging=LTMMerging(0.8, around=None))).blocks[0].merging == 3 * 23_632_896  # docs/ltm.md


def test_the_total_is_the_sum_of_the_parts() -> None:
    counted = flops(ViTConfig(**SMALL, merging=ToMeMerging(r=4)))
    parts = [counted.embed, counted.head, *(number for block in counted.blocks for number in block)]
    assert counted.total == sum(parts)
    assert 0 < counted.merging == sum(block.merging for block in counted.blocks)
