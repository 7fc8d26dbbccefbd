"""Draws the pictures of "how it works": `python docs/pictures/draw.py` writes the SVG files beside it.

One function a picture, plain SVG, one accent color, which always means noise. A test compares what is committed.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

INK, GREY, LINE, PALE = "#1f2933", "#616e7c", "#9aa5b1", "#f1f4f7"
NOISE, PALE_NOISE = "#0f766e", "#d3f0ea"


class Picture:
    """A list of SVG elements. Coordinates are pixels, y downwards."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, '
            f'sans-serif" font-size="14">',
            f"<title>{title}</title>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="{INK}"/></marker>'
            '<marker id="noise-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="{NOISE}"/></marker></defs>',
        ]

    def box(self, x, y, w, h, text="", below="", fill=PALE, stroke=LINE, ink=INK, size=14) -> None:
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="5" fill="{fill}" stroke="{stroke}" '
            'stroke-width="1.2"/>'
        )
        middle = y + h / 2 + (-3 if below else 5)
        self.text(x + w / 2, middle, text, anchor="middle", ink=ink, size=size)
        if below:
            self.text(x + w / 2, middle + 17, below, anchor="middle", ink=GREY, size=size - 2)

    def text(self, x, y, text, anchor="start", ink=INK, size=14, weight="normal", italic=False) -> None:
        style = ' font-style="italic"' if italic else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{ink}" font-size="{size}" '
            f'font-weight="{weight}"{style}>{text}</text>'
        )

    def line(self, points, ink=INK, width=1.5, dash="", tip="", fill="none") -> None:
        path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        ended = f' marker-end="url(#{tip})"' if tip else ""
        self.parts.append(f'<path d="{path}" fill="{fill}" stroke="{ink}" stroke-width="{width}"{dashed}{ended}/>')

    def arrow(self, x1, y1, x2, y2, noise=False, dash="", width=1.5) -> None:
        self.line(
            [(x1, y1), (x2, y2)], NOISE if noise else INK, width, dash, "noise-tip" if noise else "tip"
        )  # fmt: skip

    def dot(self, x, y, radius=4, fill=INK, stroke="none") -> None:
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}" stroke="{stroke}"/>')

    def ellipse(self, x, y, rx, ry, fill="none", stroke=LINE, dash="") -> None:
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<ellipse cx="{x}" cy="{y}" rx="{rx}" ry="{ry}" fill="{fill}" stroke="{stroke}" '
            f'stroke-width="1.2"{dashed}/>'
        )

    def svg(self) -> str:
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def noise_function() -> Picture:
    p = Picture(820, 268, "Five integers go into Philox and a distribution; one noise value comes out")
    names = [("seed", "64 bits, yours"), ("stream", "which parameter"), ("step", "which draw"), ("i", "which element")]
    for k, (name, meaning) in enumerate(names):
        p.box(20, 24 + 58 * k, 150, 44, name, meaning)
    p.box(214, 198, 110, 44, "block, lane", "of element i", fill="#ffffff")
    p.arrow(170, 220, 212, 220)
    p.box(372, 62, 150, 96, "Philox4x32-7", "key, counter → bits")
    p.arrow(170, 46, 370, 82)
    p.text(285, 58, "key", ink=GREY, size=12)
    p.arrow(170, 104, 370, 106)
    p.arrow(170, 162, 370, 132)
    p.arrow(324, 206, 382, 160)
    p.text(352, 196, "block", ink=GREY, size=12)
    p.text(230, 98, "counter", ink=GREY, size=12)
    for k in range(4):
        p.box(566, 62 + 25 * k, 76, 21, f"word {k}", fill=PALE_NOISE if k == 2 else "#ffffff", size=12)
    p.arrow(522, 110, 562, 110)
    p.line([(324, 226), (684, 226), (684, 139)], tip="tip")
    p.text(610, 244, "lane picks word and half", anchor="middle", ink=GREY, size=12)
    p.arrow(642, 122, 660, 122)
    p.box(662, 100, 62, 38, "law", fill="#ffffff")
    p.arrow(724, 119, 752, 119, noise=True)
    p.text(784, 114, "b · ε", anchor="middle", ink=NOISE, size=18, weight="bold")
    p.text(784, 134, "the noise", anchor="middle", ink=NOISE, size=12)
    return p


