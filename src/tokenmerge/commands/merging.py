"""From the options of a command to the merging of a configuration: one translation for every command."""

from __future__ import annotations

from typing import Any

from tokenmerge.spec.shared.arguments import check_choice
from tokenmerge.spec.shared.vit_config import ATSMerging, LTMMerging, Merging, PatchMergerMerging, ToMeMerging

# what each merger is configured by; the options are those of the command line
NEEDS = {"tome": "r", "ats": "max_tokens", "patch_merger": "num_tokens_out", "ltm": "compression_ratio", "none": None}


def merging_from_options(
    merger: str,
    *,
    r: str | int | None = None,
    max_tokens: str | int | None = None,
    num_tokens_out: int | None = None,
    compression_ratio: float | None = None,
    owner: str = "merging",
) -> Merging | None:
    """The merging that a merger's name and its one option say.

    Args:
        merger: "tome", "ats", "patch_merger", "ltm" or "none".
        r: of ToMe, tokens to remove in every block; or a text of integers with commas between, one per block.
        max_tokens: of ATS, a text of integers with commas between: the budgets of the first blocks.
        num_tokens_out: of PatchMerger, the tokens it makes, after half of the blocks.
        compression_ratio: of LTM, the compression ratio of every block.
        owner: who asks, the first word of a sentence about a mistake.

    Returns:
        What goes into `ViTConfig(merging=...)`; None for "none".

    Raises:
        TypeError, ValueError: an unknown merger; its option is missing, or of the wrong type or range; an option of
            another merger is given.

    >>> merging_from_options("tome", r="16")
    ToMeMerging(r=16, prop_attn=True, order='grouped', protected=None)
    >>> merging_from_options("ats", max_tokens="128,64").max_tokens
    (128, 64)
    """
    check_choice(owner, "merger", merger, NEEDS)
    given: dict[str, Any] = {
        "r": r,
        "max_tokens": max_tokens,
        "num_tokens_out": num_tokens_out,
        "compression_ratio": compression_ratio,
    }
    needed = NEEDS[merger]
    for name, value in given.items():
        option = name.replace("_", "-")
        if name == needed and value is None:
            raise ValueError(f"{owner}: `{option}` must be given with the merger {merger}")
        if name != needed and value is not None:
            takes = f"takes `{needed.replace('_', '-')}`" if needed else "takes no option"
            raise ValueError(f"{owner}: `{option}` must be left out with the merger {merger}, which {takes}")
    if merger == "tome":
        amounts = _integers(owner, "r", r)
        return ToMeMerging(r=amounts[0] if len(amounts) == 1 else amounts)
    if merger == "ats":
        return ATSMerging(tuple(_integers(owner, "max-tokens", max_tokens)))
    if merger == "patch_merger":
        assert num_tokens_out is not None
        return PatchMergerMerging(num_tokens_out=num_tokens_out)
    if merger == "ltm":
        assert compression_ratio is not None
        return LTMMerging(compression_ratio=compression_ratio)
    return None


def patch_options(merger: str, *, owner: str = "patch", **options: Any) -> dict[str, Any]:
    """The options of `tokenmerge.patch` that a merger's one option on the command line says.

    Raises:
        TypeError, ValueError: as `merging_from_options`.

    >>> patch_options("ats", max_tokens="128,64")
    {'max_tokens': (128, 64)}
    """
    made = merging_from_options(merger, owner=owner, **options)
    needed = NEEDS[merger]
    return {} if needed is None else {needed: getattr(made, needed)}


def network_options(merging: Merging | None) -> dict[str, Any]:
    """Options of `ViTConfig` for a merging: PatchMerger leaves no class token, so the network must pool.

    The last norm stays where a checkpoint of a class-token network has it.

    >>> network_options(PatchMergerMerging())["pool"]
    'mean'
    """
    pools = {"pool": "mean", "fc_norm": False} if isinstance(merging, PatchMergerMerging) else {}
    return {"merging": merging, **pools}


def _integers(owner: str, option: str, text: str | int | None) -> list[int]:
    try:
        return [int(part) for part in str(text).split(",")]
    except ValueError:
        message = f"{owner}: `{option}` must be integers with commas between, got {text!r}"
        raise ValueError(message) from None
