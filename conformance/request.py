"""What is asked of the suite. Everything that can be wrong with it is found here, before any check runs."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType

from tokenmerge.backends import get_backend
from tokenmerge.conformance.checks import Check
from tokenmerge.conformance.checks.check import MERGERS
from tokenmerge.conformance.editions import changed
from tokenmerge.conformance.runner import LEVELS, Result, not_run, run_check, select
from tokenmerge.conformance.skips import Skips, reason_to_skip
from tokenmerge.conformance.subject import Subject, mostly
from tokenmerge.spec.shared.arguments import check_choice

# A deep run is a whole ci run first: stopped at any time, it has seen every rule.
ROUNDS = {"quick": ("quick",), "ci": ("ci",), "deep": ("ci", "deep")}


@dataclass(frozen=True)
class Request:
    """A backend and what to check of it; made by `request`.

    Attributes:
        backend, module: as it was asked for, and what that is.
        device: where its arrays live; None for its default.
        dtypes, checks: what runs.
        level, seed: how many examples, and which.
        skips: checks that are left out, with the reasons.
        xfails: checks that are known to fail, with the reasons.
        mostly: the one dtype of the checks that are for no dtype alone and not `everywhere`; None for all dtypes.
        law: the edition of the rules that was asked for; None for the rules as they are.
        some: whether only some of the backend's mergers were asked for.
    """

    backend: str
    module: ModuleType
    device: str | None
    dtypes: tuple[str, ...]
    checks: tuple[Check, ...]
    level: str = "ci"
    seed: int | None = None
    skips: Skips = field(default_factory=dict)
    xfails: Skips = field(default_factory=dict)
    mostly: str | None = None
    law: str | None = None
    some: bool = False

    def rounds(self) -> Iterator[tuple[str, str, Check]]:
        """Every level, dtype and check, in the order in which they run."""
        for level in ROUNDS[self.level]:
            for dtype, check in self.pairs():
                yield level, dtype, check

    def pairs(self) -> Iterator[tuple[str, Check]]:
        """Every dtype and check of it, in the order in which they run."""
        for dtype in self.dtypes:
            for check in self.checks:
                if not self.left_out(dtype, check):
                    yield dtype, check

    def left_out(self, dtype: str, check: Check) -> bool:
        """Whether a quick look takes the check in another dtype only; not if it does not apply, which costs nothing."""
        if self.mostly in (None, dtype) or check.everywhere or check.dtype is not None:
            return False
        return check.applies(Subject(self.backend, self.module, dtype, self.device)) is None

    def run(self, dtype: str, check: Check, level: str | None = None) -> Result:
        """Run one check, unless it does not apply or is skipped; one that is expected to fail, and does, is skipped."""
        subject = Subject(self.backend, self.module, dtype, self.device)
        reason = reason_to_skip(self.skips, check.id, dtype)
        if reason and check.applies(subject) is None:
            return not_run(check, dtype, "skipped", reason)
        result = run_check(subject, check, level or self.level, self.seed)
        expected = reason_to_skip(self.xfails, check.id, dtype)
        if expected is None or result.status != "failed":
            return result
        return replace(not_run(check, dtype, "skipped", f"fails, as expected: {expected}"), seconds=result.seconds)

    def forget(self, dtype: str, following: str | None) -> None:
        """Let the backend drop what it compiled for a dtype that is done; its programs serve no other."""
        if following not in (None, dtype) and hasattr(self.module, "forget"):
            self.module.forget()

    def not_looked_at(self) -> list[str]:
        """The backend's mergers that the suite has no record of; none where only some mergers were asked for."""
        return [] if self.some else [name for name in self.module.MERGERS if name not in MERGERS]

    def stale(self, results: Iterable[Result]) -> list[str]:
        """One sentence for every check that is expected to fail and passes."""
        return [
            f"{each.id} in {each.dtype} passes, and is expected to fail: {reason}"
            for each in results
            if each.status == "passed" and (reason := reason_to_skip(self.xfails, each.id, each.dtype))
        ]


