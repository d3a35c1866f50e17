"""ToMe and LTM around a branch of a network whose tokens lie on a map: the stream keeps its grid (docs/ltm.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch import ltm, tome
from tokenmerge.backends.torch.ltm import LTM
from tokenmerge.backends.torch.merger import Merger
from tokenmerge.backends.torch.patching.families import CannotPatch
from tokenmerge.backends.torch.patching.grids import Found
from tokenmerge.backends.torch.patching.hook import Patch
from tokenmerge.backends.torch.patching.marks import Role, mark
from tokenmerge.backends.torch.patching.method import Method, placed
from tokenmerge.backends.torch.patching.state import detached
from tokenmerge.backends.torch.plan import Plan
from tokenmerge.spec.shared.arguments import check_choice, check_integer, check_real
from tokenmerge.spec.shared.schedule import ltm_tokens_out

Tensor = torch.Tensor
Grid = tuple[int, int]


class Stage:
    """One run of a stage: the masks of its blocks, by the place of their tokens, and the grid of these."""

    def __init__(self, grid: Grid | None) -> None:
        self.grid = grid
        self.priors: dict[Any, Tensor] = {}


class GridMethod(Method):
    """A merger around a branch of every block on a map.

    Args:
        found: the blocks. around: "mlp" or "block".

    Raises:
        TypeError, ValueError: an option of the wrong type or range, or a branch that the family does not have.
    """

    def __init__(self, found: Found, *, around: str | None = "mlp") -> None:
        family = type(found.family).__name__
        self.found = found
        if around is None:
            raise ValueError(
                f"patch: `around` must be 'mlp' or 'block' in {family}, whose tokens keep their grid, got None"
            )
        check_choice("patch", "around", around, found.family.BRANCHES)
        self.around = around

    def merged_grid(self, grid: Grid) -> Grid | None:
        """Rows and columns that are left of a grid; None where merged tokens lie on none."""
        return None

    def plan(
        self, block: Any, x: Tensor, keys: Callable[[], Tensor], mask: Tensor | None, grid: Grid | None, prior: Any
    ) -> Plan:
        """The plan of samples `x (S,n,C)`; `prior` is the mask of the block before, or None."""
        raise NotImplementedError


class GridToMe(GridMethod):
    """ToMe in every sample: a window, or the patches of one pixel; `r` tokens of each are removed."""

    NAME = "tome"
    OPTIONS = ("r", "around")

    def __init__(self, found: Found, *, r: int | None = None, around: str | None = "mlp") -> None:
        super().__init__(found, around=around)
        if not found.family.METRIC:
            raise CannotPatch(
                f"patch: `name` must be 'ltm' for {type(found.family).__name__}, whose merged tokens have to lie on a "
                "grid, got 'tome'"
            )
        self.r = check_integer("patch", "r", r, minimum=0, hint="tokens of every sample")

    def plan(
        self, block: Any, x: Tensor, keys: Callable[[], Tensor], mask: Tensor | None, grid: Grid | None, prior: Any
    ) -> Plan:
        return tome.plan(x if self.around == "block" else keys(), r=self.r, mask=mask)


class GridLTM(GridMethod):
    """LTM in every sample; `prior` is None for pooling over the sequence, or "grid"."""

    NAME = "ltm"
    OPTIONS = ("compression_ratio", "prior_smoothing", "prior", "around")
    chained = True

    def __init__(
        self,
        found: Found,
        *,
        compression_ratio: float | None = None,
        prior_smoothing: float = 0.1,
        prior: str | None = None,
        around: str | None = "mlp",
    ) -> None:
        super().__init__(found, around=around)
        check_real("patch", "compression_ratio", compression_ratio, 0.0, 1.0, "(0, 1]")
        check_real("patch", "prior_smoothing", prior_smoothing, 0.0, 1.0, "[0, 1]")
        if prior is not None:
            check_choice("patch", "prior", prior, ("grid",))
        assert compression_ratio is not None
        self.ratio, self.smoothing = float(compression_ratio), float(prior_smoothing)
        self.on_grid = prior == "grid" or found.family.NEEDS_GRID

    def modules(self) -> dict[int, Merger]:
        blocks = enumerate(self.found.blocks)
        return {i: LTM(self.found.family.width(block), self.ratio, 0, self.smoothing) for i, block in blocks}

    def merged_grid(self, grid: Grid) -> Grid:
        return ltm.grid_tokens_out(grid, self.ratio)

    def plan(
        self, block: Any, x: Tensor, keys: Callable[[], Tensor], mask: Tensor | None, grid: Grid | None, prior: Any
    ) -> Plan:
        n, ratio, merger = x.shape[1], self.ratio, block.merger
        if self.on_grid and mask is None:
            if grid is None:
                raise RuntimeError("patch: a block must run in its stage, which knows the grid, got one that ran alone")
            fewer = self.merged_grid(grid)
            ratio = (fewer[0] * fewer[1] - 0.5) / n
            if prior is None:
                prior = ltm.grid_prior(grid, fewer, self.smoothing, dtype=merger.weight.dtype, device=x.device)
        if prior is not None and prior.shape[-2:] != (n, ltm_tokens_out(n, ratio)):
            prior = None
        return ltm.plan(
            x,
            weight=merger.weight,
            compression_ratio=ratio,
            prior_smoothing=self.smoothing,
            prior=prior if mask is None else None,
            mask=mask,
        )


METHODS: dict[str, type[GridMethod]] = {method.NAME: method for method in (GridToMe, GridLTM)}


class StageRole(Role):
    """A module that runs blocks one after another; masks chain inside."""

    def run(self, name: str, module: Any, original: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        method: Any = self.patch.method
        if method.chained and getattr(module, "grad_checkpointing", False) and torch.is_grad_enabled():
            raise RuntimeError(
                "patch: gradient checkpointing must be off with 'ltm', whose masks go from block to block, got "
                f"{type(module).__name__} with it"
            )
        stages = self.patch.thread.stages
        x = args[0] if args else next(iter(kwargs.values()))
        stages.append(Stage(method.found.family.grid(module, x)))
        try:
            return original(module, *args, **kwargs)
        finally:
            stages.pop()


class GridBlockRole(Role):
    """A block on a map; `learned` says whether it has a part `merger`."""

    def __init__(self, patch: Patch, index: int, learned: bool) -> None:
        super().__init__(patch)
        self.index, self.learned = index, learned

    def run(self, name: str, module: Any, original: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        method: Any = self.patch.method
        x = args[0] if args else next(iter(kwargs.values()))
        run = Making(self, module)
        return method.found.family.run(module, original, x, method.around, run)


class Making:
    """Merged tokens of a block, and the way back."""

    def __init__(self, role: GridBlockRole, block: Any) -> None:
        self.role, self.block = role, block
        self.grid = role.patch.method.merged_grid  # type: ignore[attr-defined]

    def __call__(
        self, x: Tensor, keys: Callable[[], Tensor], mask: Tensor | None, grid: Grid | None, place: Any
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        patch, stages = self.role.patch, self.role.patch.thread.stages
        method: Any = patch.method
        stage = stages[-1] if stages else Stage(None)
        plan = method.plan(self.block, x, keys, mask, grid or stage.grid, stage.priors.get(place))
        if method.chained and mask is None:
            stage.priors[place] = ltm.chain(plan)
        self._keep(plan, x.shape[1])
        return plan.merge_cleared(x), plan.unmerge_cleared

    def _keep(self, plan: Plan, tokens: int) -> None:
        last, index, depth = self.role.patch.thread.last, self.role.index, self.role.patch.depth
        plans = (None,) * depth if index == 0 or len(last.plans) < depth else last.plans
        last.plans = (*plans[:index], detached(plan), *plans[index + 1 :])
        last.sizes, last.around, last.num_tokens_in = (None,) * depth, True, tokens


def install_grid(model: nn.Module, found: Found, name: str, options: dict[str, Any]) -> Patch:
    """Roles and mergers, all of them or none.

    Raises:
        CannotPatch: a merger that drops or replaces tokens; TypeError, ValueError: a wrong option.
    """
    family = type(found.family).__name__
    if name not in METHODS:
        known = " or ".join(map(repr, METHODS))
        raise CannotPatch(f"patch: `name` must be {known} for {family}, whose tokens keep a grid, got {name!r}")
    for option, value in options.items():
        if option not in METHODS[name].OPTIONS:
            raise ValueError(f"patch: `{option}` must be left out for {name!r} in {family}, got {value!r}")
    method = METHODS[name](found, **({"around": "mlp"} | options))
    method.given = dict(options)
    mergers = {index: placed(merger, found.blocks[index]) for index, merger in method.modules().items()}
    patch = Patch(method, len(found.blocks), 0, type(model).__name__)
    for index, block in enumerate(found.blocks):
        mark(block, GridBlockRole(patch, index, index in mergers))
        if index in mergers:
            block.add_module("merger", mergers[index])
    for stage in found.stages:
        mark(stage, StageRole(patch))
    return patch