def noise_layout() -> Picture:
    p = Picture(820, 330, "128 elements of a superblock: 16 blocks side by side, 8 lanes deep")
    left, top, w, h = 118, 62, 40, 26
    for lane in range(8):
        p.text(left - 10, top + h * lane + 18, f"lane {lane}", anchor="end", ink=GREY, size=12)
        for j in range(16):
            chosen = j == 5 or lane == 2
            p.box(
                left + w * j, top + h * lane, w, h, str(16 * lane + j), size=12,
                fill=PALE_NOISE if chosen else "#ffffff", stroke=NOISE if chosen else LINE,
            )  # fmt: skip
        if lane % 2 == 0:
            y = top + h * lane
            x = left + 16 * w + 8
            p.line([(x, y + 3), (x + 5, y + 3), (x + 5, y + 2 * h - 3), (x, y + 2 * h - 3)], LINE)
    for k in range(4):
        p.text(770, top + h * (2 * k + 1) - 8 + 12, f"word {k}", size=11, ink=GREY, anchor="start")
    p.text(left + w * 5.5, 30, "block 16 s + 5", anchor="middle", ink=NOISE, size=13)
    p.arrow(left + w * 5.5, 36, left + w * 5.5, 58, noise=True)
    p.text(left + w * 5.5, 292, "one Philox call: 4 words, 8 values", anchor="middle", ink=NOISE, size=13)
    p.text(left + w * 13, 292, "16 neighbors: one vector register", anchor="middle", ink=NOISE, size=13)
    p.line([(left + w * 13, 278), (left + w * 13, 272 - 4), (left + w * 13, top + 3 * h)], NOISE, 1.2, "3 3")
    p.text(left, 318, "element i:  s = i // 128,  r = i % 128,  block 16 s + r % 16,  lane r // 16", size=13)
    return p


def step_path() -> Picture:
    p = Picture(820, 330, "Clean weights move by gradients that are taken at noisy weights")
    for scale in (1.0, 0.74, 0.48, 0.24):
        p.ellipse(585, 190, 205 * scale, 118 * scale, stroke="#d5dbe1")
    clean = [(96, 60), (206, 84), (304, 124), (392, 156), (468, 176)]
    noise = [(34, -34), (-8, 46), (42, -26), (-30, 38), (36, 30)]
    p.line(clean, INK, 2.2, tip="tip")
    for t, ((x, y), (dx, dy)) in enumerate(zip(clean, noise)):
        p.arrow(x, y, x + dx * 0.93, y + dy * 0.93, noise=True, dash="4 3")
        p.dot(x, y, 4.5)
        p.dot(x + dx, y + dy, 4.5, fill=NOISE)
        name = f"θ<tspan dy='4' font-size='10'>{t}</tspan>"
        if dy < 0:
            p.text(x - 8, y + 20, name, anchor="end", size=15)
        else:
            p.text(x + 8, y - 12, name, size=15)
    p.text(150, 24, "θ + ε: what the parameters hold,", ink=NOISE, size=13)
    p.text(150, 42, "where the gradient is taken", ink=NOISE, size=13)
    p.line([(20, 250), (60, 250)], INK, 2.2, tip="tip")
    p.text(70, 255, "the rule, SGD or Adam, on the clean weights", size=13)
    p.arrow(20, 280, 60, 280, noise=True, dash="4 3")
    p.text(70, 285, "the perturbation: on until the next step takes it off", size=13)
    p.text(585, 194, "loss", anchor="middle", ink=LINE, size=13)
    return p


def step_memory() -> Picture:
    p = Picture(820, 292, "What a step reads and writes: stored noise against noise that is computed again")
    p.text(20, 30, "Noise stored, one operation after the other", weight="bold")
    names = ["weight", "gradient", "momentum", "noise now", "noise before"]
    for k, name in enumerate(names):
        p.box(20 + 126 * k, 46, 114, 40, name, "4 bytes", fill=PALE_NOISE if k > 2 else PALE, size=13)
    p.text(656, 62, "8 bytes per weight", ink=NOISE, size=13)
    p.text(656, 80, "for the noise", ink=NOISE, size=13)
    for k, name in enumerate(["rule", "draw", "subtract", "add", "copy"]):
        p.box(20 + 126 * k, 104, 114, 26, name, fill="#ffffff", size=12)
        if k:
            p.arrow(134 + 126 * (k - 1), 117, 18 + 126 * k, 117)
    p.text(656, 121, "each one through memory", ink=GREY, size=12)
    p.text(20, 178, "Noise computed, one pass", weight="bold")
    for k, name in enumerate(names[:3]):
        p.box(20 + 126 * k, 194, 114, 40, name, "4 bytes", size=13)
    p.box(452, 194, 340, 66, "", fill="#ffffff", stroke=NOISE)
    p.text(622, 216, "in registers, for each element once:", anchor="middle", size=13)
    p.text(622, 238, "− b ε(t−1)   →   rule   →   + b ε(t)", anchor="middle", ink=NOISE, size=15)
    p.arrow(390, 208, 450, 208)
    p.line([(450, 224), (392, 224)], tip="tip")
    p.text(20, 260, "0 bytes for the noise", ink=NOISE, size=13)
    return p