def request(
    backend: str,
    *,
    device: str | None = None,
    dtypes: tuple[str, ...] = (),
    mergers: tuple[str, ...] = (),
    level: str = "ci",
    seed: int | None = None,
    skips: Skips | None = None,
    xfails: Skips | None = None,
    law: str | None = None,
) -> Request:
    """Check what is asked for.

    Args:
        backend: a name known to the registry, or the dotted name of a module.
        device: one of the backend's `devices()`; None for its default.
        dtypes: some of the backend's `DTYPES`; none for all, where a quick look at a backend that compiles runs most
            checks in one of them.
        mergers: some of the backend's; none for all.
        level: a key of `LEVELS`.
        seed: of the examples; None for the same ones in every run.
        skips, xfails: see `tokenmerge.conformance.skips`.
        law: an edition of the rules, see `tokenmerge.conformance.editions`; checks of rules that it does not have, or
            has with another sentence, are left out.

    Raises:
        ValueError: an unknown backend, device, dtype, merger, level or edition; a check that is skipped and expected.
        ImportError: the backend does not import.

    >>> request("numpy", dtypes=("bfloat16",))
    Traceback (most recent call last):
    ...
    ValueError: conformance: `dtype` must be one of 'float16', 'float32', 'float64', got 'bfloat16' \
(did you mean 'float16'?)
    """
    check_choice("conformance", "level", level, LEVELS)
    module = load(backend)
    check_names_of(module, backend)
    if device is not None:
        check_choice("conformance", "device", device, module.devices())
    for dtype in dtypes:
        check_choice("conformance", "dtype", dtype, module.DTYPES)
    for merger in mergers:
        check_choice("conformance", "merger", merger, [name for name in MERGERS if name in module.MERGERS])
    both = set(skips or ()) & set(xfails or ())
    if both:
        raise ValueError(f"conformance: `xfails` must name checks that are not skipped, got {min(map(str, both))}")
    other = set() if law is None else changed(law)
    checks = tuple(check for check in select(mergers or MERGERS) if not other & set(check.rules))
    chosen = tuple(dict.fromkeys(dtypes)) or tuple(module.DTYPES)
    main = None if dtypes or level != "quick" else mostly(module)
    left_out = (skips or {}, xfails or {})
    return Request(backend, module, device, chosen, checks, level, seed, *left_out, main, law, bool(mergers))


def check_names_of(module: ModuleType, backend: str) -> None:
    """Check what a backend says of itself, before it is taken apart.

    Raises:
        TypeError: `DTYPES` is no tuple of names, `devices` no function, or `MERGERS` no mapping.
    """
    needs = {
        "DTYPES": ("a tuple or list of names", isinstance(module.DTYPES, tuple | list)),
        "devices": ("a function that returns names", callable(module.devices)),
        "MERGERS": ("a mapping of names to mergers", isinstance(module.MERGERS, Mapping)),
    }
    for name, (needed, given) in needs.items():
        if not given:
            got = type(getattr(module, name)).__name__
            raise TypeError(f"conformance: `{name}` of {backend!r} must be {needed}, got a {got}")


def load(backend: str) -> ModuleType:
    """The backend's module; whatever goes wrong on import is one sentence.

    Raises:
        ValueError: there is no such backend.
        ImportError: it does not import.
    """
    try:
        return get_backend(backend)
    except (Exception, SystemExit) as error:  # a module may do anything on import
        sentence = str(error)
        if sentence.startswith(("get_backend: ", 'backend "')):  # written for a user
            raise
        said = f"{type(error).__name__}: {sentence.splitlines()[0]}" if sentence else type(error).__name__
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
        # a SyntaxError says itself where it is
        where = "" if isinstance(error, SyntaxError) else f" ({frames[-1].filename}, line {frames[-1].lineno})"
        raise ImportError(
            f"conformance: `backend` must be a module that can be imported, got {backend!r}, which raised {said}{where}"
        ) from error
