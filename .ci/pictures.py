"""Made-up pictures of one digit, as people pass them to prepare_digit.

Ink is (h, w), 0 to 1, 1 where the pen was.
Levels are grey or colours, 0 black to 1 white.
"""

import io
import re

import numpy as np
from PIL import Image, ImageDraw, ImageOps
from scipy import ndimage

WHITE, CREAM, YELLOW = (1, 1, 1), (0.97, 0.95, 0.88), (0.99, 0.93, 0.62)
BLACK, BLUE, RED = (0.08, 0.08, 0.1), (0.1, 0.16, 0.55), (0.75, 0.1, 0.12)
BLACKBOARD, CHALK = (0.12, 0.18, 0.15), (0.92, 0.92, 0.88)
EXIF_ORIENTATION = 0x0112
REFUSAL = re.compile("blank|several|two digits|no pen strokes")


def written(image, rng, side=None, level=None):
    """A digit (28, 28) uint8 as a pen writes it, a little turned: ink, cropped to it.

    side: pixels; level: from 0.15 (bold) to 0.5 (thin).
    """
    side = side or int(rng.integers(60, 280))
    level = level or rng.uniform(0.22, 0.5)
    turned = Image.fromarray(image).rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC)
    soft = ndimage.gaussian_filter(
        np.asarray(turned.resize((side, side))) / 255, 0.02 * side
    )
    ink = np.clip(0.5 + 5 * (soft - level * soft.max()), 0, 1)
    (box,) = ndimage.find_objects((ink > 0.3).astype(int))
    return ink[box]


def page(image, rng, **pen):
    """A written digit with room around it: ink."""
    ink = written(image, rng, **pen)
    room = rng.uniform(0.15, 0.5, (2, 2)) * max(ink.shape)
    return np.pad(ink, room.astype(int))


def picture(levels):
    return Image.fromarray((255 * np.clip(levels, 0, 1)).astype(np.uint8))


def colored(ink, paper, pen):
    """Ink in a pen's colour on paper: levels (h, w, 3)."""
    paper, pen = np.array(paper), np.array(pen)
    return paper + ink[..., np.newaxis] * (pen - paper)


def any_colors(rng):
    paper = [WHITE, CREAM, YELLOW][rng.integers(3)]
    pen = [BLACK, BLUE, RED][rng.integers(3)]
    return paper, pen


def lamp_and_shadow(shape, rng):
    """Light (h, w) from one side, with the soft edge of a shadow across it."""
    height, width = shape
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    distance = np.cos(angle) * x + np.sin(angle) * y - rng.uniform(-0.4, 0.4)
    edge = 1 / (1 + np.exp(-distance / rng.uniform(0.01, 0.15)))
    lamp = rng.uniform(0.6, 1) * (1 - rng.uniform(0, 0.4) * (x + 0.5))
    return lamp * (1 - rng.uniform(0, 0.5) * edge)


def photo(image, rng):
    """Any ink on any paper, or chalk, in bad light, as a turned JPEG: bytes."""
    ink = page(image, rng, side=int(rng.integers(40, 600)))
    paper, pen = any_colors(rng)
    if rng.random() < 0.2:
        paper, pen = BLACKBOARD, CHALK
    levels = colored(ink, paper, pen) * lamp_and_shadow(ink.shape, rng)[..., np.newaxis]
    levels = levels + rng.normal(0, rng.uniform(0, 0.03), levels.shape)
    turned = picture(levels).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # turn it back
    file = io.BytesIO()
    turned.save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()


def sheet(image, rng):
    """A sheet of paper on a dark table, a little turned."""
    ink = page(image, rng)
    room = (rng.uniform(0.1, 0.4, (2, 2)) * max(ink.shape)).astype(int)
    is_paper = np.pad(np.ones(ink.shape), room)[..., np.newaxis]
    paper = np.pad(colored(ink, *any_colors(rng)), [*room, (0, 0)])
    levels = is_paper * paper + (1 - is_paper) * rng.uniform(0.05, 0.4, 3)
    angle = rng.uniform(-8, 8)
    return picture(
        ndimage.rotate(levels, angle, reshape=False, mode="nearest", order=1)
    )


def scanned(image, rng):
    """A page with one to four dark edges, as scanners leave them."""
    ink = page(image, rng)
    has_edge = rng.permutation([1, *rng.integers(0, 2, 3)])
    widths = has_edge * (1 + rng.uniform(0.03, 0.1, 4) * len(ink)).astype(int)
    return np.pad(1 - 0.9 * ink, widths.reshape(2, 2), constant_values=0.1)


def cropped(image, rng):
    """A bold digit without paper around it; every second one on transparent ground."""
    ink = written(image, rng, level=rng.uniform(0.15, 0.3))
    if rng.random() < 0.5:
        return picture(1 - 0.9 * ink)
    grey = np.full((*ink.shape, 3), 0.3)
    return picture(np.dstack([grey, ink]))


def small(image, rng):
    """A digit of 8 to 35 pixels a side, white on black."""
    side = int(rng.integers(8, 36))
    return Image.fromarray(image).crop((4, 4, 24, 24)).resize((side, side))


