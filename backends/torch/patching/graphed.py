"""A patched model whose calls are captured in CUDA graphs: on a GPU a small network waits for its launches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from tokenmerge.backends.torch.patching.hook import Patch
from tokenmerge.backends.torch.patching.marks import role_of
from tokenmerge.backends.torch.patching.network import NetworkRole

Tensor = torch.Tensor
Run = Callable[[], Any]

DEVICE = "cuda"  # where graphs are
MOST = 8  # graphs of one model, each with memory of its own
WARM_UP = 3  # calls before a capture, which compile kernels and allocate what is made once


class Graphed:
    """The model, called without gradients: the first call with inputs of some shapes captures it, the others replay it.

    Inputs are copied to where the graph reads them, and results are copies. Plans and sizes of the handle are those of
    the last call, as ever. Parameters are read where they were at the capture: change them in place, and ask for
    another one when the model has moved.

    Args:
        model: on a CUDA device. patch: on it.

    Raises:
        RuntimeError: the model is on another device.
    """

    def __init__(self, model: nn.Module, patch: Patch) -> None:
        device = next(model.parameters()).device
        if device.type != DEVICE:
            raise RuntimeError(
                f"patch: `graphed` must be asked of a model on a CUDA device, got one on {device} (there are no CUDA "
                "graphs; `tokenmerge.export` makes a model for a CPU)"
            )
        self._model, self._patch, self._device = model, patch, device
        self._network = next(
            module
            for module in model.modules()
            if isinstance(role := role_of(module), NetworkRole) and role.patch is patch
        )
        self._captures: OrderedDict[Any, _Capture] = OrderedDict()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns.

        Raises:
            RuntimeError: the model is training, or is no longer patched.
            TypeError, ValueError: an argument that is neither a tensor nor a plain value; a tensor on another device.
        """
        role = role_of(self._network)
        if role is None or role.patch is not self._patch:
            raise RuntimeError("patch: `graphed` must be called while the model is patched, got one whose patch is off")
        if self._model.training:
            raise RuntimeError("patch: `graphed` must be called in eval mode, got a model that is training")
        given: dict[Any, Any] = dict(enumerate(args)) | kwargs
        key = (self._setting(), *((name, self._kind(name, value)) for name, value in given.items()))
        capture = self._captures.get(key)
        if capture is None:
            while len(self._captures) >= MOST:
                self._captures.popitem(last=False)
            capture = self._captures[key] = _Capture(self._model, self._patch, len(args), given)
        self._captures.move_to_end(key)
        return capture(given)

    def _setting(self) -> Any:
        """What makes another program of the same inputs."""
        autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        return autocast, repr(self._patch.method.given)

    def _kind(self, name: Any, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.device != self._device:
                raise ValueError(
                    f"patch: argument {name!r} of a graphed model must be on {self._device}, got one on {value.device}"
                )
            return value.shape, value.dtype
        if value is None or isinstance(value, bool | int | float | str):
            return type(value), value
        raise TypeError(
            f"patch: argument {name!r} of a graphed model must be a tensor or a plain value, got {type(value).__name__}"
        )


class _Capture:
    """One graph: where it reads, what it writes, and what the thread knows after it."""

    def __init__(self, model: nn.Module, patch: Patch, positional: int, given: dict[Any, Any]) -> None:
        self._patch = patch
        self._inputs = {name: value.clone() if isinstance(value, Tensor) else value for name, value in given.items()}
        args = [self._inputs[index] for index in range(positional)]
        kwargs = {name: value for name, value in self._inputs.items() if isinstance(name, str)}
        with torch.no_grad():
            self._replay, self._output = captured(lambda: model(*args, **kwargs))
        self._last = dict(vars(patch.thread.last))

    def __call__(self, given: dict[Any, Any]) -> Any:
        with torch.no_grad():
            for name, value in given.items():
                if isinstance(value, Tensor):
                    self._inputs[name].copy_(value)
            self._replay()
            vars(self._patch.thread.last).update(self._last)
            return tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, self._output)


def captured(run: Run) -> tuple[Run, Any]:
    """What replays a call, and its output, which every replay overwrites."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()
    return graph.replay, output
