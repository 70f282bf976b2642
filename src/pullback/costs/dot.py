"""The graph of a tape in the language of Graphviz."""

from typing import Any

from .tables import flops_text

__all__ = ["dot_text"]

_HEAD = """digraph {
  graph [rankdir=TB, fontname="Helvetica", label=%s, labelloc=t]
  node [fontname="Helvetica", fontsize=11]
  edge [fontname="Helvetica", fontsize=9]
"""
_STYLES = {
    "parameter": 'shape=box, style="rounded,filled", fillcolor="#f6e3c5", color="#b8863b"',
    "argument": 'shape=ellipse, style=filled, fillcolor="#dcebdc", color="#6a9955"',
    "constant": 'shape=ellipse, style=filled, fillcolor="#eeeeee", color="#999999"',
    "value": 'shape=box, style=filled, fillcolor="#dbe6f2", color="#4878a8"',
}


def dot_text(tape: Any) -> str:
    """The graph of `tape`: equations with their costs, parameters as leaves, shapes on edges, layers as clusters."""
    source = {v.name: e.name for e in tape for v in e.outputs}
    layers: dict[str, list[str]] = {}
    edges = []
    placed: set[str] = set()
    for e in tape:
        nodes = layers.setdefault(e.layer, [])
        for name in e.inputs:
            if name not in tape.variables:
                continue  # a number
            v = tape.variables[name]
            if name not in source and name not in placed:
                placed.add(name)
                home = nodes if v.kind in ("parameter", "constant") else layers.setdefault("", [])
                home.append(f"{_quoted(name)} [label={_quoted(name)}, {_STYLES[v.kind]}]")
            edges.append(f"{_quoted(source.get(name, name))} -> {_quoted(e.name)} [label={_quoted(_axes(v.shape))}]")
        label = f"{e.name}: {e.op}\n{flops_text(e.forward.flops)}, VJP {flops_text(e.vjp.flops)}"
        nodes.append(f"{_quoted(e.name)} [label={_quoted(label)}, {_STYLES['value']}]")
    outputs = [name for name in tape.outputs if name in source or name in placed or name in tape.variables]
    loose = layers.setdefault("", [])
    for name in outputs:
        v = tape.variables[name]
        if name not in source and name not in placed:
            loose.append(f"{_quoted(name)} [label={_quoted(name)}, {_STYLES[v.kind]}]")
        end = _quoted(f"value {name}")
        loose.append(f"{end} [label=value, shape=plaintext]")
        edges.append(f"{_quoted(source.get(name, name))} -> {end} [label={_quoted(_axes(v.shape))}]")
    lines = [_HEAD % _quoted(tape.title)]
    for number, (layer, nodes) in enumerate(layers.items()):
        if layer:
            lines.append(f"  subgraph cluster_{number} {{")
            lines.append(f'    label={_quoted(layer)}; style="rounded"; color="#b0b0b0"; fontcolor="#606060"')
            lines += [f"    {node}" for node in nodes] + ["  }"]
        else:
            lines += [f"  {node}" for node in nodes]
    return "\n".join([*lines, *(f"  {edge}" for edge in edges), "}", ""])


def _axes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "1"


def _quoted(text: str) -> str:
    """A string of Graphviz: backslashes and quotes escaped, a new line as its own sign."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
