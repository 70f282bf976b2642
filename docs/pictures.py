"""Draws the pictures of the README from the code that stands there: `python docs/pictures.py`."""

import re
from pathlib import Path

import numpy as np

import pullback as pb

HERE = Path(__file__).parent


def main() -> None:
    """Run the README's block that defines the net, and draw its graph."""
    readme = (HERE.parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    names = {"np": np, "pb": pb, "__name__": "readme"}
    exec(next(block for block in blocks if "class Net" in block), names)
    pb.trace(names["squared_loss"], names["x"], names["target"]).plot(HERE / "graph.png")


if __name__ == "__main__":
    main()
