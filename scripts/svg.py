"""Plots as SVG text: points or lines over two axes, nothing else needed."""

import html
import math

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 360, 70, 20, 40, 50
COLOURS = ["#1f6feb", "#d1242f", "#1a7f37", "#8250df"]


def ticks(lo, hi, n=6):
    """About n round numbers from lo to hi."""
    if hi <= lo:
        hi = lo + 1
    step = 10 ** math.floor(math.log10((hi - lo) / n))
    step *= next(m for m in (1, 2, 5, 10) if (hi - lo) / (step * m) <= n)
    first = math.ceil(lo / step)
    return [i * step for i in range(first, math.floor(hi / step + 1e-9) + 1)]


def number(v):
    return f"{v:g}" if abs(v) < 10000 else f"{v / 1000:g}k"


class Plot:
    def __init__(self, title, x_label, y_label):
        self.title, self.x_label, self.y_label, self.series = title, x_label, y_label, []

    def line(self, name, points):
        self.series.append((name, list(points), True))

    def dots(self, name, points):
        self.series.append((name, list(points), False))

    def range(self, axis):
        values = [p[axis] for _, points, _ in self.series for p in points]
        lo, hi = min([0, *values]), max(values, default=1)
        return lo, hi if hi > lo else lo + 1

    def svg(self):
        (x0, x1), (y0, y1) = self.range(0), self.range(1)

        def px(x):
            return round(LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT), 1)

        def py(y):
            return round(HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM), 1)

        out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            f'<text x="{LEFT}" y="20" font-size="15">{html.escape(self.title)}</text>',
        ]
        for t in ticks(x0, x1):
            out.append(f'<line x1="{px(t)}" y1="{TOP}" x2="{px(t)}" y2="{HEIGHT - BOTTOM}" stroke="#eee"/>')
            out.append(f'<text x="{px(t)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{number(t)}</text>')
        for t in ticks(y0, y1):
            out.append(f'<line x1="{LEFT}" y1="{py(t)}" x2="{WIDTH - RIGHT}" y2="{py(t)}" stroke="#ddd"/>')
            out.append(f'<text x="{LEFT - 6}" y="{py(t) + 4}" text-anchor="end">{number(t)}</text>')
        out.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">{html.escape(self.x_label)}</text>')
        out.append(
            f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{html.escape(self.y_label)}</text>'
        )
        for i, (name, points, joined) in enumerate(self.series):
            colour = COLOURS[i % len(COLOURS)]
            if joined:
                path = " ".join(f"{px(x)},{py(y)}" for x, y in points)
                out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
            else:
                out += [f'<circle cx="{px(x)}" cy="{py(y)}" r="2" fill="{colour}" fill-opacity="0.5"/>' for x, y in points]
            at = WIDTH - RIGHT - 150 * (len(self.series) - i)
            out.append(f'<text x="{at}" y="20" fill="{colour}">{html.escape(name)}</text>')
        return "\n".join([*out, "</svg>", ""])
