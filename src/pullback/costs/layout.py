"""Where boxes stand: rows by the longest path, ordered by barycentres, folded into columns; all in inches."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt

from .boxes import Box

__all__ = ["TWIG_HEIGHT", "Layout", "Path", "box_height", "inches", "lay_out", "twig_places"]

HEIGHT, TWIG_HEIGHT = 0.5, 0.27  # of a box and of a leaf at its side
LINE = 0.17  # of a line of text beyond the second
ROW_GAP, TITLE, BOX_GAP, TWIG_GAP = 0.5, 0.26, 0.5, 0.07
LANE, GUTTER, TRACK = 0.24, 0.45, 0.13
_SHAPE = 1.5  # width by height that columns aim at
_ALONE = 14  # rows that stand in one column


@dataclass(frozen=True)
class Path:
    """An edge: its corners, its text, and where that stands (and whether it is turned)."""

    points: list[tuple[float, float]]
    label: str
    at: tuple[float, float]
    turned: bool


@dataclass
class Layout:
    """Boxes with their places.

    Attributes:
        boxes: With rank, column, x and y.
        box_width, twig_width, stem: Widths of boxes, of leaves, and of the edge between them.
        bands: (column, rank) -> top and bottom of a row.
        paths: The edges between boxes.
        width, height: Of all.
    """

    boxes: list[Box]
    box_width: float
    twig_width: float
    stem: float
    bands: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)
    paths: list[Path] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0

    def left_of(self, box: Box) -> float:
        """How far a box reaches to the left of its centre, with its leaves."""
        return self.box_width / 2 + (self.stem + self.twig_width if box.twigs else 0.0)


def box_height(box: Box) -> float:
    """The height of a box."""
    return HEIGHT + LINE * max(len(box.lines) - 2, 0)


def twig_places(layout: Layout, box: Box) -> list[tuple[float, float]]:
    """The centres of the leaves of a box."""
    step = TWIG_HEIGHT + TWIG_GAP
    top = box.y - step * (len(box.twigs) - 1) / 2
    x = box.x - layout.box_width / 2 - layout.stem - layout.twig_width / 2
    return [(x, top + step * i) for i in range(len(box.twigs))]


def lay_out(boxes: list[Box]) -> Layout:
    """Give every box its place."""
    texts = [line for box in boxes for line in box.lines]
    twigs = [twig for box in boxes for twig in box.twigs]
    layout = Layout(
        boxes,
        box_width=max(1.5, inches(texts, 8.5) + 0.2),
        twig_width=max(0.8, inches([t.name for t in twigs], 7.5) + 0.2),
        stem=max(0.7, inches([t.shape for t in twigs], 7.0) + 0.3),
    )
    rows = _rows(boxes)
    titles = [TITLE if any(box.layer for box in row) else 0.0 for row in rows]
    heights = [max(map(_block_height, row)) + title + ROW_GAP for row, title in zip(rows, titles, strict=True)]
    columns = _columns(rows, heights, max(sum(layout.left_of(b) + layout.box_width / 2 for b in row) for row in rows))
    for number, ranks in enumerate(columns):
        y = 0.0
        for rank in ranks:
            top, bottom = y + titles[rank], y + heights[rank] - ROW_GAP
            layout.bands[number, rank] = top, bottom
            for box in rows[rank]:
                box.column, box.y = number, (top + bottom) / 2
            y = bottom + ROW_GAP
        layout.height = max(layout.height, y - ROW_GAP)
    _place_across(layout, rows, columns)
    _connect(layout, columns)
    return layout


def inches(texts: Sequence[str], points: float) -> float:
    """The width of the longest text, at most: sans-serif letters are about 0.6 as wide as high."""
    return max(map(len, texts), default=0) * points * 0.6 / 72


def _block_height(box: Box) -> float:
    return max(box_height(box), len(box.twigs) * (TWIG_HEIGHT + TWIG_GAP))


def _rows(boxes: Sequence[Box]) -> list[list[Box]]:
    """Boxes by the longest path to them, or right above what reads them; each row by barycentres."""
    known = {box.key: box for box in boxes}
    for box in boxes:
        box.rank = max((known[key].rank + 1 for key, _ in box.inputs if key in known), default=0)
    for box in reversed(boxes):  # down to what reads it, where that makes no more edges longer than shorter
        readers = [other.rank for other in boxes for key, _ in other.inputs if key == box.key]
        if readers and len(box.inputs) <= len(readers):
            box.rank = min(readers) - 1
    rows: list[list[Box]] = [[] for _ in range(max(box.rank for box in boxes) + 1)]
    for box in boxes:
        rows[box.rank].append(box)
    rows = [row for row in rows if row]
    place: dict[str, float] = {}
    for sweep in range(4):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            for i, box in enumerate(row):
                place.setdefault(box.key, i)
            row.sort(key=lambda box: _barycentre(box, boxes, place, sweep % 2 == 0))
            place |= {box.key: i - len(row) / 2 for i, box in enumerate(row)}
    for rank, row in enumerate(rows):
        for box in row:
            box.rank = rank
    return rows


def _barycentre(box: Box, boxes: Sequence[Box], place: dict[str, float], downwards: bool) -> float:
    """The mean place of a box's neighbours above (or below); its own where it has none."""
    above = [place[key] for key, _ in box.inputs if key in place]
    below = [place[b.key] for b in boxes if b.key in place and any(key == box.key for key, _ in b.inputs)]
    near = above if downwards else below
    return sum(near) / len(near) if near else place[box.key]


