"""Emoji and their Unicode names: 1,405 pictures of 64 × 64 pixels, with captions.

`python -m underhood.stable_diffusion.data` renders them from Noto Color Emoji (on
Debian and Ubuntu: apt install fonts-noto-color-emoji) into `emoji/emoji.png`, one sheet
of all the pictures, and `emoji/captions.txt`. Both are kept with the code, so that
neither training nor the book needs the font.
"""

from __future__ import annotations

import argparse
import io
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm import tqdm

FOLDER = Path(__file__).parent / "emoji"
SIZE = 64  # pixels, of each side
COLUMNS = 38  # pictures in a row of the sheet
FONT_NAME = "NotoColorEmoji.ttf"
FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
BITMAP = (136, 128)  # width, height of the pictures in the font
POINT_SIZE = 109  # the one size that the font has

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "brown")
SHAPES = {
    "heart": "{} heart",
    "circle": "large {} circle",
    "square": "large {} square",
    "book": "{} book",
}
# Never seen in training: each color and each shape is, in other combinations.
HELD_OUT = (
    "green heart",
    "orange heart",
    "large blue circle",
    "large purple circle",
    "large red square",
    "large yellow square",
    "blue book",
)


@dataclass(frozen=True)
class EmojiSet:
    """Pictures with captions.

    Args:
        images: (pictures, 3, 64, 64), uint8.
        captions: Unicode names in lower case, all different.
        held_out: (pictures,), true where training may not look.
    """

    images: Tensor
    captions: tuple[str, ...]
    held_out: Tensor

    def __len__(self) -> int:
        return len(self.captions)

    def find(self, caption: str) -> int | None:
        """The row of a caption; None if no emoji has that name."""
        return self.captions.index(caption) if caption in self.captions else None

    def scaled(self) -> Tensor:
        """The pictures as models see them: (pictures, 3, 64, 64), from -1 to 1."""
        return self.images.float() / 127.5 - 1

    def training(self) -> Tensor:
        """The indices of the pictures for training, in order."""
        return (~self.held_out).nonzero().flatten()


def find_font(path: Path | str | None = None) -> Path:
    """The file of Noto Color Emoji: `path`, or what the usual folders hold.

    Raises:
        FileNotFoundError: there is none; the message says how to get one.
    """
    if path is not None:
        if Path(path).is_file():
            return Path(path)
        raise FileNotFoundError(f"font: there is no file {path}")
    for folder in FONT_FOLDERS:
        for found in sorted(Path(folder).expanduser().rglob(FONT_NAME)):
            return found
    raise FileNotFoundError(
        f"font: no {FONT_NAME} in {', '.join(FONT_FOLDERS)}; install it (Debian and "
        f"Ubuntu: apt install fonts-noto-color-emoji) or name the file with --font"
    )


def open_font(path: Path) -> ImageFont.FreeTypeFont:
    """The font at the one size that it has pictures for.

    Raises:
        ValueError: the file is something else.
    """
    try:
        # A path would do, but Pillow takes another font of that name if this is none.
        return ImageFont.truetype(
            io.BytesIO(path.read_bytes()),
            POINT_SIZE,
            layout_engine=ImageFont.Layout.BASIC,
        )
    except OSError as error:
        message = f"font: {path} has no pictures of size {POINT_SIZE}: {error}"
        raise ValueError(message) from None


