"""`pb.trace`: the tape as data, as text, in the language of Graphviz and as a picture."""

import builtins
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import pullback as pb
from pullback import errors
from pullback.costs.boxes import boxes_of
from pullback.costs.layout import lay_out, twig_places

X, LABELS = np.zeros((128, 784), "float32"), np.zeros(128, "int64")


def loss_of(net):
    def loss(x, labels):
        return pb.nn.cross_entropy(net(x), labels)

    return loss


@pytest.fixture(scope="module")
def three_layers():
    return pb.trace(loss_of(pb.nn.MLP((784, 256, 256, 10), "gelu")), X, LABELS)


def deep_tape(layers):
    return pb.trace(loss_of(pb.nn.MLP((64,) * layers + (10,), "relu")), X[:, :64], LABELS)


# --- data -------------------------------------------------------------------------------------------------------------


def test_equations_have_names_shapes_layers_places_and_costs(three_layers):
    tape = three_layers
    assert [e.op for e in tape] == ["linear_gelu", "linear_gelu", "linear", "cross_entropy"]
    assert [e.inputs for e in tape] == [
        ("x", "layers.0.weight", "layers.0.bias"),
        ("h1", "layers.1.weight", "layers.1.bias"),
        ("h2", "layers.2.weight", "layers.2.bias"),
        ("h3", "labels"),
    ]
    assert [e.layer for e in tape] == ["MLP.layers.0", "MLP.layers.1", "MLP.layers.2", ""]
    assert [(e.shape, e.dtype) for e in tape] == [
        ((128, 256), "float32"), ((128, 256), "float32"), ((128, 10), "float32"), ((), "float32"),
    ]  # fmt: skip
    assert tape[0].forward.multiply_adds == 128 * 784 * 256
    assert tape[0].vjp.multiply_adds == 128 * 784 * 256  # x needs no cotangent
    assert tape[1].vjp.multiply_adds == 2 * 128 * 256 * 256
    kinds = {name: v.kind for name, v in tape.variables.items()}
    assert kinds["x"] == kinds["labels"] == "argument"
    assert kinds["layers.0.weight"] == "parameter"
    assert tape.outputs == ("h4",)
    assert set(tape.ends) == {n for n, kind in kinds.items() if kind == "parameter"}
    for e in tape:
        file, line = e.source
        assert "cross_entropy(net(x), labels)" in Path(file).read_text().splitlines()[line - 1]


def test_a_tape_is_a_sequence():
    tape = pb.trace(lambda x: pb.sum(pb.tanh(x) * 2.0), np.ones(3))
    assert len(tape) == 3
    assert tape[-1].op == "sum"
    assert [e.number for e in tape] == [1, 2, 3]
    assert [e.op for e in tape[:2]] == ["tanh", "multiply"]
    assert tape[1].inputs == ("h1", "2")
    assert [e.name for e in tape.readers("h1")] == ["h2"]


def test_print_shows_one_equation_a_line(three_layers):
    text = str(three_layers)
    (line,) = [line for line in text.splitlines() if line.startswith("h1: ")]
    assert re.fullmatch(
        r"h1: float32\[128, 256\] += linear_gelu\(x, layers\.0\.weight, layers\.0\.bias\) +MLP\.layers\.0 +"
        r"51\.54 Mflop +51\.77 Mflop +\S*test_graph\.py:\d+",
        line,
    )
    assert re.search(r"^layers\.0\.weight: float32\[784, 256\] +# parameter +differentiated$", text, re.MULTILINE)
    starts = {line.index("= ") for line in text.splitlines() if re.match(r"h\d", line)}
    assert len(starts) == 1  # aligned


def test_to_dict_is_json(three_layers):
    found = json.loads(json.dumps(three_layers.to_dict()))
    assert found["equations"][3]["params"]["reduction"] == "'mean'"
    assert len(found["variables"]) == 8
    assert found["equations"][0]["forward"] == three_layers[0].forward.to_dict()


