"""From the options of a command to the merging of a configuration: one translation for every command."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tokenmerge.spec.mergers import MERGERS
from tokenmerge.spec.shared.arguments import check_choice, check_names, shown
from tokenmerge.spec.shared.description import Merging

NONE = "none"
NAMES = (*MERGERS, NONE)


def merging_from_options(merger: str, *, owner: str = "merging", **options: Any) -> Merging | None:
    """The merging that a merger's name and its one option say.

    Args:
        merger: one of `NAMES`.
        owner: who asks, the first word of a sentence about a mistake.
        **options: by the names of the mergers' knobs (`r`, `max_tokens`, `num_tokens_out`, `compression_ratio`), None
            where one is not given; as numbers, or as a command line has them: integers with commas between.

    Returns:
        What goes into `ViTConfig(merging=...)`; None for "none".

    Raises:
        TypeError, ValueError: an unknown merger; its option is missing, or of the wrong type or range; an option of
            another merger is given.

    >>> merging_from_options("tome", r="16")
    ToMeMerging(r=16, prop_attn=True, order='grouped', protected=None, around=None)
    >>> merging_from_options("ats", max_tokens="128,64").max_tokens
    (128, 64)
    """
    check_choice(owner, "merger", merger, NAMES)
    knobs = dict.fromkeys(description.knob for description in MERGERS.values())
    check_names(owner, options, knobs, "option")
    needed = None if merger == NONE else MERGERS[merger].knob
    for name, value in (knobs | options).items():
        option = name.replace("_", "-")
        if name == needed and value is None:
            raise ValueError(f"{owner}: `{option}` must be given with the merger {merger}, got nothing")
        if name != needed and value is not None:
            takes = f"takes `{needed.replace('_', '-')}`" if needed else "takes no option"
            raise ValueError(
                f"{owner}: `{option}` must be left out with the merger {merger}, which {takes}, got {shown(value)}"
            )
    if needed is None:
        return None
    try:
        value = MERGERS[merger].read(options[needed]) if isinstance(options[needed], str) else options[needed]
    except ValueError as error:
        option = needed.replace("_", "-")
        raise ValueError(f"{owner}: `{option}` {error}, got {shown(options[needed])}") from None
    return MERGERS[merger].merging(**{needed: value})


def on_stream(merging: Merging | None) -> Merging | None:
    """The same where tokens merge for good: what acts around a branch leaves no groups to be seen.

    >>> on_stream(MERGERS["ltm"].merging(0.5)).around
    """
    return replace(merging, around=None) if merging is not None and merging.around else merging  # type: ignore[type-var]


def patch_options(merger: str, *, owner: str = "patch", **options: Any) -> dict[str, Any]:
    """The options of `tokenmerge.patch` that a merger's one option on the command line says.

    Raises:
        TypeError, ValueError: as `merging_from_options`.

    >>> patch_options("ats", max_tokens="128,64")
    {'max_tokens': (128, 64)}
    """
    made = merging_from_options(merger, owner=owner, **options)
    return {} if made is None else {made.DESCRIPTION.knob: made.knob}


def network_options(merging: Merging | None) -> dict[str, Any]:
    """Options of `ViTConfig` for a merging, with what the network needs to live with it.

    >>> network_options(MERGERS["patch_merger"].merging())["pool"]
    'mean'
    """
    return {"merging": merging, **(merging.NETWORK if merging else {})}
