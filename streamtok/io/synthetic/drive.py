"""The synthetic drive: an endless road scene that needs no camera and no data.

Frame n is a pure function of (seed, n, height, width, fps): any process on the same machine makes the same bytes, in
any order. As a source: `synthetic:256x448@30?seed=1&frames=300`.
"""

import itertools
import math
import re

import cv2
import numpy as np

from streamtok.io.base import RecordedSource
from streamtok.io.spec import parse_count, split_options
from streamtok.io.synthetic import art
from streamtok.io.synthetic.paint import NEAR, View, blend, paint_light, paint_thing, widen_rows
from streamtok.io.synthetic.world import BIOMES, Light, World, biome_at
from streamtok.types import Frame

CRISP = 20.0  # metres up to which lane marks are drawn as polygons: the ground texture would be blurred there


class SyntheticDrive:
    """The scene of one seed at one size and rate; `frame(n)` and `clip(start, count)` give pictures."""

    def __init__(self, height: int, width: int, *, fps: float = 30.0, seed: int = 0) -> None:
        if min(height, width) < 16 or max(height, width) > 8192:
            raise ValueError(f"synthetic size {height}x{width}: expected 16 to 8192 pixels a side")
        if not 0 < fps <= 1000:
            raise ValueError(f"synthetic rate {fps}: expected more than 0 and at most 1000 frames per second")
        self.height, self.width, self.fps, self.seed = height, width, float(fps), seed
        self.world = World(seed)
        self._columns = np.arange(width, dtype=np.float32)
        self._hood = _hood(height, width)

    def frame(self, n: int) -> np.ndarray:
        """Frame `n` (from 0), uint8 RGB (height, width, 3)."""
        t = n / self.fps
        view, light = View(self.world, t, self.height, self.width), self.world.light(t)
        scene = np.empty((self.height, self.width, 3), np.float32)
        top = self._paint_ground(scene, view, light)
        if top:
            self._paint_sky(scene[:top], view, light, t)
        for thing in reversed(self.world.things(t)):
            paint_thing(scene, view, light, thing)
        cover, color = self._hood
        blend(scene[-len(cover) :], cover, cv2.transform(color, np.diag(light.gain)))
        return cv2.convertScaleAbs(scene, alpha=self.world.exposure(t))

    def clip(self, start: int, count: int, step: int = 1) -> np.ndarray:
        """Frames start, start + step, ...: uint8 RGB (count, height, width, 3)."""
        return np.stack([self.frame(start + i * step) for i in range(count)])

    def _paint_ground(self, scene: np.ndarray, view: View, light: Light) -> int:
        """Paint everything below the horizon; returns its first row."""
        top = int(np.clip(np.ceil(view.crest[-1]), 0, self.height))
        rows = np.arange(top, self.height)
        if not len(rows):
            return top
        z = np.interp(rows, view.crest[::-1], view.z[::-1])
        image = self._ground_image(view, rows, z)
        self._paint_marks(image, view, top)

        haze = view.haze(z)[:, None].astype(np.float32)
        np.multiply(image, widen_rows((1 - haze) * light.gain, self.width), out=scene[top:])
        if light.dark > 0.05:
            beam = light.dark * 1.9 * np.exp(-(((z - 11) / 12.0) ** 2)).astype(np.float32)
            spread = np.exp(-((((self._columns - view.column0) / view.focal)[None] * z[:, None] / 3.4) ** 2))
            scene[top:] *= cv2.merge([1 + beam[:, None] * spread.astype(np.float32)] * 3)
        scene[top:] += widen_rows(haze * light.horizon, self.width)
        return top

    def _ground_image(self, view: View, rows: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The ground in each of `rows`, uint8 RGB (rows, width, 3), each sampled from the mipmap for its distance."""
        bend = np.interp(z, view.z, view.bend)
        x = (self._columns - view.column0) * (z / view.focal)[:, None].astype(np.float32)
        x += (view.offset - bend)[:, None].astype(np.float32)
        half, span = art.TILE_WIDTH / 2, 20.0  # farther out the verge is reflected: the road does not repeat
        outside = np.abs(x) > half
        far = x[outside]
        x[outside] = np.sign(far) * (half - span + np.abs((np.abs(far) - half) % (2 * span) - span))

        step = np.abs(np.gradient(z)) + 1e-9 if len(z) > 1 else np.ones(1)  # at a crest rows may be equally far
        along = np.clip(np.log2(step * art.TILE_PIXELS / art.TILE_LENGTH) + 0.4, 0, 7).astype(int)
        across = np.clip(np.log2(z / view.focal * art.TILE_PIXELS / art.TILE_WIDTH) + 0.2, 0, 6).astype(int)
        biome = biome_at(self.seed, view.s + z)
        image = np.empty((len(rows), self.width, 3), np.uint8)
        key = (biome * 8 + along) * 8 + across
        edges = [0, *(np.flatnonzero(np.diff(key)) + 1), len(rows)]
        for start, stop in itertools.pairwise(edges):
            texture = art.ground(BIOMES[biome[start]])[int(along[start]), int(across[start])]
            height, width = texture.shape[:2]
            map_x = (x[start:stop] / art.TILE_WIDTH + 0.5) * width - 0.5
            place = ((view.s + z[start:stop]) / art.TILE_LENGTH) % 1.0 * height - 0.5
            map_y = np.repeat(place.astype(np.float32)[:, None], self.width, axis=1)
            image[start:stop] = cv2.remap(texture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        return image

    def _paint_marks(self, image: np.ndarray, view: View, top: int) -> None:
        starts = np.arange(np.floor((view.s + NEAR) / 9.0) * 9.0, view.s + CRISP, 9.0) - view.s
        dashes = [(max(a, NEAR), min(a + 3.0, CRISP)) for a in starts if min(a + 3.0, CRISP) > max(a, NEAR)]
        for x, width, color, dashed in art.LANE_MARKS:
            for near, far in dashes if dashed else [(NEAR, CRISP)]:
                z = np.geomspace(near, far, 3 if dashed else 14)
                left, rows = view.line(x - width / 2, z)
                right, _ = view.line(x + width / 2, z)
                line = np.concatenate([np.stack([left, rows], 1), np.stack([right, rows], 1)[::-1]])
                line = np.clip(line - (0, top), -20000, 20000)
                cv2.fillPoly(image, [np.round(line * 16).astype(np.int32)], color, cv2.LINE_AA, shift=4)

    def _paint_sky(self, sky: np.ndarray, view: View, light: Light, t: float) -> None:
        top = len(sky)
        up = np.maximum(view.horizon - np.arange(top, dtype=np.float32), 0)[:, None] / view.focal
        fade = np.clip(up / 0.42, 0, 1) ** 0.7
        sky[:] = widen_rows(light.horizon + (light.zenith - light.horizon) * fade, self.width)

        angle = (view.azimuth + np.arctan((self._columns - view.column0) / view.focal)).astype(np.float32)
        far = 26.0 / (up + 0.09)
        clouds = art.noise(256, 512, 1.45, 20 + self.seed % 5)
        map_x, map_y = far * np.sin(angle)[None], far * np.cos(angle)[None] + np.float32(t * 0.9 % 256)
        cover = cv2.remap(clouds, map_x % np.float32(512), map_y % np.float32(256), 1, borderMode=cv2.BORDER_WRAP)
        cover = np.clip(cover * 0.62 + 0.05, 0, 0.85) * np.clip(up * 9, 0, 1)
        lit = light.horizon * 0.35 + np.array((255, 252, 246), np.float32) * 0.65 * light.gain
        blend(sky, cover, lit)
        self._paint_sun(sky, view, light)
        for number, (base, swing, tint) in enumerate(((0.030, 0.024, 0.72), (0.012, 0.011, 0.42))):
            ridge = art.noise(1, 1024, 0.9 + 0.1 * number, 30 + number + self.seed % 7)[0]
            height = np.interp(angle * 1024 / (2 * np.pi), np.arange(1024), ridge, period=1024) * swing + base
            edge = (view.horizon - height * view.focal).astype(np.float32)
            first = int(np.clip(edge.min() - 1, 0, top))
            cover = np.clip(np.arange(first, top, dtype=np.float32)[:, None] - edge[None] + 0.5, 0, 1)
            color = light.horizon * tint + np.array((70, 98, 92), np.float32) * (1 - tint) * light.gain
            if first < top:
                blend(sky[first:], cover, color)

    def _paint_sun(self, sky: np.ndarray, view: View, light: Light) -> None:
        up = 0.24 - 0.34 * light.dark
        column = view.column0 + view.focal * np.tan(np.clip(0.35 - view.azimuth, -1.2, 1.2))
        row = view.horizon - up * view.focal
        for radius, strength in ((0.30, 0.45), (0.06, 0.95)):
            color = 1.0, 0.97 - 0.3 * light.dark, 0.9 - 0.6 * light.dark
            opacity = strength * float(np.clip(1.3 - light.dark, 0, 1))
            paint_light(sky, column, row, radius * view.focal, color, opacity)


def _hood(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Opacity (rows, width) of the ego car's bonnet at the bottom of the picture, and its premultiplied colour."""
    top = int(height * 0.9)
    column = (np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1
    edge = height * (0.945 + 0.05 * column**2 + 0.25 * np.maximum(np.abs(column) - 0.8, 0))
    rows = np.arange(top, height, dtype=np.float32)[:, None]
    cover = np.clip(rows - edge + 0.5, 0, 1)
    shade = 1 + 0.7 * np.exp(-(((rows - edge - 0.006 * height) / (0.008 * height + 1)) ** 2))
    return cover, (shade * cover)[..., None] * np.array((44, 48, 58), np.float32)


class SyntheticSource(RecordedSource):
    """The synthetic drive as a source: frame n has the time n / fps s; endless unless `frames` is given."""

    kind, clock = "synthetic drive", "exact"

    def __init__(
        self, drive: SyntheticDrive, stream: str = "cam0", *, frames: int | None = None, **paced: object
    ) -> None:
        super().__init__(stream, **paced)  # type: ignore[arg-type]
        self.drive, self.frames = drive, frames
        self.fps, self.size, self.expected_frames = drive.fps, (drive.height, drive.width), frames or 0
        self._number = 0

    def _open(self) -> None:
        self._number = 0
        self.drive.frame(0)  # draws all art, which takes up to a second, before the clock starts
        for biome in BIOMES:
            art.ground(biome)

    def _pass_over(self, time_ns: int) -> None:
        first = math.ceil(time_ns * self.drive.fps / 1e9 - 1e-6)
        self._number = max(self._number, first if self.frames is None else min(first, self.frames - 1))

    def _next(self) -> Frame | None:
        n = self._number
        if self.frames is not None and n >= self.frames:
            return None
        self._number += 1
        return Frame(self.stream, n, self.start_ns + round(n * 1e9 / self.drive.fps), self.drive.frame(n))


def parse_synthetic(spec: str, stream: str = "cam0", **paced: object) -> SyntheticSource:
    """SyntheticSource of "synthetic:HxW@FPS?seed=S&frames=N"; size (256x448), @FPS (30) and options may be left out."""
    what, options = split_options(spec, spec.partition(":")[2], {"seed": int, "frames": parse_count})
    match = re.fullmatch(r"(?:(\d+)x(\d+))?(?:@(\d+(?:\.\d+)?))?", what)
    if not match:
        raise ValueError(f"source {spec!r}: expected synthetic:HxW@FPS?seed=S&frames=N")
    height, width = int(match[1] or 256), int(match[2] or 448)
    drive = SyntheticDrive(height, width, fps=float(match[3] or 30), seed=options.get("seed", 0))
    return SyntheticSource(drive, stream, frames=options.get("frames"), **paced)
