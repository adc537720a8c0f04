"""A picture to show operations on: drawn by code, since the package ships no photograph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

HEIGHT, WIDTH = 160, 208
_FINE = 4  # drawn this much larger, then averaged: soft edges
_BALLOONS = (
    (38, 30, 15, "#d8342b", "#f6c445"),
    (78, 20, 9, "#2c7fb8", "#f2f2ec"),
    (104, 44, 12, "#8e44ad", "#f08fb4"),
    (66, 58, 7, "#f28c1e", "#2f9e6e"),
)  # centre x, centre y, radius, colours

Canvas = NDArray[np.float64]


def draw_scene() -> NDArray[np.uint8]:
    """Return a landscape, uint8 (160, 208, 3), the same at every call.

    It holds what operations act on: soft gradients, a sky near to white, dark woods of little
    contrast, fine texture, saturated hues all around the circle, straight edges, letters.
    """
    size = (_FINE * WIDTH, _FINE * HEIGHT)
    canvas = Image.fromarray(_ground().astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    _draw_balloons(canvas)
    _draw_woods(canvas)
    _draw_house(canvas)
    _draw_fence_and_sign(canvas)
    small = canvas.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    grain = np.random.default_rng(0).normal(0.0, 1.5, (HEIGHT, WIDTH, 1))
    return np.clip(np.asarray(small) + grain, 0, 255).round().astype(np.uint8)


def _ground() -> Canvas:
    """Return sky with sun and clouds, hills, and a meadow, float64 (2 H, 2 W, 3) in [0, 255]."""
    y, x = np.mgrid[: 2 * HEIGHT, : 2 * WIDTH] / 2
    sky = _blend(np.array([58, 120, 196]), np.array([226, 226, 214]), (y / 92)[..., None])
    sun = np.exp(-((x - 168) ** 2 + (y - 26) ** 2) / 420)[..., None]
    sky = _blend(sky, np.array([255, 246, 206]), 1.1 * sun)
    bank = np.exp(-(((y - 30 - 5 * np.sin(x / 31)) / 22) ** 2))
    cloud = np.clip(2.4 * (_noise(x, y, 1) - 0.42), 0, 1) * bank
    land = _blend(sky, np.array([250, 249, 245]), 0.85 * cloud[..., None])
    for number, (line, colour) in enumerate(
        [(84, (128, 152, 186)), (94, (92, 124, 134)), (104, (82, 124, 74))]
    ):
        crest = (
            line - 9 * np.sin(x / (27 + 9 * number) + 2.1 * number) - 4 * np.sin(x / 11 + number)
        )
        shade = 1 - 0.18 * _noise(x, 2 * y, 5 + number)[..., None]
        land = np.where((y > crest)[..., None], np.array(colour) * shade, land)
    meadow = _blend(np.array([150, 176, 66]), np.array([64, 110, 34]), ((y - 112) / 48)[..., None])
    blades = 0.72 + 0.5 * _noise(3 * x, 0.8 * y, 9)[..., None]
    edge = 112 + 3 * np.sin(x / 23)
    land = np.where((y > edge)[..., None], meadow * blades, land)
    return np.clip(land, 0, 255)


def _blend(one: Canvas | NDArray[np.int64], other: NDArray[np.int64], share: Canvas) -> Canvas:
    share = np.clip(share, 0.0, 1.0)
    blended: Canvas = one * (1 - share) + other * share
    return blended


def _noise(x: Canvas, y: Canvas, seed: int) -> Canvas:
    """Return smooth noise in [0, 1]: waves of six sizes in directions drawn by seed."""
    generator = np.random.default_rng(seed)
    total = np.zeros_like(x)
    for octave in range(6):
        for _ in range(3):
            angle, phase = generator.uniform(0, 2 * np.pi, 2)
            wave = (x * np.cos(angle) + y * np.sin(angle)) * 2**octave / 24
            total += np.sin(wave + phase) / 1.6**octave
    low, high = total.min(), total.max()
    noise: Canvas = (total - low) / (high - low)
    return noise


def _draw_balloons(canvas: Image.Image) -> None:
    draw = ImageDraw.Draw(canvas)
    for x, y, radius, one, other in _BALLOONS:
        box = _fine(x - radius, y - radius, x + radius, y + 1.15 * radius)
        mask = Image.new("L", canvas.size, 0)
        ImageDraw.Draw(mask).ellipse(box, fill=255)
        stripes = Image.new("RGB", canvas.size, one)
        painter = ImageDraw.Draw(stripes)
        for stripe in (-0.62, 0.0, 0.62):
            centre, half = x + stripe * radius, 0.16 * radius
            painter.rectangle(
                _fine(centre - half, y - 2 * radius, centre + half, y + 2 * radius), other
            )
        canvas.paste(_round_shade(stripes, x, y, radius), (0, 0), mask)
        foot = y + 1.75 * radius
        for side in (-0.35, 0.35):
            top, end = x + 1.6 * side * radius, x + 0.6 * side * radius
            draw.line(_fine(top, y + 0.9 * radius, end, foot), "#4a3b2c", 2)
        draw.rectangle(
            _fine(x - 0.2 * radius, foot, x + 0.2 * radius, foot + 0.3 * radius), "#7a5230"
        )


def _round_shade(picture: Image.Image, x: float, y: float, radius: float) -> Image.Image:
    """Return a picture lit from the upper right, dark on the other side of a ball."""
    rows, columns = np.mgrid[: picture.height, : picture.width] / _FINE
    away = np.hypot(columns - x - 0.4 * radius, rows - y + 0.4 * radius) / radius
    light = np.clip(1.18 - 0.42 * away**2, 0.3, 1.2)[..., None]
    return Image.fromarray(np.clip(np.asarray(picture) * light, 0, 255).astype(np.uint8))


def _draw_woods(canvas: Image.Image) -> None:
    """Draw conifers in the shade: detail that only equalisation brings out."""
    generator = np.random.default_rng(3)
    draw = ImageDraw.Draw(canvas)
    for x in np.sort(generator.uniform(-6, 62, 16)).tolist():
        foot, height = 122 + generator.uniform(0, 14), generator.uniform(34, 56)
        for tier in range(7):
            top, half = foot - height * (1 - tier / 8), 2 + 1.3 * tier
            level = int(generator.integers(16, 40))
            colour = (level // 2, level, level * 2 // 3)
            draw.polygon(
                _fine(x, top, x - half, top + height / 4, x + half, top + height / 4), colour
            )
        draw.rectangle(_fine(x - 1, foot - 2, x + 1, foot + 3), (30, 20, 14))


def _draw_house(canvas: Image.Image) -> None:
    draw = ImageDraw.Draw(canvas)
    shadow = Image.new("L", canvas.size, 0)
    ImageDraw.Draw(shadow).polygon(_fine(70, 138, 152, 138, 132, 147, 48, 147), 110)
    soft = shadow.filter(ImageFilter.GaussianBlur(6))
    canvas.paste(Image.new("RGB", canvas.size, "#16240c"), (0, 0), soft)
    draw.rectangle(_fine(80, 96, 148, 138), "#b5402f")
    for row, y in enumerate(range(96, 138, 3)):
        draw.line(_fine(80, y, 148, y), "#8f2f22", 2)
        for x in range(80 + 3 * (row % 2), 148, 6):
            draw.line(_fine(x, y, x, y + 3), "#973325", 2)
    draw.polygon(_fine(74, 97, 114, 68, 154, 97), "#454b55")
    for step in range(1, 6):
        half, height = 40 * step / 6 - 1, 68 + 29 * step / 6
        draw.line(_fine(114 - half, height, 114 + half, height), "#5d6470", 3)
    draw.rectangle(_fine(132, 66, 140, 86), "#70352b")
    for x in (86, 128):
        draw.rectangle(_fine(x, 104, x + 14, 120), "#f3ead7")
        draw.rectangle(_fine(x + 1.5, 105.5, x + 12.5, 118.5), "#28435e")
        draw.polygon(_fine(x + 1.5, 118.5, x + 12.5, 105.5, x + 12.5, 112), "#7fa6c4")
        draw.line(_fine(x + 7, 104, x + 7, 120), "#f3ead7", 5)
    draw.rectangle(_fine(107, 111, 121, 138), "#1f6f6b")
    draw.ellipse(_fine(117, 124, 119, 126), "#f2d16b")


def _draw_fence_and_sign(canvas: Image.Image) -> None:
    draw = ImageDraw.Draw(canvas)
    for x in range(2, 66, 6):
        draw.rectangle(_fine(x, 134, x + 2.5, 154), "#efeade")
        draw.polygon(_fine(x, 134, x + 1.25, 131.5, x + 2.5, 134), "#efeade")
    for y in (138, 148):
        draw.rectangle(_fine(0, y, 67, y + 2), "#d9d2c2")
    draw.rectangle(_fine(166, 128, 169, 158), "#5b4029")
    draw.rectangle(_fine(151, 112, 183, 132), "#f7f3e3", "#2a2a2a", 4)
    font = ImageFont.load_default(11 * _FINE)
    draw.text((167 * _FINE, 122 * _FINE), "LOOK", "#1c1c1c", font, anchor="mm")
    generator = np.random.default_rng(8)
    colours = ("#e5332a", "#f6d33c", "#ffffff", "#e56bb0", "#5a54c9")
    for number in range(60):
        across, down = generator.uniform(70, 208), generator.uniform(144, 159)
        radius = 0.7 + 0.05 * (down - 142)
        box = _fine(across - radius, down - radius, across + radius, down + radius)
        draw.ellipse(box, colours[number % 5])


def _fine(*places: float) -> list[float]:
    return [_FINE * place for place in places]
