"""Rendering of the synthetic drive: the camera's projection of the road, and sprites, cars, houses, lights."""

import math

import cv2
import numpy as np

from streamtok.io.synthetic import art
from streamtok.io.synthetic.cars import car
from streamtok.io.synthetic.world import Light, Thing, World

CAMERA_HEIGHT = 1.4
NEAR = 2.2  # nothing nearer than this many metres is drawn
DEPTHS = np.geomspace(NEAR, 420.0, 192)
CLEAR = np.array([[-1, 1]] * 3, np.float32)
"""A colour transform from opacity to the share of the picture below that remains: 1 - opacity, for 3 channels."""
DEPTH_STEP = math.log(420.0 / NEAR) / 191


class View:
    """One frame's camera: projects places on the road, in m, into the picture, in pixels, and gives their haze."""

    def __init__(self, world: World, t: float, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.s, self.offset = world.position(t), world.lateral(t)
        yaw, pitch = world.shake(t)
        self.focal = 0.85 * max(width, height)
        self.column0 = 0.5 * width + self.focal * yaw
        self.horizon = 0.44 * height + self.focal * pitch
        self.azimuth = float(world.heading(self.s)) + yaw
        self.z = DEPTHS
        self.bend, self.rise = world.centre(self.s, self.z), world.elevation(self.s, self.z)
        rows = self.horizon + self.focal * (CAMERA_HEIGHT - self.rise) / self.z
        self.crest = np.minimum.accumulate(rows)
        self._table = [line.tolist() for line in (self.bend, self.rise, self.crest)]

    def line(self, x: float, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of places on the road, `x` right of the lane's centre and `z` (n,) ahead."""
        bend, rise = np.interp(z, self.z, self.bend), np.interp(z, self.z, self.rise)
        column = self.column0 + self.focal * (x + bend - self.offset) / z
        return column, self.horizon + self.focal * (CAMERA_HEIGHT - rise) / z

    def point(self, x: float, up: float, z: float) -> tuple[float, float]:
        """Column and row of one place `x` right of the lane's centre and `up` above the road, `z` ahead."""
        bend, rise, _ = self.at(z)
        column = self.column0 + self.focal * (x + bend - self.offset) / z
        return column, self.horizon + self.focal * (CAMERA_HEIGHT - rise - up) / z

    def at(self, z: float) -> tuple[float, float, float]:
        """At one `z`: the road's shift to the right and its height, m, and the top row of the ground up to there."""
        place = min(max(math.log(z / NEAR) / DEPTH_STEP, 0.0), len(DEPTHS) - 1.001)
        first = int(place)
        part = (z - DEPTHS[first]) / (DEPTHS[first + 1] - DEPTHS[first])
        bend, rise, crest = (line[first] + part * (line[first + 1] - line[first]) for line in self._table)
        return bend, rise, crest

    def haze(self, z: float | np.ndarray) -> np.ndarray:
        """The share of haze, 0 to 1, in what is `z` metres ahead, of the shape of `z` (any)."""
        return 1 - np.exp(-((np.asarray(z) / 270.0) ** 1.25))


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """The corners of a rectangle, (4, 2) as x and y."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def paste(
    scene: np.ndarray,
    levels: list[np.ndarray],
    quad: np.ndarray,
    gain: np.ndarray,
    haze: np.ndarray | float = 0.0,
    opacity: float = 1.0,
) -> None:
    """Blend a sprite over `scene` so that its corners (left top, right top, right bottom, left bottom) lie at `quad`.

    `gain` (3,) multiplies its colour, `haze` (3,) is added as far as it covers.
    """
    low, high = np.floor(quad.min(0)), np.ceil(quad.max(0))
    x0, y0 = max(int(low[0]), 0), max(int(low[1]), 0)
    x1, y1 = min(int(high[0]), scene.shape[1]), min(int(high[1]), scene.shape[0])
    if x1 <= x0 or y1 <= y0 or np.ptp(quad[:, 0]) * np.ptp(quad[:, 1]) < 1.0:
        return
    tall = max(abs(quad[3, 1] - quad[0, 1]), abs(quad[2, 1] - quad[1, 1]), 1.0)
    wide = max(abs(quad[1, 0] - quad[0, 0]), abs(quad[2, 0] - quad[3, 0]), 1.0)
    scale = min(levels[0].shape[0] / tall, levels[0].shape[1] / wide)
    level = levels[min(max(int(np.log2(scale) + 0.5), 0), len(levels) - 1)] if scale > 1 else levels[0]
    height, width = level.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32) - 0.5
    matrix = cv2.getPerspectiveTransform(corners, (quad - (x0 + 0.5, y0 + 0.5)).astype(np.float32))
    if np.array_equal(matrix[2], (0, 0, 1)):
        tile = cv2.warpAffine(level, matrix[:2], (x1 - x0, y1 - y0))
    else:
        tile = cv2.warpPerspective(level, matrix, (x1 - x0, y1 - y0))
    tile = tile.astype(np.float32)
    mix = np.zeros((3, 4), np.float32)
    mix[[0, 1, 2], [0, 1, 2]] = gain * opacity
    mix[:, 3] = np.asarray(haze) * (opacity / 255)
    blend(scene[y0:y1, x0:x1], tile[..., 3] * np.float32(opacity / 255), cv2.transform(tile, mix))


def blend(region: np.ndarray, cover: np.ndarray, color: np.ndarray) -> None:
    """Blend a colour over `region` (h, w, 3) in place, with the opacity `cover` (h, w), 0 to 1.

    `color` is one colour (3,), or premultiplied by the cover (h, w, 3). Uses OpenCV, because numpy is slow along an
    axis of 3.
    """
    if color.ndim == 1:
        color = cv2.transform(cover, color.astype(np.float32)[:, None])
    region *= cv2.transform(cover, CLEAR)
    region += color.reshape(region.shape)


def widen_rows(rows: np.ndarray, width: int) -> np.ndarray:
    """One colour per row (h, 3) as a picture (h, width, 3)."""
    return cv2.repeat(np.ascontiguousarray(rows, np.float32)[:, None], 1, width)


def paint_thing(scene: np.ndarray, view: View, light: Light, thing: Thing) -> None:
    """Paint one thing into the scene, float32 (H, W, 3)."""
    far = thing.z + thing.size[2]
    if far < NEAR + 0.3:
        return
    z = max(thing.z, NEAR)
    crest = view.at(z)[2]
    visible = scene[: max(int(np.ceil(crest)) + 1, 0)]
    haze = float(view.haze(z))
    gain, veil = ((1 - haze) * light.gain).astype(np.float32), (haze * light.horizon).astype(np.float32)
    if thing.kind in ("rear", "front"):
        _paint_car(scene, view, light, thing, gain, veil)
    elif thing.kind == "house":
        _paint_house(visible, view, light, thing, gain, veil)
    elif thing.z > NEAR + 0.5:
        sprites = art.sprites(thing.kind)
        shift = (thing.kind == "lamp") * (0.5 if thing.variant == 0 else -0.5) * thing.size[0]
        paste(visible, sprites[thing.variant % len(sprites)], _upright(view, thing, shift), gain, veil)
        if thing.kind == "lamp" and light.dark > 0.25:
            column, row = view.point(thing.x + 1.6 * shift, thing.size[1] - 0.3, thing.z)
            paint_light(visible, column, row, 0.9 * view.focal / thing.z, (1.0, 0.86, 0.55), light.dark)


def _upright(view: View, thing: Thing, shift: float = 0.0) -> np.ndarray:
    half = thing.size[0] / 2
    left, bottom = view.point(thing.x + shift - half, 0.0, thing.z)
    right, top = view.point(thing.x + shift + half, thing.size[1], thing.z)
    return rectangle(left, top, right, bottom)


def _wall(view: View, x: float, up: float, near: float, far: float) -> np.ndarray:
    """Corners of an upright wall along the road; the left edge of its art is the far end if x is left of the car."""
    a, b = (far, near) if x > 0 else (near, far)
    top, bottom = [view.point(x, up, z) for z in (a, b)], [view.point(x, 0.0, z) for z in (b, a)]
    return np.array(top + bottom, np.float64)


def paint_light(scene: np.ndarray, column: float, row: float, radius: float, color: tuple, opacity: float) -> None:
    """Paint a soft round light of a colour (3,) into the scene."""
    quad = rectangle(column - radius, row - radius, column + radius, row + radius)
    paste(scene, art.glow(), quad, np.array(color, np.float32), opacity=opacity)


def _paint_house(scene: np.ndarray, view: View, light: Light, thing: Thing, gain: np.ndarray, veil: np.ndarray) -> None:
    day, lit = art.houses()[thing.variant % 8]
    width, height, length = thing.size
    inner = thing.x - np.sign(thing.x) * width / 2
    quads = [(_wall(view, inner, height, max(thing.z, NEAR), thing.z + length), 0.8)]
    if thing.z > NEAR:
        quads.append((_upright(view, thing), 1.0))
    for quad, shade in quads:
        paste(scene, day, quad, gain * np.float32(shade), veil)
        if light.dark > 0.1:
            glow = (1 - veil.mean() / 255) * light.dark
            paste(scene, lit, quad, np.ones(3, np.float32), opacity=float(glow))


def _paint_car(scene: np.ndarray, view: View, light: Light, thing: Thing, gain: np.ndarray, veil: np.ndarray) -> None:
    width, height, length = thing.size
    near, far = max(thing.z, NEAR), thing.z + length
    left, right = thing.x - 0.62 * width, thing.x + 0.62 * width
    ground = [view.point(x, 0.0, z) for x, z in ((left, far), (right, far), (right, near), (left, near))]
    paste(scene, art.shadow(), np.array(ground, np.float64), np.zeros(3, np.float32), opacity=1 - 0.5 * light.dark)

    side = thing.x - np.sign(thing.x) * width * 0.455  # where the end views have their edge
    bend = view.at(near)[0] - view.offset
    if thing.z < 70 and abs(thing.x + bend) > width / 2:
        flank = "side" if (thing.kind == "rear") == (thing.x < 0) else "side_left"
        levels = car(flank, thing.variant)
        if thing.z < NEAR:
            cut = (near - thing.z) / length
            levels = [_cut(level, cut, thing.x > 0) for level in levels[:3]]
        paste(scene, levels, _wall(view, side, height, near, far), gain, veil)
    if thing.z <= NEAR:
        return
    quad = _upright(view, thing)
    paste(scene, car(thing.kind, thing.variant), quad, gain, veil)
    if light.dark > 0.15:
        color = (1.0, 0.22, 0.16) if thing.kind == "rear" else (1.0, 0.95, 0.8)
        spread = (0.30 if thing.kind == "rear" else 0.62) * view.focal / max(thing.z, 6.0)
        row = quad[0, 1] + 0.53 * (quad[2, 1] - quad[0, 1])
        for share in (0.14, 0.86):
            column = quad[0, 0] + share * (quad[1, 0] - quad[0, 0])
            paint_light(scene, column, row, spread, color, light.dark)


def _cut(level: np.ndarray, share: float, from_right: bool) -> np.ndarray:
    """What remains of a side view when its nearest `share` lies behind the camera's near plane."""
    keep = max(round(level.shape[1] * (1 - share)), 1)
    return np.ascontiguousarray(level[:, :keep] if from_right else level[:, -keep:])
