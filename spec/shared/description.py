"""What a merger says about itself: names, options, what it reads, and what it does to the tokens of a network.

Framework-free. One `Description` per merger stands in its own file of the law (`spec/tome.py`, ...), and all of them in
`spec/mergers.py`; whoever needs to know something of every merger looks it up there and names none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tokenmerge.spec.shared.arguments import check_choice, check_integer, plain, shown

if TYPE_CHECKING:
    from tokenmerge.spec.shared.vit_config import ViTConfig
    from tokenmerge.spec.shared.vit_steps import Step

REQUIRED = object()  # the default of an option that has to be given
PLACES = ("attention", "mlp", "block")
BRANCHES = ("mlp", "block")
SIZES = ("added", "kept", "fresh")
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Move(NamedTuple):
    """What one block with a merger does to its tokens, from shapes alone.

    Attributes:
        tokens_out: tokens that leave the merger.
        options: of the merger, in the order of its constructor, without what the shapes say.
        prior: the shape of the mask that it hands on, where it chains; None where it has none.
    """

    tokens_out: int
    options: tuple[tuple[str, Any], ...] = ()
    prior: tuple[int, int] | None = None


class Merging:
    """Base of the configurations of a merger in a network (`ToMeMerging`, ...), which are frozen dataclasses.

    Attributes:
        DESCRIPTION: of the merger.
        NETWORK: options of `ViTConfig` that the network needs to live with it, beside the merging itself.
        around: None where its plan acts on the stream of tokens, "mlp" or "block" where it acts around that branch.
    """

    DESCRIPTION: ClassVar[Description]
    NETWORK: ClassVar[Mapping[str, Any]] = NOTHING
    around: str | None = None

    def _plain(self) -> None:
        """Keep checked options as Python's own numbers."""
        for name in getattr(self, "__dataclass_fields__", ()):
            object.__setattr__(self, name, plain(getattr(self, name)))

    @property
    def proportional(self) -> bool:
        """Whether attention counts a token as often as it has patches, from the first of its blocks on."""
        return False

    @property
    def knob(self) -> Any:
        """How much is merged: the value of the option that `Description.knob` names."""
        return getattr(self, self.DESCRIPTION.knob)

    def spread(self, config: ViTConfig, blocks: list[int], whole: bool) -> Iterator[tuple[int, int]]:
        """(block, amount) for every one of `blocks` in which it really merges; `whole`: these are all there are.

        Raises:
            ValueError: it does not fit the network.
        """
        for block in blocks:
            yield block, 0

    def move(self, amount: int, tokens: int, prefix: int) -> Move:
        """What a block does to `tokens`, of which `prefix` are class, distillation and register tokens."""
        raise NotImplementedError


@dataclass(frozen=True)
class Description:
    """One merger.

    Attributes:
        name: as in `get_merger`; title: as people write it. rules: what the ids of its rules begin with.
        options: with their defaults, in the order of the constructor; `REQUIRED` where there is none.
        check: of the options, by name; raises TypeError or ValueError with one sentence.
        inputs: what its plan is made from, with the axes of one sample: `{"metric": "N D"}`.
        decides: whether its plan is made of decisions (integers), which have no gradient; else of weights.
        place: where it acts in a block: "attention" chooses queries, "mlp" merges between attention and MLP, "block"
            comes after the block.
        merging: its configuration in a network.
        knob: the option that says how much is merged, and read: from the text of a command line.
        symbol: of the knob, in tables. hint: the knob in a few words, for the help of a command line.
        multiply_adds: of its own products in one block of a network.
        plan: the law, for one sample: what the inputs say, with `mask`, the options and the parameters by name.
        values: what is mixed in place of the tokens, from the tokens, the parameters and the mask; None for themselves.
        hand_on: the mask inside a plan, for the next block of the same kind; None where nothing is handed on.
        parameters: what it learns, with axes: M slots, C channels.
        around: the branches around which its plan can act, while the stream keeps all tokens: those for whose merged
            tokens, means of tokens, that says something.
        sizes: what becomes of the sizes: "added" up in the merged tokens, "kept" by the tokens that stay, or "fresh"
            because its tokens stand for no patches.
        pads: whether its plans have padded slots. ends_prefix: whether the tokens in front are gone afterwards.
    """

    name: str
    title: str
    rules: str
    options: Mapping[str, Any]
    check: Callable[..., Any]
    inputs: Mapping[str, str]
    decides: bool
    place: str
    merging: type[Merging]
    knob: str
    read: Callable[[str], Any]
    symbol: str
    hint: str
    multiply_adds: Callable[[Step, ViTConfig], int]
    plan: Callable[..., Any]
    values: Callable[..., Any] | None = None
    hand_on: Callable[..., Any] | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    around: tuple[str, ...] = ()
    sizes: str = "added"
    pads: bool = False
    ends_prefix: bool = False

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def required(self) -> tuple[str, ...]:
        """The options that have to be given."""
        return tuple(name for name, default in self.options.items() if default is REQUIRED)

    def parameter_shapes(self, slots: int, channels: int) -> dict[str, tuple[int, ...]]:
        """Shapes of what it learns.

        >>> from tokenmerge.spec.mergers import MERGERS
        >>> MERGERS["patch_merger"].parameter_shapes(8, 768)
        {'queries': (8, 768), 'scale': (768,), 'bias': (768,)}
        """
        sizes = {"M": slots, "C": channels}
        return {name: tuple(sizes[axis] for axis in axes.split()) for name, axes in self.parameters.items()}


def integers(text: str) -> list[int]:
    """Integers with commas between, as they are written on a command line.

    Raises:
        ValueError: something else.

    >>> integers("128,64")
    [128, 64]
    """
    try:
        return [int(part) for part in str(text).split(",")]
    except ValueError:
        raise ValueError("must be integers with commas between") from None


def one_or_many(numbers: list[int]) -> Any:
    """One number for all blocks, or one for each.

    >>> one_or_many([16]), one_or_many([8, 4])
    (16, [8, 4])
    """
    return numbers[0] if len(numbers) == 1 else numbers


def check_prefix_option(owner: str, protected: Any) -> None:
    """Check `protected`, which is None for the network's own tokens in front."""
    if protected is not None:
        check_integer(owner, "protected", protected, minimum=0)


def check_around_option(owner: str, around: Any, places: tuple[str, ...] = ()) -> None:
    """Check `around`, which is None for the stream, or one of `places`."""
    if around is None:
        return
    if not places:
        raise ValueError(
            f"{owner}: `around` must be None, because its tokens are no means of all others, got {shown(around)}"
        )
    check_choice(owner, "around", around, places)


def protected_tokens(protected: int | None, prefix: int, tokens: int) -> int:
    """Leading tokens that never merge: those in front of the patches, or as many as are asked for and there."""
    return prefix if protected is None else min(protected, tokens)