def _columns(rows: Sequence[Sequence[Box]], heights: Sequence[float], width: float) -> list[range]:
    """The ranks of each column: one column for few rows, else so many that all have the shape of a page.

    A column ends between two layers, if there is such a place near.
    """
    if len(rows) <= _ALONE:
        return [range(len(rows))]
    count = max(2, round(sqrt(_SHAPE * sum(heights) / (width + GUTTER))))
    size = ceil(len(rows) / count)
    columns, start = [], 0
    while start < len(rows):
        end = min(start + size, len(rows))
        ends = [r for r in range(max(start + 1, end - 3), end + 1) if r == len(rows) or _between(rows, r)]
        end = max(ends, default=end)
        columns.append(range(start, end))
        start = end
    return columns


def _between(rows: Sequence[Sequence[Box]], rank: int) -> bool:
    """Whether no layer goes on from the row before."""
    return not {b.layer for b in rows[rank - 1]} & {b.layer for b in rows[rank]} - {""}


def _place_across(layout: Layout, rows: Sequence[list[Box]], columns: Sequence[range]) -> None:
    """Boxes of a row side by side, as near as can be to the middle of what they read; then columns side by side."""
    placed: dict[str, Box] = {}
    half = layout.box_width / 2
    for row in rows:
        x = 0.0
        wishes = []
        for box in row:
            box.x = x + layout.left_of(box)
            x = box.x + half + BOX_GAP
            above = [placed[key].x for key, _ in box.inputs if key in placed and placed[key].column == box.column]
            wishes.append(sum(above) / len(above) if above else None)
        known = [wish - box.x for wish, box in zip(wishes, row, strict=True) if wish is not None]
        shift = sum(known) / len(known) if known else -sum(box.x for box in row) / len(row)
        for box in row:
            box.x += shift
            placed[box.key] = box
    right = 0.0
    for number in range(max(box.column for box in layout.boxes) + 1):
        mine = [box for box in layout.boxes if box.column == number]
        left = min(box.x - layout.left_of(box) for box in mine)
        for box in mine:
            box.x += right - left
        lanes = sum(len(_long(layout, box)) for box in mine)
        lanes += sum(
            other.column == number and box.column != number and other.rank != columns[number].start
            for box in layout.boxes
            for other, _ in _long(layout, box)
        )
        right = max(box.x + half for box in mine) + GUTTER + LANE * lanes
    layout.width = right - GUTTER


def _long(layout: Layout, box: Box) -> list[tuple[Box, str]]:
    """The edges from a box that go not simply to the next row: to which box, and their text."""
    return [
        (other, shape)
        for other in layout.boxes
        for key, shape in other.inputs
        if key == box.key and (other.column != box.column or other.rank != box.rank + 1)
    ]


def _connect(layout: Layout, columns: Sequence[range]) -> None:
    """Route the edges: straight down to the next row, by lanes at the right of the column to others."""
    known = {box.key: box for box in layout.boxes}
    for box in layout.boxes:
        across = sorted(box.inputs, key=lambda edge: known[edge[0]].x)  # edges come in without crossing
        for i, (key, shape) in enumerate(across):
            source = known[key]
            if source.column == box.column and source.rank + 1 == box.rank:
                layout.paths.append(_straight(layout, source, box, i, shape))
    router = _Router(layout, columns)
    for box in layout.boxes:
        for other, shape in _long(layout, box):
            layout.paths.append(router.route(box, other, shape))


