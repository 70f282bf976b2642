"""Files that cannot run code: trees of tensors in safetensors, written whole or not at all."""

from .atomic import replacing
from .saving import load, save

__all__ = ["load", "replacing", "save"]