def test_names_come_from_arguments_closures_and_modules():
    w, scale = pb.tensor(np.ones((2, 2)), requires_grad=True), np.ones(2)
    many = [pb.tensor(np.ones(2), requires_grad=True) for _ in range(2)]

    def f(batch, *rest):
        return pb.sum(batch["x"] @ w * scale + many[1] * rest[1] + np.ones(2))

    tape = pb.trace(f, {"x": np.ones(2), "y": np.ones(1)}, np.ones(2), np.ones(2))
    names = {name: v.kind for name, v in tape.variables.items() if v.kind != "value"}
    assert names == {
        "batch.x": "argument", "batch.y": "argument", "rest.0": "argument", "rest.1": "argument",
        "w": "parameter", "scale": "constant", "many.1": "parameter", "c1": "constant",
    }  # fmt: skip
    assert tape.ends == ("w", "many.1")
    two = [pb.nn.Linear(2, 2), pb.nn.Linear(2, 2)]
    tape = pb.trace(lambda x: two[1](two[0](x)), np.ones((1, 2), "float32"))
    assert [e.inputs[1] for e in tape] == ["Linear.weight", "Linear 2.weight"]


def test_outputs_of_one_op_have_names_of_their_own_and_functions_with_rules_are_one_equation():
    tape = pb.trace(lambda a: pb.sum(pb.linalg.qr(a).R), np.eye(3))
    assert [v.name for v in tape[0].outputs] == ["h1.Q", "h1.R"]
    assert tape[1].inputs == ("h1.R",)
    square = pb.checkpoint(lambda x: pb.tanh(x) @ x)
    tape = pb.trace(square, np.eye(4))
    assert [e.op for e in tape] == ["checkpoint"]
    assert tape[0].inputs[0].startswith(("x", "args"))
    assert tape[0].forward.multiply_adds == 4**3
    assert tape[0].vjp.multiply_adds == 3 * 4**3


def test_one_tape_of_a_gradient():
    tape = pb.trace(pb.grad(lambda x: pb.sum(pb.tanh(x) ** 2)), np.ones(3))
    assert tape[0].op == "tanh"
    assert tape[-1].shape == (3,)
    assert len(tape) > 4


def test_argnums_choose_what_is_differentiated():
    tape = pb.trace(lambda x, y: pb.sum(x @ y), np.ones((2, 3)), np.ones((3, 4)), argnums=1)
    assert tape.ends == ("y",)
    assert tape[0].vjp.multiply_adds == 24
    assert pb.trace(lambda x, y: pb.sum(x @ y), np.ones((2, 3)), np.ones((3, 4)))[0].vjp.multiply_adds == 48


def test_nothing_is_computed_and_nothing_is_left_behind():
    w = pb.tensor(np.full((2, 2), 3.0), requires_grad=True)
    pb.trace(lambda x: pb.sum(x @ w), np.ones((2, 2)))
    assert w.grad is None
    y = pb.sum(np.ones((2, 2)) @ w)
    y.backward()
    assert y.item() == 24.0
    assert (w.grad.numpy() == 2.0).all()


def test_of_a_matrix_it_is_the_sum_of_the_diagonal():
    assert pb.trace(np.arange(9.0).reshape(3, 3), offset=1).item() == 6.0
    assert pb.trace([[1.0, 2.0], [3.0, 4.0]]).item() == 5.0


# --- Graphviz ---------------------------------------------------------------------------------------------------------

STRING = r'"(?:[^"\\]|\\.)*"'
ATTRIBUTES = rf"\[(?:\w+=(?:{STRING}|[\w.]+)(?:, )?)*\]"
STATEMENT = re.compile(
    rf"(?P<edge>{STRING} -> {STRING} {ATTRIBUTES})|(?P<node>{STRING} {ATTRIBUTES})|(?P<open>subgraph (?P<name>\w+) {{)"
    rf"|(?P<default>(?:graph|node|edge) {ATTRIBUTES})|(?P<close>}})|(?P<set>\w+=(?:{STRING}|\w+)(?:; \w+={STRING})*)"
)