def _entry(layout: Layout, box: Box, i: int) -> float:
    """Where the edge of input `i` meets the top of a box."""
    count = len(box.inputs)
    return box.x + (i - (count - 1) / 2) * min(0.5, layout.box_width / (count + 1))


def _straight(layout: Layout, source: Box, box: Box, i: int, label: str) -> Path:
    """An edge to the next row."""
    enters = _entry(layout, box, i)
    leaves = source.x if len(box.inputs) == 1 or source.x != box.x else enters
    low, high = layout.bands[box.column, source.rank][1], layout.bands[box.column, box.rank][0]
    high -= TITLE if box.layer else 0.0
    start, end = source.y + box_height(source) / 2, box.y - box_height(box) / 2
    points = [(leaves, start), (leaves, low), (enters, high), (enters, end)]
    return Path(_distinct(points), label, ((leaves + enters) / 2, (low + high) / 2), False)


def _distinct(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners, without those that stand where the one before does."""
    return [
        p
        for i, p in enumerate(points)
        if i == 0 or max(abs(p[0] - points[i - 1][0]), abs(p[1] - points[i - 1][1])) > 0.01
    ]


class _Router:
    """Lanes at the right of columns, tracks between rows, and a roof above all of them."""

    def __init__(self, layout: Layout, columns: Sequence[range]) -> None:
        self.layout, self.columns = layout, columns
        self.half = layout.box_width / 2
        rows: dict[tuple[int, int], list[Box]] = {}
        for box in layout.boxes:
            rows.setdefault((box.column, box.rank), []).append(box)
        self.outermost = {max(row, key=lambda box: box.x).key for row in rows.values()}
        self.titled = {place for place, row in rows.items() if any(box.layer for box in row)}
        self.next_lane = {
            number: max(box.x for box in layout.boxes if box.column == number) + self.half + 0.1 + LANE
            for number in range(len(columns))
        }
        self.roof = -0.1
        self.taken: dict[tuple[str, bool], int] = {}

    def route(self, box: Box, other: Box, label: str) -> Path:
        """An edge that goes not simply to the next row."""
        lane = self._lane(box.column)
        points = self._out(box, lane)
        turn = len(points) - 1
        if other.column != box.column:
            self.roof -= 0.14
            points.append((lane, self.roof))
            if other.rank == self.columns[other.column].start:
                enters = _entry(self.layout, other, self._number(other, True))
                points += [(enters, self.roof), (enters, other.y - box_height(other) / 2)]
            else:
                lane = self._lane(other.column)
                points += [(lane, self.roof), *self._into(other, lane)]
        else:
            points += self._into(other, lane)
        (x, y), (_, end) = points[turn], points[turn + 1]
        return Path(points, label, (x, (y + end) / 2), True)

    def _lane(self, column: int) -> float:
        """The next free lane of a column."""
        x = self.next_lane[column]
        self.next_lane[column] += LANE
        return x

    def _number(self, box: Box, enters: bool) -> int:
        """How many such edges a box had before."""
        number = self.taken.get((box.key, enters), 0)
        self.taken[box.key, enters] = number + 1
        return number

    def _out(self, box: Box, lane: float) -> list[tuple[float, float]]:
        """From a box to a lane: at its side or, where another box is in the way, below its row."""
        i = self._number(box, False)
        if box.key in self.outermost:
            return [(box.x + self.half, y := box.y + 0.08 + 0.1 * i), (lane, y)]
        x, below = box.x + 0.3 + 0.1 * i, self.layout.bands[box.column, box.rank][1] + TRACK + 0.04 * i
        return [(x, box.y + box_height(box) / 2), (x, below), (lane, below)]

    def _into(self, box: Box, lane: float) -> list[tuple[float, float]]:
        """From a lane to a box, in the same way."""
        i = self._number(box, True)
        if box.key in self.outermost:
            return [(lane, y := box.y - 0.14 + 0.08 * i), (box.x + self.half, y)]
        place = box.column, box.rank
        above = self.layout.bands[place][0] - TITLE * (place in self.titled) - TRACK - 0.04 * i
        x = box.x + 0.35 + 0.1 * i
        return [(lane, above), (x, above), (x, box.y - box_height(box) / 2)]
