"""Lines of dots in a terminal: each character of braille is two dots wide and four high.

Small enough to keep: plotext, the library for this, draws on one figure of the whole process, has no types, and its
version 6 broke the interface of 5. https://www.unicode.org/charts/PDF/U2800.pdf has the characters.
"""

DOTS_X, DOTS_Y = 2, 4
"""Dots in a character."""

_BLANK = 0x2800
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot, by row and column."""


class Canvas:
    """`width` by `height` characters of dots; (0, 0) is the dot at the lower left."""

    def __init__(self, width: int, height: int) -> None:
        self._cells = [[0] * width for _ in range(height)]
        self.dots_x = width * DOTS_X
        self.dots_y = height * DOTS_Y

    def dot(self, x: int, y: int) -> None:
        """Set a dot."""
        from_top = self.dots_y - 1 - y
        self._cells[from_top // DOTS_Y][x // DOTS_X] |= _BITS[from_top % DOTS_Y][x % DOTS_X]

    def line(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Set the dots between two, and these."""
        (x0, y0), (x1, y1) = start, end
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for step in range(steps + 1):
            self.dot(round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps))

    def lines(self) -> list[str]:
        """Return the rows of characters from top to bottom."""
        return ["".join(chr(_BLANK | bits) for bits in row) for row in self._cells]