def on_disc(image, rng):
    """A light digit on a dark disc, or a dark one on a pale disc, on other paper."""
    side = 240
    diameter = int(rng.uniform(0.65, 0.95) * side)
    size = int(diameter * rng.uniform(0.45, 0.8))
    ink = centred(written(image, rng, side=size), side)
    mask = Image.new("L", (side, side))
    edge = (side - diameter) // 2
    ImageDraw.Draw(mask).ellipse([edge, edge, side - edge, side - edge], fill=255)
    disc = np.asarray(mask)[..., np.newaxis] / 255
    color, pen = [(rng.uniform(0.05, 0.5, 3), WHITE), (YELLOW, BLACK)][rng.integers(2)]
    paper = [WHITE, CREAM, (0.6, 0.6, 0.6)][rng.integers(3)]
    return picture(colored(ink, disc * color + (1 - disc) * paper, pen))


def in_ring(image, rng, share=(0.35, 0.6), off=0):
    """A digit with a ring drawn round it, not quite closed.

    share: the least and largest size of the digit in pictures; off: its distance from
    the middle in pixels.
    """
    side = 240
    ink = centred(written(image, rng, side=int(side * rng.uniform(*share))), side)
    angle = rng.uniform(0, 2 * np.pi)
    ink = np.roll(ink, (int(off * np.sin(angle)), int(off * np.cos(angle))), (0, 1))
    ring = Image.new("L", (side, side))
    box = [8, 8, side - 8, side - int(rng.integers(8, 30))]
    width = int(rng.integers(3, 10))
    ImageDraw.Draw(ring).arc(box, 20, 375, fill=255, width=width)
    return picture(colored(np.maximum(ink, np.asarray(ring) / 255), *any_colors(rng)))


def off_in_ring(image, rng):
    """A digit in a ring, far from its middle."""
    return in_ring(image, rng, share=(0.25, 0.4), off=40)


def tiny_in_ring(image, rng):
    """A digit in a ring that is much larger."""
    return in_ring(image, rng, share=(0.15, 0.2))


def small_in_ring(image, rng):
    """A digit in a ring, in a picture of 32 to 39 pixels a side."""
    side = int(rng.integers(32, 40))
    return in_ring(image, rng).resize((side, side))


def on_small_disc(image, rng):
    """A digit on a disc that is small on its page."""
    return ImageOps.expand(on_disc(image, rng).convert("L"), 200, fill=245)


def dot():
    """A dark disc on a white page."""
    page = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(page).ellipse([60, 60, 140, 140], fill=0)
    return page


def centred(ink, side):
    """Ink in the middle of a square of this side."""
    rows, columns = side - len(ink), side - ink.shape[1]
    above, left = rows // 2, columns // 2
    return np.pad(ink, ((above, rows - above), (left, columns - left)))


def letter(text, rng):
    """A printed letter or sign."""
    image = Image.new("L", (240, 240), 250)
    size = int(rng.integers(90, 160))
    ImageDraw.Draw(image).text((120, 120), text, fill=20, font_size=size, anchor="mm")
    return image


def pair(images, rng, gap):
    """Two digits side by side, so many pixels apart; None: pushed until they touch."""
    left, right = [written(image, rng, side=200, level=0.35) for image in images]
    left = np.pad(left, ((0, 200 - len(left)), (0, 0)))
    right = np.pad(right, ((0, 200 - len(right)), (0, 0)))
    for apart in range(0, -200, -1) if gap is None else [gap]:
        ink_left = np.pad(left, ((0, 0), (0, right.shape[1] + apart)))
        ink_right = np.pad(right, ((0, 0), (left.shape[1] + apart, 0)))
        if (np.minimum(ink_left, ink_right) > 0.5).sum() > 1:
            break
    return 1 - 0.9 * np.pad(np.maximum(ink_left, ink_right), 40)


def one_with_upstroke(rng):
    """The lines of a 1, as points (x, y); upstroke 28 to 65 degrees from the stem."""
    length, angle = rng.uniform(0.2, 0.7), np.radians(rng.uniform(28, 65))
    tip = (-length * np.sin(angle), length * np.cos(angle))
    foot = [(-0.25, 1), (0.25, 1)]
    return [[(0, 1), (0, 0), tip], foot]


def seven_with_bar(rng):
    foot, bar = rng.uniform(-0.5, -0.1), rng.uniform(0.4, 0.6)
    top = (-rng.uniform(0.5, 0.75), rng.uniform(-0.05, 0.08))
    across = [(bar * foot - 0.2, bar), (bar * foot + 0.2, bar)]
    return [[top, (0, 0), (foot, 1)], across]


def open_zero(rng):
    turns = np.linspace(rng.uniform(0.2, 0.7), 6.3)
    return [[(0.35 * np.sin(t) - 0.2, 0.5 - 0.5 * np.cos(t)) for t in turns]]


def drawn(digit, rng):
    """A 1 with an upstroke, a 7 or an open 0, drawn by lines: grey levels (h, w) uint8.

    Half of the 1s have a foot, and half of the 7s a bar.
    """
    image = Image.new("L", (360, 360), 240)
    pen, slant = int(rng.integers(8, 26)), rng.uniform(-0.05, 0.3)
    lines = {0: open_zero, 1: one_with_upstroke, 7: seven_with_bar}[digit](rng)
    for line in lines[: rng.integers(1, 3)]:
        points = [(200 + 200 * (x - slant * (y - 0.5)), 80 + 200 * y) for x, y in line]
        ImageDraw.Draw(image).line(points, fill=30, width=pen, joint="curve")
    side = int(rng.integers(80, 360))
    return np.asarray(image.resize((side, side)))


def read(source, prepare_digit, model):
    """The digit that a model reads in a picture, or -1 if it is refused."""
    try:
        image = prepare_digit(source)
    except ValueError as error:
        assert REFUSAL.search(str(error)), f"this is no refusal: {error}"
        return -1
    return int(model(image[np.newaxis], training=False).numpy().argmax())
