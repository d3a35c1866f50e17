"""Hugging Face's vision and audio models, taken apart by the families of hf_families.py."""

from __future__ import annotations

from typing import Any

from torch import nn

from tokenmerge.backends.torch.patching.families import Network
from tokenmerge.backends.torch.patching.hf_families import KNOWN
from tokenmerge.backends.torch.patching.readers import DECODES, READERS

ENCODER_DECODER = "transformers.models.vision_encoder_decoder.modeling_vision_encoder_decoder"
READERS[f"{ENCODER_DECODER}.VisionEncoderDecoderModel.forward"] = DECODES
BIASED = ("sdpa", "eager")  # attention functions that add a mask of floats to the logits


def is_network(module: nn.Module) -> bool:
    """Whether a module is one that `read` can read."""
    return KNOWN.is_network(module)


def read(model: nn.Module, module: Any, name: str) -> Network:
    """A model of the library, taken apart; `model` is it, or what is around it.

    Raises:
        CannotPatch: it has a block or an attention that is not known.
    """
    implementation = module.config._attn_implementation
    unbiased = "" if implementation in BIASED else f"attn_implementation={implementation!r}"
    return KNOWN.read(model, module, name, unbiased, prefix=getattr(module.config, "num_register_tokens", None) or 0)