def step_cycle() -> Picture:
    p = Picture(820, 356, "One draw serves four steps: the pair of values that a word gives is turned by quarters")
    ox, oy, radius, start = 168, 186, 118, math.radians(28)
    p.ellipse(ox, oy, radius, radius, stroke=LINE, dash="4 3")
    p.line([(ox - 146, oy), (ox + 146, oy)], LINE, 1)
    p.line([(ox, oy + 146), (ox, oy - 146)], LINE, 1)
    p.text(ox + 114, oy + 17, "first element", anchor="end", ink=GREY, size=12)
    p.text(ox + 8, oy - 136, "second element", ink=GREY, size=12)
    for turn in range(4):
        angle = start + turn * math.pi / 2
        x, y = ox + radius * math.cos(angle), oy - radius * math.sin(angle)
        p.arrow(ox, oy, x, y, noise=True, width=2.2)
        p.text(ox + 1.17 * (x - ox), oy + 1.17 * (y - oy) + 5, f"{turn}", anchor="middle", ink=NOISE, weight="bold")
        p.line(
            [
                (ox + 34 * math.cos(angle + a), oy - 34 * math.sin(angle + a))
                for a in [math.radians(d) for d in range(12, 80, 4)]
            ],
            INK, 1.2, tip="tip",
        )  # fmt: skip
    p.text(ox, 348, "a word's two values, turn by turn", anchor="middle", ink=GREY, size=13)
    left, top, w, h = 446, 60, 42, 30
    steps = range(7, 15)
    p.text(left - 12, top - 14, "step t", anchor="end", size=13)
    for column, t in enumerate(steps):
        p.text(left + w * (column + 0.5), top - 14, str(t), anchor="middle", size=13)
    pairs = [("x", "y"), ("−y", "x"), ("−x", "−y"), ("y", "−x")]
    for row, name in enumerate(("draw, t // 4", "turn, t % 4", "first element", "second element", "draws made")):
        y = top + row * (h + 6)
        p.text(left - 12, y + 20, name, anchor="end", size=13)
        for column, t in enumerate(steps):
            prime = {1: "", 2: "′", 3: "″"}[t // 4]
            made = 2 if t % 4 == 0 else 1
            cell = (str(t // 4), str(t % 4), *(value + prime for value in pairs[t % 4]), str(made))[row]
            is_first = t // 4 == 2
            fill = PALE_NOISE if row in (2, 3) and is_first else "#ffffff"
            p.box(left + w * column, y, w, h, cell, fill=fill, stroke=NOISE if is_first else LINE, size=13)
    bottom = top + 5 * (h + 6) + 14
    a, b = left + w + 3, left + 5 * w - 3
    p.line([(a, bottom - 8), (a, bottom), (b, bottom), (b, bottom - 8)], NOISE)
    p.text(left + 3 * w, bottom + 20, "sum to zero, element by element", anchor="middle", ink=NOISE, size=13)
    p.text(left + 3 * w, bottom + 40, "5 draws in 4 steps, not 8", anchor="middle", ink=NOISE, size=13)
    p.text(left + 3 * w, bottom + 62, "a prime more with each draw", anchor="middle", ink=GREY, size=12)
    return p


def direction() -> Picture:
    p = Picture(820, 372, "A weight vector is turned by an angle towards a random tangent direction")
    ox, oy, radius = 210, 300, 210
    p.line(
        [(ox + radius * math.cos(a), oy - radius * math.sin(a)) for a in [math.radians(d) for d in range(12, 169, 2)]],
        LINE,
    )  # fmt: skip
    p.ellipse(ox, oy - radius * math.cos(0.62), radius * math.sin(0.62), 26, stroke=NOISE, fill=PALE_NOISE, dash="5 4")
    p.arrow(ox, oy, ox, oy - radius + 3, width=2.2)
    p.text(ox + 10, oy - radius - 10, "v", size=17, italic=True)
    tx, ty = ox + radius * math.sin(0.62) * 0.86, oy - radius * math.cos(0.62) + 13
    p.arrow(ox, oy, tx, ty, noise=True, width=2.2)
    p.text(tx + 38, ty + 6, "r = cos(angle) v + sin(angle) φ", ink=NOISE, size=15)
    p.line([(ox, oy - 70), (ox + 14, oy - 69), (ox + 30, oy - 62), (ox + 38, oy - 56)], NOISE, 1.3)
    p.text(ox + 22, oy - 78, "angle", ink=NOISE, size=12)
    p.arrow(ox, oy, ox - 130, oy - 92, width=2.2)
    p.text(ox - 146, oy - 94, "x", size=17, italic=True)
    p.line([(ox - 130, oy - 92), (ox, oy - 92)], INK, 1.2, "4 3")
    p.text(ox - 72, oy - 98, "ρ", size=15)
    p.text(ox - 8, oy - 70, "s = v · x", anchor="end", size=13)
    p.text(ox - 130, oy + 30, "every isotropic noise is a distribution of the angle;", size=13, ink=GREY)
    p.text(ox - 130, oy + 50, "φ is uniform on the circle (a sphere in n − 1 dimensions)", size=13, ink=GREY)
    p.box(490, 176, 306, 150, "", fill="#ffffff")
    p.text(643, 204, "what one neuron makes of one input", anchor="middle", ink=GREY, size=13)
    p.text(643, 238, "x · r = cos(angle) s + sin(angle) ρ u", anchor="middle", size=15, ink=NOISE)
    p.text(643, 270, "u: one coordinate of a uniform point on the", anchor="middle", size=13)
    p.text(643, 288, "unit sphere, for φ looks alike in all directions", anchor="middle", size=13)
    p.text(643, 312, "no vector has to be drawn: two numbers do", anchor="middle", size=13, weight="bold")
    return p


def layer_pass() -> Picture:
    p = Picture(820, 262, "One product and one pass give every example and neuron noise of its own")
    p.box(30, 74, 70, 110, "X", "examples", size=16)
    p.text(116, 134, "×", size=18)
    p.box(134, 94, 110, 70, "Vᵀ", "unit vectors", size=16)
    p.text(258, 134, "=", size=18)
    p.box(282, 74, 110, 110, "s", "one product", size=16)
    p.box(30, 204, 70, 34, "|x|²", size=14)
    p.arrow(392, 130, 440, 130)
    p.line([(100, 221), (420, 221), (420, 150), (440, 150)], tip="tip")
    p.box(442, 60, 214, 138, "", fill=PALE_NOISE, stroke=NOISE)
    p.text(549, 86, "one pass, for each (i, j):", anchor="middle", size=13)
    p.text(549, 112, "angle, u, magnitude", anchor="middle", size=15, ink=NOISE)
    p.text(549, 130, "from the block of output (i, j)", anchor="middle", size=12, ink=GREY)
    p.text(549, 160, "g (cos s + sin ρ u) + bias", anchor="middle", size=15)
    p.text(549, 184, "nothing of this is stored", anchor="middle", size=12, ink=GREY)
    p.arrow(656, 130, 676, 130)
    p.box(678, 74, 126, 110, "Y", "examples × units", size=16)
    p.text(30, 36, "In weight space every example would need a weight matrix of its own.", size=14)
    return p


def icon() -> str:
    random.seed(3)
    height = lambda x: 32 - 16 * math.sin(x / 64 * 4 * math.pi) + random.uniform(-5, 5)  # noqa: E731
    wave = " L".join(f"{x} {height(x):.1f}" for x in range(4, 61, 4))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64" rx="12" '
        f'fill="{NOISE}"/><path d="M{wave}" fill="none" stroke="#ffffff" stroke-width="4" stroke-linejoin="round" '
        'stroke-linecap="round"/></svg>\n'
    )


def pictures() -> dict[str, str]:
    """File name -> contents."""
    drawn = (noise_function, noise_layout, step_path, step_memory, step_cycle, direction, layer_pass)
    return {**{f"{draw.__name__}.svg": draw().svg() for draw in drawn}, "icon.svg": icon()}


if __name__ == "__main__":
    for name, text in pictures().items():
        (Path(__file__).parent / name).write_text(text)
