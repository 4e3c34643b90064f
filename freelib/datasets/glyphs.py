"""`glyphs`: a few-shot data set that needs no download, drawn from the fonts that matplotlib ships.

100 characters of three scripts, 600 images each. An image is a character in one of 16 fonts, turned, scaled,
shifted and sheared, in a colour that fades into another, on two colours that fade into each other under
blotches, stripes and noise. Image i of a class depends on the class and on i alone.
"""

import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from freelib.datasets.class_lists import ClassLists
from freelib.datasets.sources import Pixels

Floats = NDArray[np.float32]

REVISION = 1  # raise when the images change: cached ones are then drawn again
SEED = 2405
MAX_TURN, MAX_SHEAR = 20.0, 0.12  # degrees; sideways move per unit of height
SCALE, MAX_SHIFT = (0.5, 0.85), 0.1  # longer side of the ink and its shift, as parts of the image's side
MIN_CONTRAST = 0.35  # distance of the ink's colours from the background's in RGB, in [0, sqrt(3)]
STYLES = {
    "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic"),
    "STIXGeneral": ("", "Bol", "Italic", "BolIta"),
}
FONTS = tuple(family + style for family, styles in STYLES.items() for style in styles)
_INK = [0] * 64 + [255] * 192  # of a mask's 256 values: what is above a quarter counts as ink


def font_path(font: str) -> Path:
    """The file of one of FONTS inside the installed matplotlib."""
    import matplotlib  # takes a while, and only drawing needs it

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"


@cache
def _font(font: str, pixels: int) -> ImageFont.FreeTypeFont:
    # The basic layout engine is in every build of Pillow; the other one depends on what the system has.
    return ImageFont.truetype(font_path(font), pixels, layout_engine=ImageFont.Layout.BASIC)


def character_mask(character: str, font: str, pixels: int) -> Image.Image:
    """The character in a font of a height, with a margin: 8-bit grey."""
    drawn = _font(font, pixels)
    left, top, right, bottom = drawn.getbbox(character)
    mask = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(mask).text((4 - left, 4 - top), character, fill=255, font=drawn)
    return mask


def crop_and_fit(mask: Image.Image, side: int, stretch: float = 1.0) -> Image.Image:
    """The mask cropped to its ink, its width times `stretch`, then scaled: its longer side is `side` pixels.

    Raises ValueError where there is no ink.
    """
    box = mask.point(_INK).getbbox()
    if box is None:
        raise ValueError("the mask of a character has no ink: its font does not draw it")
    ink = mask.crop(box)
    width, height = ink.width * stretch, float(ink.height)
    scale = side / max(width, height)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    return ink.resize(shape, Image.Resampling.BILINEAR)


class GlyphSource:
    """Draws the images; `images_per_class` below 600 gives the first ones of each class."""

    def __init__(self, classes: ClassLists, images_per_class: int = 600, name: str = "glyphs") -> None:
        if images_per_class < 1:
            raise ValueError(f"images_per_class is {images_per_class}; expected at least 1")
        self.name, self.classes, self.images_per_class = name, classes, images_per_class
        self.location = f"{name}, {images_per_class} images a class"

    def fingerprint(self) -> str:
        """Changes with the way the images are drawn."""
        return f"revision {REVISION}"

    def read_class(self, class_name: str, size: int) -> Pixels:
        """The images of the character of this Unicode name: uint8 (n, 3, size, size)."""
        return draw(unicodedata.lookup(class_name), self.images_per_class, size)


def draw(character: str, n: int, size: int) -> Pixels:
    """Images of a character: uint8 (n, 3, size, size)."""
    # A generator for each kind of draw: fewer images are then the first ones of more.
    streams = [np.random.default_rng([SEED, ord(character), k]) for k in range(5)]
    poses, colours, places, grains, noise = streams
    ink = _inks(character, n, size, poses)[:, None]  # (n, 1, size, size)
    palette = _palettes(n, colours)  # (n, 4, 3): two of the background, two of the ink
    fields = _fields(n, size, places)  # (n, 4, size, size)
    back = _mix(palette[:, 0], palette[:, 1], fields[:, 0])
    front = _mix(palette[:, 2], palette[:, 3], fields[:, 1])
    back += fields[:, 2:3] + fields[:, 3:4]
    picture = back + ink * (front - back)
    strength = 0.06 * grains.random(n, dtype=np.float32)
    for i in range(n):  # one by one: noise for all at once would take more memory than the images
        picture[i] += strength[i] * noise.standard_normal((3, size, size), dtype=np.float32)
    return np.clip(np.rint(255 * picture), 0, 255).astype(np.uint8)


