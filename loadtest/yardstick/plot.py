"""A picture of the medians: for each profile a small chart of bars with a scale of its own, from zero.

SVG by hand, with colours for light and for dark backgrounds. Every bar has its name and its value written beside it, so that
colours carry nothing alone; the gateway's are the strong ones.
"""

from html import escape

COLUMNS, WIDTH, GAP = 2, 440, 40
NAME, BAR, ROW, HEAD, TOP = 116, 250, 20, 34, 64
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 16px; font-weight: 600; } .head { font-size: 13px; font-weight: 600; } .dim { fill: #59636e; }
  .back { fill: #ffffff; } .bar { fill: #a8b3bf; } .own { fill: #0969da; } .line { stroke: #d1d9e0; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .dim { fill: #9198a1; }
    .back { fill: #0d1117; } .bar { fill: #57606a; } .own { fill: #4493f8; } .line { stroke: #3d444d; }
  }
"""


def number(value):
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def chart(x, y, profile, figure, bars):
    """One profile, from its upper left corner."""
    most = max(value for _, value in bars) or 1
    yield f'<text class="head" x="{x}" y="{y + 14}">{escape(profile)}</text>'
    yield f'<text class="dim" x="{x + NAME}" y="{y + 14}">{escape(figure)}</text>'
    bottom = y + HEAD - 10 + ROW * len(bars)
    yield f'<line class="line" x1="{x + NAME - 1}" y1="{y + HEAD - 12}" x2="{x + NAME - 1}" y2="{bottom}"/>'
    for place, (name, value) in enumerate(bars):
        top, length = y + HEAD - 10 + place * ROW, max(1, value / most * BAR)
        own = " own" if name.startswith("torana") else ""
        yield f'<text x="{x + NAME - 8}" y="{top + 12}" text-anchor="end">{escape(name)}</text>'
        yield f'<rect class="bar{own}" x="{x + NAME}" y="{top}" width="{length:.1f}" height="{ROW - 5}" rx="2"/>'
        yield f'<text class="dim" x="{x + NAME + length + 6:.1f}" y="{top + 12}">{number(value)}</text>'


def caption(about):
    """What was measured, in lines that fit."""
    lines, line = [], f"{about['time'][:10]}, {about['cpu']}: "
    for version in about["versions"]:
        if len(line) + len(version) > 125:
            lines.append(line)
            line = ""
        line += version + ", "
    return [*lines, line.rstrip(", ")]


def draw(rows, about):
    """The picture as SVG."""
    lines, said, heights = [], caption(about), [TOP + 16 * len(caption(about))] * COLUMNS
    for profile, figure, bars in rows:
        column = heights.index(min(heights))
        lines += chart(20 + column * (WIDTH + GAP), heights[column], profile, figure, bars)
        heights[column] += HEAD + ROW * len(bars) + 14
    width, height = 20 + COLUMNS * (WIDTH + GAP), max(heights) + 6
    said = [f'<text class="dim" x="20" y="{50 + 16 * place}">{escape(line)}</text>' for place, line in enumerate(said)]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        'aria-label="What a request costs each proxy, by profile; less is better">',
        f"<style>{STYLE}</style>", f'<rect class="back" width="{width}" height="{height}"/>',
        '<text class="title" x="20" y="28">What a request costs, by profile: one worker on one CPU; less is better</text>',
        *said, *lines, "</svg>",
    ]) + "\n"