def draw_character(font: ImageFont.FreeTypeFont, character: str) -> Image.Image | None:
    """One emoji on white, 64 × 64, or None where the font has no picture of it."""
    if font.getbbox(character)[2:] != BITMAP:
        return None
    side = max(BITMAP)
    layer = Image.new("RGBA", (side, side))
    top = (side - BITMAP[1]) // 2
    ImageDraw.Draw(layer).text((0, top), character, font=font, embedded_color=True)
    if layer.getchannel("A").getbbox() is None:  # a control character: nothing to see
        return None
    canvas = Image.new("RGBA", layer.size, "white")
    canvas.alpha_composite(layer)
    return canvas.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def render(path: Path | str | None = None) -> tuple[list[str], Tensor]:
    """All code points that have a Unicode name and a picture in the font.

    Args:
        path: of the font; None: `find_font` looks for it.

    Returns:
        The captions, and the pictures (pictures, 3, 64, 64), uint8.
    """
    path = find_font(path)
    font = open_font(path)
    captions, pictures = [], []
    for code in tqdm(range(0x20, 0x20000), desc="render", unit=" characters"):
        name = unicodedata.name(chr(code), "").lower()
        picture = draw_character(font, chr(code)) if name else None
        if picture is not None:
            captions.append(name)
            pictures.append(torch.from_numpy(np.array(picture)))
    if not captions:
        raise ValueError(f"font: {path} holds no picture of any named character")
    return captions, torch.stack(pictures).permute(0, 3, 1, 2).contiguous()


def sheet(images: Tensor, columns: int = COLUMNS, gap: int = 0) -> Image.Image:
    """Pictures in rows, on white.

    Args:
        images: (pictures, 3, height, width), uint8. gap: pixels between neighbors.
    """
    count, _, height, width = images.shape
    rows = -(-count // columns)
    canvas = np.full((rows * (height + gap), columns * (width + gap), 3), 255, np.uint8)
    for position, image in enumerate(images.permute(0, 2, 3, 1).cpu().numpy()):
        row, column = divmod(position, columns)
        top, left = row * (height + gap), column * (width + gap)
        canvas[top : top + height, left : left + width] = image
    canvas = canvas[: len(canvas) - gap, : canvas.shape[1] - gap]
    return Image.fromarray(canvas)


def to_bytes(images: Tensor) -> Tensor:
    """Pictures from -1 to 1 to uint8, clipped and rounded."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def save(captions: Sequence[str], images: Tensor, folder: Path | str = FOLDER) -> None:
    """Write the sheet and the captions, each whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "emoji.part.png"
    sheet(images).save(picture, optimize=True)
    text = folder / "captions.part.txt"
    text.write_text("".join(f"{caption}\n" for caption in captions), encoding="utf-8")
    os.replace(picture, folder / "emoji.png")
    os.replace(text, folder / "captions.txt")


def load(folder: Path | str = FOLDER) -> EmojiSet:
    """The rendered emoji of `folder`.

    Raises:
        FileNotFoundError: they were not rendered.
        ValueError: sheet and captions do not belong together.
    """
    folder = Path(folder)
    captions = (folder / "captions.txt").read_text(encoding="utf-8").splitlines()
    with Image.open(folder / "emoji.png") as picture:
        pixels = torch.from_numpy(np.array(picture.convert("RGB")))
    rows = -(-len(captions) // COLUMNS)
    if tuple(pixels.shape) != (rows * SIZE, COLUMNS * SIZE, 3):
        raise ValueError(
            f"{folder / 'emoji.png'}: {pixels.shape[1]} × {pixels.shape[0]} pixels; "
            f"{len(captions)} captions need {COLUMNS * SIZE} × {rows * SIZE}"
        )
    cells = pixels.view(rows, SIZE, COLUMNS, SIZE, 3).permute(0, 2, 4, 1, 3)
    images = cells.reshape(-1, 3, SIZE, SIZE)[: len(captions)].contiguous()
    held_out = torch.tensor([caption in HELD_OUT for caption in captions])
    return EmojiSet(images, tuple(captions), held_out)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Render the emoji for training.")
    parser.add_argument("--font", type=Path, help=f"{FONT_NAME}; else the usual places")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write")
    options = parser.parse_args(arguments)
    captions, images = render(options.font)
    save(captions, images, options.folder)
    print(f"{len(captions)} emoji in {options.folder}")


if __name__ == "__main__":
    main()