def parsed(text):
    """The nodes (with their clusters) and edges of a graph; every line has to be a statement."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    assert lines[0] == "digraph {"
    assert lines[-1] == "}"
    nodes, edges, cluster, depth = {}, [], None, 1
    for line in lines[1:]:
        found = STATEMENT.fullmatch(line)
        assert found, line
        if found["open"]:
            cluster, depth = found["name"], depth + 1
        elif found["close"]:
            cluster, depth = None, depth - 1
        elif found["node"]:
            name = re.match(STRING, line)[0]
            assert name not in nodes
            nodes[name] = cluster
        elif found["edge"]:
            edges.append(tuple(re.findall(STRING, line)))
    assert depth == 0
    return nodes, edges


def test_dot_has_parameters_as_leaves_shapes_on_edges_and_layers_as_clusters(three_layers):
    text = three_layers.to_dot()
    nodes, edges = parsed(text)
    assert {end for edge in edges for end in edge[:2]} == set(nodes)
    parameters = [f'"{name}"' for name in three_layers.ends]
    for name in parameters:
        assert not [edge for edge in edges if edge[1] == name]  # a dead end
        (edge,) = [edge for edge in edges if edge[0] == name]
        assert nodes[name] == nodes[edge[1]] is not None  # in the cluster of what reads it
    assert ('"layers.0.weight"', '"h1"', '"784 x 256"') in edges
    assert len(set(nodes.values()) - {None}) == 3
    assert r'"h1: linear_gelu\n51.54 Mflop, VJP 51.77 Mflop"' in text


def test_dot_escapes_what_names_hold(tmp_path):
    tape = pb.trace(lambda batch: pb.sum(batch['a "b"\\'] ** 2), {'a "b"\\': np.ones(2)})
    nodes, _ = parsed(tape.to_dot(tmp_path / "graph.dot"))
    assert r'"batch.a \"b\"\\"' in nodes
    assert (tmp_path / "graph.dot").read_text() == tape.to_dot()


def test_dot_of_an_output_that_is_no_equation():
    assert parsed(pb.trace(lambda x: x, np.ones(2)).to_dot())[1] == [('"x"', '"value x"', '"2"')]
    assert parsed(pb.trace(lambda x: pb.ones(2), np.ones(2)).to_dot()) == ({}, [])


@pytest.mark.skipif(not shutil.which("dot"), reason="Graphviz is not installed")
def test_graphviz_draws_it(three_layers):
    run = subprocess.run(["dot", "-Tsvg"], input=three_layers.to_dot(), capture_output=True, text=True, check=True)
    assert run.stderr == ""
    assert "linear_gelu" in run.stdout


# --- pictures ---------------------------------------------------------------------------------------------------------


class Residual(pb.nn.Module):
    def __init__(self, size):
        self.norm, self.inner = pb.nn.LayerNorm(size), pb.nn.Linear(size, size, activation="gelu")

    def forward(self, x):
        return x + self.inner(self.norm(x))


def residual_tape(count):
    net = pb.nn.Sequential(*[Residual(8) for _ in range(count)])
    return pb.trace(lambda x: pb.nn.mse_loss(net(x), x), np.ones((4, 8), "float32"))


def branches(x):
    a = pb.tanh(x)
    return pb.sum(pb.exp(a) * pb.sin(a) + pb.cos(a) * a + x)


def tied(x):
    w = pb.tensor(np.eye(3), requires_grad=True)
    q, r = pb.linalg.qr(pb.tanh(x @ w) @ w)
    return pb.sum(q) + pb.sum(r @ w)


def recurrent(xs, h):
    w = pb.tensor(np.eye(3), requires_grad=True)
    for i in range(3):
        h = pb.tanh(xs[i] @ w + h @ w)
    return h, pb.sum(h**2)


TAPES = {
    "3 layers": lambda: deep_tape(3),
    "50 layers": lambda: deep_tape(50),
    "residual": lambda: residual_tape(2),
    "20 residual": lambda: residual_tape(20),
    "tied": lambda: pb.trace(tied, np.eye(3)),
    "recurrent": lambda: pb.trace(recurrent, np.ones((3, 1, 3)), np.ones((1, 3))),
    "branches": lambda: pb.trace(branches, np.ones((3, 4))),
}


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("name", TAPES)
def test_nothing_in_a_picture_overlaps(name, fold):
    layout = lay_out(boxes_of(TAPES[name](), fold))
    rectangles = []
    for box in layout.boxes:
        rectangles.append((box.key, box.x, box.y, layout.box_width, 0.5))
        rectangles += [
            (t.name, x, y, layout.twig_width, 0.27)
            for t, (x, y) in zip(box.twigs, twig_places(layout, box), strict=True)
        ]
    for i, (one, x, y, width, height) in enumerate(rectangles):
        for other, u, v, wide, high in rectangles[:i]:
            assert abs(x - u) >= (width + wide) / 2 or abs(y - v) >= (height + high) / 2, (one, other)
    known = {box.key: box for box in layout.boxes}
    assert len(layout.paths) == sum(len(box.inputs) for box in layout.boxes)
    for box in layout.boxes:
        assert all((known[key].column, known[key].rank) < (box.column, box.rank) for key, _ in box.inputs)
    for path in layout.paths:  # no edge goes through a box
        for (a, b), (c, d) in pairwise(path.points):
            for share in np.linspace(0.0, 1.0, 60)[1:-1]:
                x, y = a + share * (c - a), b + share * (d - b)
                inside = [n for n, u, v, w, h in rectangles if abs(x - u) < w / 2 - 0.01 and abs(y - v) < h / 2 - 0.01]
                assert inside == [], path


def test_equal_layers_are_folded_and_nothing_is_lost():
    tape = deep_tape(50)
    folded, full = boxes_of(tape, True), boxes_of(tape, False)
    assert len(full) == len(tape) + 1
    assert len(folded) == 7
    (more,) = [box for box in folded if box.kind == "more"]
    assert more.lines[0] == "46 equations like those above"
    assert more.lines[1] == "MLP.layers.2 to MLP.layers.47"
    assert [t.name for t in more.twigs] == ["92 parameters"]
    assert next(box for box in boxes_of(residual_tape(12), True) if box.kind == "more").lines[0].startswith("27 ")
    assert not [box for box in boxes_of(deep_tape(3), True) if box.kind == "more"]


def test_equations_that_read_another_value_each_time_are_not_folded():
    def f(x, fixed):
        u = pb.sin(x)
        for _ in range(6):
            x = pb.tanh(x + (u if fixed else 1.0))
        return x

    for fixed, kinds in ((True, set()), (False, {"more"})):
        boxes = boxes_of(pb.trace(lambda x, fixed=fixed: f(x, fixed), np.ones(3)), True)
        assert {box.kind for box in boxes} - {"value", "argument"} == kinds


def test_plot_draws_every_name_shape_and_cost(tmp_path, three_layers):
    pytest.importorskip("matplotlib")
    figure = three_layers.plot(tmp_path / "graph.png")
    assert (tmp_path / "graph.png").read_bytes()[:4] == b"\x89PNG"
    texts = [text.get_text() for text in figure.axes[0].texts]
    for name in ("x", "layers.0.weight", "784\u00d7256", "128\u00d7256", "h1: linear_gelu", "MLP.layers.2", "labels"):
        assert name in texts
    assert "51.54 Mflop, VJP 51.77 Mflop" in texts


@pytest.mark.parametrize("name", TAPES)
def test_texts_of_a_picture_do_not_overlap_and_are_inside(name):
    pytest.importorskip("matplotlib")
    figure = TAPES[name]().plot()
    figure.canvas.draw()
    frame = figure.bbox
    boxes = [(t.get_text(), t.get_window_extent()) for t in figure.axes[0].texts if t.get_text()]
    for i, (one, box) in enumerate(boxes):
        assert all(edge > 0 for edge in (box.x0 - frame.x0, frame.x1 - box.x1, box.y0 - frame.y0, frame.y1 - box.y1)), (
            one
        )
        for other, earlier in boxes[:i]:
            assert not box.overlaps(earlier), (one, other)
    layers = [p.get_window_extent() for p in figure.axes[0].patches if p.get_zorder() == 0]
    nodes = [p.get_window_extent() for p in figure.axes[0].patches if p.get_zorder() == 2]
    for i, one in enumerate(layers):
        assert not any(one.overlaps(other) for other in layers[:i])
        inside = [one.x0 < node.x0 and node.x1 < one.x1 and one.y0 < node.y0 and node.y1 < one.y1 for node in nodes]
        touched = [one.overlaps(node) for node in nodes]
        assert any(inside)
        assert inside == touched


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("show", [pb.trace, pb.explain])
def test_functions_that_cannot_be_traced_are_told_why(show):
    x = np.ones((2, 3))
    wrong = [
        (lambda x: None, errors.TapeError, "returned NoneType"),
        (lambda x: 3.0, errors.TapeError, "returned float"),
        (pb.argmax, errors.TapeError, "returned int64"),
        (lambda x: pb.sum(x[x > 0]), errors.DeviceError, r"x\[mask\] depends on numbers.*write pb.where"),
        (lambda x: pb.nonzero(x)[0] * 1.0, errors.DeviceError, "depends on numbers"),
        (lambda x: x if pb.sum(x) > 0 else -x, errors.DeviceError, "no numbers to read.*write pb.where for a choice"),
        (lambda x: x * pb.sum(x).item(), errors.DeviceError, "not on the numbers in a tensor"),
        (lambda x: x @ x, errors.ShapeError, "matmul"),
        (lambda x: 1 / 0, ZeroDivisionError, "zero"),
        ("tanh", errors.DtypeError, f"^{show.__name__}: its first argument is a function.*got str"),
        (3, errors.DtypeError, "got int"),
    ]
    for f, error, message in wrong:
        with pytest.raises(error, match=message):
            show(f, x)
    with pytest.raises(errors.DtypeError, match="object"):
        show(pb.sum, object())
    with pytest.raises(errors.ArgumentError, match="argnums 3"):
        show(pb.sum, x, argnums=3)
    with pytest.raises(errors.ArgumentError, match=f"{show.__name__}: argnums 1: there is no floating-point"):
        show(lambda x, i: pb.sum(x[i]), x, np.array([0, 1]), argnums=1)
    with pytest.raises((errors.ArgumentError, TypeError), match="option"):
        show(pb.sum, x, option=1)


def test_functions_without_equations_have_an_empty_tape():
    x = np.ones((2, 3))
    for f, value in (
        (lambda x: x, "x"),
        (lambda x: pb.ones(3), "a constant"),
        (lambda x: pb.asarray(x.shape) * 1.0, "a constant"),
    ):
        tape = pb.trace(f, x)
        assert len(tape) == 0
        assert list(tape) == []
        assert str(tape).startswith(f"f: 0 equations; value: {value}\n")
        assert tape.to_dict()["equations"] == []
        assert tape.forward.flops == tape.vjp.flops == 0
    with pytest.raises(errors.ArgumentError, match="nothing to draw"):
        pb.trace(lambda: pb.ones(3)).plot()


def test_pictures_that_cannot_be_written(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    tape = pb.trace(pb.tanh, np.ones(2))
    for write in (tape.plot, tape.to_dot):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            write(tmp_path / "nowhere" / "graph.png")
    with pytest.raises(errors.ArgumentError, match=r"plot: .*xyz"):
        tape.plot(tmp_path / "graph.xyz")

    known = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return known(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(errors.ArgumentError, match=r"pip install 'pullback\[plot\]'"):
        tape.plot()


def test_a_function_without_a_reverse_mode_is_shown_and_not_explained():
    f = pb.custom_rule(pb.exp, jvp=lambda t, out, z: t[0] * out)
    assert len(pb.trace(f, np.ones(2))) == 1
    with pytest.raises(errors.RuleError, match="vjp"):
        pb.explain(f, np.ones(2))