def _inks(character: str, n: int, size: int, rng: np.random.Generator) -> Floats:
    """The posed character, 0 off and 1 on the ink: (n, size, size)."""
    side = 2 * size  # drawn twice as large and then averaged: soft edges
    masks = [crop_and_fit(character_mask(character, font, 2 * side), side) for font in FONTS]
    inks = np.empty((n, size, size), dtype=np.float32)
    for i, (font, turn, shear, scale, *shift) in enumerate(rng.random((n, 6))):
        source = masks[int(font * len(FONTS))]
        angle = np.deg2rad(MAX_TURN * (2 * turn - 1))
        slope = MAX_SHEAR * (2 * shear - 1)
        zoom = 1 / (SCALE[0] + (SCALE[1] - SCALE[0]) * scale)
        cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
        # Pillow wants the way back: from a pixel of the picture to a place in the mask.
        a, b, d, e = cos + slope * sin, sin - slope * cos, -sin, cos
        x, y = (0.5 + MAX_SHIFT * (2 * s - 1) for s in shift)
        c = source.width / 2 - side * (a * x + b * y)
        f = source.height / 2 - side * (d * x + e * y)
        posed = source.transform((side, side), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR)
        inks[i] = np.asarray(posed.reduce(2), dtype=np.float32)
    inks /= 255
    return inks


def _palettes(n: int, rng: np.random.Generator) -> Floats:
    """Two colours of the background and two of the ink that stand out from both: (n, 4, 3) in [0, 1]."""
    draws = rng.random((n, 10, 3))
    back, others = draws[:, :2], draws[:, 2:]
    distance = np.linalg.norm(others[:, :, None] - back[:, None], axis=-1).min(axis=-1)  # (n, 8)
    # The first colour that is far enough, not the farthest: some images are hard to see.
    clear = distance >= MIN_CONTRAST
    first = np.where(clear.any(axis=1), clear.argmax(axis=1), distance.argmax(axis=1))
    clear[np.arange(n), first] = False
    second = np.where(clear.any(axis=1), clear.argmax(axis=1), first)
    rows = np.arange(n)
    return np.stack([back[:, 0], back[:, 1], others[rows, first], others[rows, second]], axis=1).astype(np.float32)


def _fields(n: int, size: int, rng: np.random.Generator) -> Floats:
    """For each image two ramps in [0, 1], blotches and stripes around 0: (n, 4, size, size)."""
    draws = rng.random((n, 9 + 36)).astype(np.float32)
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    x, y = axis[None, None, :], axis[None, :, None]

    def along(direction: Floats) -> Floats:
        angle = (2 * np.pi * direction)[:, None, None]
        return np.cos(angle) * x + np.sin(angle) * y

    ramps = [
        np.clip(0.5 + (along(draws[:, k]) + 0.5 * (draws[:, k + 1, None, None] - 0.5)) * 1.2, 0, 1) for k in (0, 2)
    ]
    frequency, phase = draws[:, 5], draws[:, 6]
    height = np.maximum(0, 2 * draws[:, 7] - 1)  # half of the images have none
    waves = 2 * np.pi * ((3 + 7 * frequency)[:, None, None] * along(draws[:, 4]) + phase[:, None, None])
    stripes = 0.2 * height[:, None, None] * np.sin(waves)
    coarse = draws[:, 9:].reshape(n, 6, 6) - 0.5
    blotches = 0.5 * draws[:, 8, None, None] * (_spread(6, size) @ coarse @ _spread(6, size).T)
    return np.stack([*ramps, blotches, stripes], axis=1).astype(np.float32)


def _spread(few: int, many: int) -> Floats:
    """Linear interpolation from few points to many: (many, few)."""
    places = np.linspace(0, few - 1, many, dtype=np.float32)[:, None]
    return np.maximum(0, 1 - np.abs(places - np.arange(few, dtype=np.float32)))


def _mix(first: Floats, second: Floats, ramp: Floats) -> Floats:
    """One colour fading into another: (n, 3), (n, 3), (n, size, size) -> (n, 3, size, size)."""
    return first[:, :, None, None] * (1 - ramp[:, None]) + second[:, :, None, None] * ramp[:, None]
