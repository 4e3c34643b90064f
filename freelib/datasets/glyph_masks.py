"""Characters as masks, drawn from the fonts that matplotlib ships."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
)

_INK = [0] * 64 + [255] * 192  # what is darker than a quarter counts as ink

SCRIPTS = ("latin", "greek-cyrillic", "signs")


def script_of(class_name: str) -> str:
    """The script of a character by its Unicode name: "latin", "greek-cyrillic" or "signs".

    Raises KeyError if there is no such character.
    """
    unicodedata.lookup(class_name)
    first = class_name.split()[0]
    return "latin" if first == "LATIN" else "greek-cyrillic" if first in ("GREEK", "CYRILLIC") else "signs"


def font_path(font: str) -> Path:
    """The file of one of FONTS inside the installed matplotlib."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"


def shared_characters() -> list[str]:
    """The characters that every one of FONTS has, in the order of their code points."""
    from matplotlib.ft2font import FT2Font

    return sorted(
        map(chr, set.intersection(*(set(FT2Font(font_path(font)).get_charmap()) for font in FONTS)))
    )


@cache
def _font(font: str, pixels: int) -> ImageFont.FreeTypeFont:
    # The basic layout engine is in every build of Pillow; the other one depends on what the system has.
    return ImageFont.truetype(font_path(font), pixels, layout_engine=ImageFont.Layout.BASIC)


def turned(character: str, font: str, pixels: int, angles: Sequence[float] = (0.0,)) -> list[Image.Image]:
    """The character in a font of a height, turned by each angle in degrees, cropped to its ink: 8-bit grey.

    Raises ValueError if the font draws nothing for the character.
    """
    drawn = _font(font, pixels)
    left, top, right, bottom = drawn.getbbox(character)
    upright = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(upright).text((4 - left, 4 - top), character, fill=255, font=drawn)
    found = []
    for degrees in angles:
        canvas = upright.rotate(degrees, Image.Resampling.BILINEAR, expand=True) if degrees else upright
        box = canvas.point(_INK).getbbox()
        if box is None:
            raise ValueError(f"{font} draws nothing for {character!r}; expected a character that leaves ink")
        found.append(canvas.crop(box))
    return found


def fit(ink: Image.Image, side: int, stretch: float = 1.0) -> Image.Image:
    """The picture with its width times `stretch`, then scaled so that its longer side is `side` pixels."""
    width, height = ink.width * stretch, float(ink.height)
    scale = side / max(width, height)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    return ink.resize(shape, Image.Resampling.BILINEAR)
