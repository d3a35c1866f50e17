"""What a configured network costs, counted from shapes alone (docs/flops.md).

The unit is one multiply-add. Counted are the products of matrices: the patch embedding, the linear maps, both products
of attention, and the mergers' own products, which are reported separately. Not counted is what touches every number a
few times: norms, softmax, GELU, biases and residuals, LayerScale, means and pooling, sorting, gathers, the weighted
sums of a partition, and size bookkeeping. A padded slot counts as a token.
"""

from __future__ import annotations

from typing import NamedTuple

from tokenmerge.spec.shared.vit_config import ViTConfig, check_config
from tokenmerge.spec.shared.vit_steps import Step, steps


class BlockFlops(NamedTuple):
    """Multiply-adds of one block.

    Attributes:
        attention: queries, keys and values, both products of attention, and the projection.
        mlp: both linear maps.
        merging: the merger's own products.
    """

    attention: int
    mlp: int
    merging: int

    @property
    def total(self) -> int:
        return self.attention + self.mlp + self.merging


class Flops(NamedTuple):
    """Multiply-adds of a network for one image.

    Attributes:
        embed: the patch embedding.
        blocks: one entry per block.
        head: the classifiers.
    """

    embed: int
    blocks: tuple[BlockFlops, ...]
    head: int

    @property
    def merging(self) -> int:
        """What all mergers take together; part of the total."""
        return sum(block.merging for block in self.blocks)

    @property
    def total(self) -> int:
        return self.embed + sum(block.total for block in self.blocks) + self.head


def flops(config: ViTConfig) -> Flops:
    """Multiply-adds of a network for one image: `N` tokens enter a block, `P` leave it, `Q` attend.

        attention   3 N C^2 + 2 Q N C + Q C^2       Q = P in a block with ATS, else N
        mlp         2 T C D                         T = N in a block that PatchMerger follows, else P
        merging     ToMe ceil(N/2) floor(N/2) d, ATS N C, LTM 3 n P' C, PatchMerger 2 M N C
        around      LTM 4 n P' C, with unmerging; around a block its attention has P for N, and ToMe C for d

    Args:
        config: the network; `C` its width, `D` the width of its MLP, `d` that of a head. Without the protected tokens
            LTM takes `n` tokens and leaves `P'`.

    Returns:
        `Flops`.

    Raises:
        TypeError: no configuration; ValueError: one that contradicts itself.

    >>> from tokenmerge import ToMeMerging
    >>> flops(ViTConfig()).total, flops(ViTConfig(merging=ToMeMerging(r=16))).total
    (17563828224, 8774680064)
    """
    check_config("flops", config)
    rows, columns = config.grid
    classifiers = 2 if config.distillation_token else 1
    return Flops(
        embed=rows * columns * config.channels * config.patch_size**2 * config.dim,
        blocks=tuple(_block(config, step) for step in steps(config)),
        head=classifiers * config.dim * config.num_classes,
    )


def _block(config: ViTConfig, step: Step) -> BlockFlops:
    n, c = step.tokens_merged if step.around == "block" else step.tokens_in, config.dim
    queries = step.tokens_out if step.place == "attention" else n  # only the chosen ones attend
    through_mlp = n if step.place == "block" else step.tokens_merged
    return BlockFlops(
        attention=3 * n * c * c + 2 * queries * n * c + queries * c * c,
        mlp=2 * through_mlp * c * config.hidden_dim,
        merging=step.description.multiply_adds(step, config) if step.description else 0,
    )
