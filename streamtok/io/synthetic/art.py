"""Textures and sprites of the synthetic drive, drawn once per process by OpenCV.

Ground textures are RGB uint8 (1024 along the road, 1024 across), with copies halved along each axis (anisotropic
mipmaps). Every row of the picture reads one that suits its distance. Sprites are RGBA uint8 (H, W, 4) with
premultiplied alpha, each with its halved copies (mipmaps), biggest first.
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

TILE_LENGTH, TILE_WIDTH = 108.0, 64.0
"""Metres that a ground texture covers along and across the road; 108 m holds twelve lane dashes of 9 m."""
TILE_PIXELS = 1024
ROAD_EDGE = 6.3
PAINT = (226, 226, 216)
YELLOW = (226, 182, 70)
LANE_MARKS = (  # (x, width, colour, dashed) of every painted line; dashes are 3 m long, every 9 m
    *((-5.45, 0.16, PAINT, False), (-1.95, 0.13, YELLOW, False), (-1.65, 0.13, YELLOW, False)),
    *((1.8, 0.15, PAINT, True), (5.45, 0.16, PAINT, False)),
)


def _parse_colors(text: str) -> list[tuple[int, ...]]:
    return [tuple(bytes.fromhex(color)) for color in text.split()]


CAR_COLORS = _parse_colors("bc2226 e8e8ec 242830 969ca4 224a96 186054 d28c24 681e3c")
WALLS = _parse_colors("b0967a c8c0b0 966252 8a8e96 d2b484 78706c b8785c a8b0aa")
LEAVES = ((66, 104, 40), (88, 122, 44), (50, 88, 44), (140, 112, 40), (74, 112, 58), (96, 110, 36))
VERGES = {
    "meadow": ((82, 118, 52), (52, 84, 36), (124, 138, 70)),
    "town": ((150, 146, 138), (128, 126, 122), (118, 132, 86)),
    "field": ((186, 160, 92), (150, 122, 68), (128, 138, 66)),
}


@lru_cache(maxsize=8)
def noise(height: int, width: int, slope: float, salt: int) -> np.ndarray:
    """Tileable noise (height, width), float32 of mean 0 and deviation 1; amplitude falls as frequency to `slope`."""
    rng = np.random.default_rng([salt, height, width])
    fy, fx = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width
    radius = np.maximum(np.hypot(fy, fx), 1.0)
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / radius**slope
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=(height, width))
    return (field / field.std()).astype(np.float32)


@lru_cache(maxsize=4)
def ground(biome: str) -> dict[tuple[int, int], np.ndarray]:
    """{(halvings along, halvings across): texture, uint8 RGB} of road and verge in one biome."""
    full = _ground_texture(biome)
    levels = {}
    for along in range(8):
        for across in range(7):
            size = (TILE_PIXELS >> across, TILE_PIXELS >> along)
            levels[along, across] = cv2.resize(full, size, interpolation=cv2.INTER_AREA)
    return levels


def _ground_texture(biome: str) -> np.ndarray:
    base, dark, patch = (np.array(c, np.float32) for c in VERGES[biome])
    rough = noise(TILE_PIXELS, TILE_PIXELS, 0.55, 1)[..., None]
    broad = noise(TILE_PIXELS, TILE_PIXELS, 1.5, 2)[..., None]
    verge = base + (dark - base) * np.clip(0.5 + 0.5 * broad, 0, 1) + rough * (11 if biome != "town" else 5)
    blotch = np.clip(noise(TILE_PIXELS, TILE_PIXELS, 1.2, 3)[..., None] - 0.6, 0, 1)
    verge += (patch - verge) * blotch
    x = _across()
    if biome == "town":  # paving slabs, with joints
        s = np.arange(TILE_PIXELS)[:, None, None] * TILE_LENGTH / TILE_PIXELS
        verge *= 0.97 + 0.06 * ((s % 1.0 > 0.12) & (x % 1.0 > 0.12)).astype(np.float32)
    if biome == "field":  # furrows
        verge *= 0.94 + 0.12 * (np.abs(x / 1.4 % 1.0 - 0.5) * 2).astype(np.float32)

    road = np.flatnonzero(np.abs(x[0, :, 0]) < ROAD_EDGE)
    tracks = sum(7 * np.exp(-(((x[:, road] - wheel) / 0.35) ** 2)) for wheel in (-4.5, -2.7, -0.9, 0.9, 2.7, 4.5))
    verge[:, road] = rough[:, road] * 5 + broad[:, road] * 6 - tracks + np.array([104, 105, 108], np.float32)
    shoulder = np.flatnonzero(np.abs(np.abs(x[0, :, 0]) - ROAD_EDGE - 0.35) < 0.35)
    verge[:, shoulder] = rough[:, shoulder] * 12 + np.array([128, 120, 106], np.float32)
    return _paint_lanes(np.clip(verge, 0, 255).astype(np.uint8))


def _across() -> np.ndarray:
    return ((np.arange(TILE_PIXELS) + 0.5) / TILE_PIXELS - 0.5)[None, :, None].astype(np.float32) * TILE_WIDTH


def _paint_lanes(texture: np.ndarray) -> np.ndarray:
    s = (np.arange(TILE_PIXELS) + 0.5) * TILE_LENGTH / TILE_PIXELS
    worn = np.clip(1.0 - 0.25 * np.maximum(noise(TILE_PIXELS, TILE_PIXELS, 0.9, 4), 0), 0.4, 1)
    texel = TILE_WIDTH / TILE_PIXELS
    for x0, width, color, dashed in LANE_MARKS:
        cover = np.clip((width / 2 + texel / 2 - np.abs(_across()[0, :, 0] - x0)) / texel, 0, 1)
        along = (s % 9.0 < 3.0) if dashed else np.ones_like(s)
        touched = np.flatnonzero(cover)
        alpha = (along[:, None] * cover[touched] * worn[:, touched])[..., None]
        below = texture[:, touched]
        texture[:, touched] = np.clip(below + (np.array(color) - below) * alpha, 0, 255)
    return texture


def pyramid(sprite: np.ndarray) -> list[np.ndarray]:
    """A sprite, uint8 RGBA (H, W, 4), and its halved copies down to 4 pixels, colour multiplied by alpha."""
    levels: list[np.ndarray] = [
        np.concatenate([sprite[..., :3] * (sprite[..., 3:] / 255.0), sprite[..., 3:]], -1).astype(np.uint8)
    ]
    while min(levels[-1].shape[:2]) >= 8:
        height, width = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return levels


def _canvas(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 4), np.uint8)


def _fill(image: np.ndarray, points: Sequence[tuple[float, float]], color: Sequence[float] | np.ndarray) -> None:
    cv2.fillPoly(image, [np.array(points).astype(np.int32)], (*[int(c) for c in color[:3]], 255), cv2.LINE_AA)


def _blob(image: np.ndarray, x: float, y: float, r: float, color: np.ndarray) -> None:
    cv2.circle(image, (int(x), int(y)), int(r), (*[int(np.clip(c, 0, 255)) for c in color], 255), -1, cv2.LINE_AA)


def _tree(number: int) -> np.ndarray:
    """256 x 256 pixels for a square as wide as the tree."""
    rng, image = np.random.default_rng([number, 5]), _canvas(256, 256)
    _fill(image, [(119, 256), (123, 130), (133, 130), (139, 256)], (84, 62, 44))
    leaf = np.array(LEAVES[number])
    for layer, shade in enumerate((0.62, 0.82, 1.0, 1.2)):
        for _ in range(46 - 9 * layer):
            angle, radius = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform()) * (92 - 14 * layer)
            x, y = 128 - 7 * layer + radius * np.cos(angle), 104 - 10 * layer + 0.86 * radius * np.sin(angle)
            _blob(image, x, y, rng.uniform(9, 22 - 3 * layer), leaf * shade * rng.uniform(0.9, 1.1))
    return image


def _fir(number: int) -> np.ndarray:
    rng, image = np.random.default_rng([number, 6]), _canvas(256, 154)
    cv2.rectangle(image, (72, 215), (82, 256), (70, 52, 40, 255), -1)
    leaf = np.array([(38, 74, 48), (46, 82, 44), (34, 64, 56)][number])
    for step in range(11):
        y, half = 224 - step * 19, 72 - step * 6.0
        for side, shade in ((-1, 1.15), (1, 0.8)):
            tip = 77 + side * half * rng.uniform(0.85, 1.05)
            points = [(77, y - 44), (tip, y + rng.uniform(-3, 5)), (77, y + 4)]
            _fill(image, points, leaf * shade * rng.uniform(0.9, 1.1))
    return image


def _bush(number: int) -> np.ndarray:
    rng, image = np.random.default_rng([number, 8]), _canvas(128, 128)
    for shade in (0.7, 0.9, 1.1):
        for _ in range(24):
            x, y = rng.uniform(22, 106), 128 - abs(rng.normal(26, 18)) * (1.6 - shade * 0.5)
            _blob(image, x, max(y, 50), rng.uniform(8, 17), np.array((78, 104, 50)) * shade * rng.uniform(0.9, 1.1))
    return image


def _lamp(number: int) -> np.ndarray:
    """A lamp, whose arm points right (0, for the left side of the road) or left (1)."""
    image = _canvas(300, 104)
    _fill(image, [(8, 300), (10, 20), (15, 20), (17, 300)], (92, 96, 100))
    cv2.ellipse(image, (62, 26), (50, 20), 0, 180, 285, (92, 96, 100, 255), 5, cv2.LINE_AA)
    cv2.ellipse(image, (82, 10), (18, 6), 0, 0, 360, (120, 122, 120, 255), -1, cv2.LINE_AA)
    return np.ascontiguousarray(image[:, ::-1]) if number else image


def _pole(number: int) -> np.ndarray:
    image = _canvas(320, 104)
    _fill(image, [(48, 320), (49, 4), (55, 4), (57, 320)], (96, 78, 60))
    for y in (22, 46):
        cv2.rectangle(image, (14, y), (90, y + 6), (88, 72, 58, 255), -1)
    return image


def _sign(number: int) -> np.ndarray:
    image = _canvas(232, 64)
    cv2.rectangle(image, (29, 60), (35, 232), (120, 122, 124, 255), -1)
    if number < 2:
        cv2.circle(image, (32, 32), 30, (200, 32, 36, 255), -1, cv2.LINE_AA)
        cv2.circle(image, (32, 32), 22, (240, 240, 236, 255), -1, cv2.LINE_AA)
        text = ("50", "30")[number]
        cv2.putText(image, text, (15, 42), cv2.FONT_HERSHEY_SIMPLEX, 0.85, (30, 30, 34, 255), 3, cv2.LINE_AA)
    elif number == 2:
        cv2.rectangle(image, (2, 6), (61, 58), (30, 84, 160, 255), -1)
        cv2.arrowedLine(image, (32, 52), (32, 14), (240, 240, 240, 255), 6, cv2.LINE_AA, tipLength=0.45)
    else:
        _fill(image, [(32, 2), (62, 56), (2, 56)], (206, 40, 38))
        _fill(image, [(32, 16), (50, 49), (14, 49)], (242, 240, 226))
    return image


SPRITES = {  # kinds of things beside the road: the function that draws one, and the number of variants
    "tree": (_tree, 6),
    "fir": (_fir, 3),
    "bush": (_bush, 3),
    "lamp": (_lamp, 2),
    "pole": (_pole, 1),
    "sign": (_sign, 4),
}


@lru_cache(maxsize=len(SPRITES))
def sprites(kind: str) -> list[list[np.ndarray]]:
    """All sprites of one of SPRITES, each a `pyramid` of uint8 RGBA (H, W, 4)."""
    draw, count = SPRITES[kind]
    return [pyramid(draw(number)) for number in range(count)]


@lru_cache(maxsize=1)
def houses() -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
    """(facade by day, lit windows only) of eight houses, `pyramid`s from 256 x 256 on, to be stretched over a wall."""
    return [_house(number, wall) for number, wall in enumerate(WALLS)]


def _house(number: int, wall: tuple[int, ...]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng, image, lit = np.random.default_rng([number, 9]), _canvas(256, 256), _canvas(256, 256)
    grain = noise(256, 256, 0.8, 10 + number)[..., None] * 5
    image[..., :3] = np.clip(np.array(wall) + grain, 0, 255)
    image[..., 3] = 255
    image[:12, :, :3] = np.array(wall) * 0.55
    columns, rows = int(rng.integers(4, 8)), int(rng.integers(3, 6))
    for row, column in itertools.product(range(rows), range(columns)):
        x, y = int((column + 0.22) * 256 / columns), int(18 + (row + 0.2) * 238 / rows)
        far = (x + int(0.56 * 256 / columns), y + int(0.58 * 238 / rows))
        cv2.rectangle(image, (x - 2, y - 2), (far[0] + 2, far[1] + 2), (222, 218, 208, 255), -1)
        glass = np.array((70, 92, 116)) * rng.uniform(0.6, 1.25)
        cv2.rectangle(image, (x, y), far, (*[int(c) for c in glass], 255), -1)
        if rng.uniform() < 0.45:
            cv2.rectangle(lit, (x, y), far, (255, 206, 120, 255), -1)
    return pyramid(image), pyramid(lit)


@lru_cache(maxsize=1)
def glow() -> list[np.ndarray]:
    """A soft round light, a `pyramid` from (64, 64, 4) on; alpha falls to nothing at the rim."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    fall = np.clip(1 - np.hypot(x, y), 0, 1) ** 2
    return pyramid(np.dstack([np.full((64, 64, 3), 255.0), fall * 255]).astype(np.uint8))


@lru_cache(maxsize=1)
def shadow() -> list[np.ndarray]:
    """A soft round shadow, a `pyramid` from (48, 48, 4) on; alpha falls to nothing at the rim."""
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    fall = np.clip(1.6 * (1 - np.hypot(x, y)), 0, 1) * 0.62
    return pyramid(np.dstack([np.zeros((48, 48, 3)), fall * 255]).astype(np.uint8))
