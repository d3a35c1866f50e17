"""The batched class of a merger that reads nothing but the tokens and learns nothing: it needs none of its own."""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import Any

import numpy as np

from tokenmerge.spec.batch_merger import Merger, merged, plan_each
from tokenmerge.spec.batch_plan import BatchPlan
from tokenmerge.spec.plan import Plan
from tokenmerge.spec.shared.calls import Calls
from tokenmerge.spec.shared.description import REQUIRED, Description
from tokenmerge.spec.shared.merged import Merged

Array = np.ndarray[Any, Any]
check = Calls(np.ndarray)
KIND = Parameter.POSITIONAL_OR_KEYWORD


def plain(description: Description) -> type[Merger]:
    """A class with the options of a description, whose plan is the law's for every sample."""

    class Plain(Merger):
        NAME = description.name

        def __init__(self, *given: Any, **options: Any) -> None:
            bound = Plain.__signature__.bind(*given, **options)
            bound.apply_defaults()
            self.options: dict[str, Any] = dict(bound.arguments)
            description.check(**self.options)

        def plan(self, x: Array, *, mask: Array | None = None) -> BatchPlan:
            check.tokens(description.name, x, None)
            check.optional(description.name, "mask", mask, "N", "bool", **check.batch(x), N=x.shape[1])

            def one(x: Array, mask: Array | None) -> Plan:
                made: Plan = description.plan(x, mask=mask, **self.options)
                return made

            return plan_each(one, x, mask)

        def __call__(self, x: Array, *, size: Array | None = None, mask: Array | None = None) -> Merged:
            check.tokens(description.name, x, size)
            plan = self.plan(x, mask=mask)
            return merged(plan, x, size, plan.mask)

        __signature__ = Signature(
            [
                Parameter(
                    name, Parameter.POSITIONAL_OR_KEYWORD, default=Parameter.empty if value is REQUIRED else value
                )
                for name, value in description.options.items()
            ]
        )

    Plain.__name__ = Plain.__qualname__ = description.title
    return Plain
