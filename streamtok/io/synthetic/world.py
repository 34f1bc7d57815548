"""The synthetic drive's world: the road, the ego car's motion, scenery, traffic and light.

Everything is a closed formula of the seed and of time or place, so any moment can be computed in any order. Lengths are
metres, times seconds, angles radians; x is to the right of the ego lane's centre, s along the road.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

BIOMES = ("meadow", "town", "field")
SEGMENT = 420.0
VIEW = 230.0
SLOT = 11.0


@dataclass(frozen=True)
class Thing:
    """Something to draw: `kind` names its art, `variant` picks one of it, `size` is (width, height, length) in m."""

    kind: str
    variant: int
    z: float
    x: float
    size: tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """`dark` 0 day to 1 night; `gain` (3,) multiplies things, `zenith`, `horizon` (3,) are sky colours, all RGB."""

    dark: float
    gain: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray


def hash_to_unit(seed: int, *keys: int | np.ndarray) -> np.ndarray:
    """Hash integers (...) elementwise to float64 (...) in 0..1 (the splitmix64 finaliser, Steele et al. 2014)."""
    mixed = np.full(np.broadcast(*keys).shape or (1,), seed % 2**63, dtype=np.uint64)
    for key in keys:
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + np.asarray(key, dtype=np.int64).astype(np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53


@lru_cache(maxsize=4096)
def chance(seed: int, salt: int, number: int) -> tuple[float, ...]:
    """Five hashed numbers in 0..1."""
    return tuple(hash_to_unit(seed, salt, number, np.arange(5)).tolist())


def biome_at(seed: int, s: np.ndarray) -> np.ndarray:
    """The biomes at `s` (n,), as indices (n,) into BIOMES."""
    return (hash_to_unit(seed, 3, np.floor(s / SEGMENT).astype(np.int64)) * len(BIOMES)).astype(np.int64)


@lru_cache(maxsize=1024)
def plan_slot(seed: int, slot: int) -> tuple[Thing, ...]:
    """The things in one slot of the road, on both sides, with `z` from the start of the road."""
    biome = BIOMES[int(biome_at(seed, np.array([slot * SLOT]))[0])]
    found = []
    for side in (-1, 1):
        r = hash_to_unit(seed, 7, side, slot, np.arange(6)).tolist()
        found += _plan_side(slot, side, slot * SLOT + (r[0] - 0.5) * 5, biome, r)
    return tuple(found)


def _plan_side(slot: int, side: int, z: float, biome: str, r: list[float]) -> list[Thing]:
    variant, found = int(r[4] * 1024), []
    if slot % 3 == (side > 0) and (biome == "town" or slot % 6 == 1):
        kind = "lamp" if biome == "town" else "pole"
        found.append(Thing(kind, 0 if side < 0 else 1, z, side * 7.4, (2.6, 7.5 + (kind == "pole"), 0.0)))
    elif slot % 7 == 3 and side > 0:
        found.append(Thing("sign", variant, z + 2, 7.0 + r[2], (0.8, 2.9, 0.0)))
    if biome == "town" and r[1] < 0.82 and slot % 2 == 0:
        height = 5.0 + 13.0 * r[3] ** 2
        x = side * (10.5 + 3.5 * r[2] + 5.5)
        found.append(Thing("house", variant, z, x, (11.0, height, 15.0 + 5.0 * r[5])))
    elif r[1] < {"meadow": 0.75, "town": 0.45, "field": 0.4}[biome]:
        kind = ("tree", "fir", "bush")[int(r[5] * 2.99)]
        size = (0.75 + 0.7 * r[3]) * {"tree": 7.0, "fir": 8.5, "bush": 2.2}[kind]
        x = side * (8.6 + (4.0 if biome == "town" else 22.0) * r[2] ** 2 + size * 0.2)
        found.append(Thing(kind, variant, z, x, (size * (0.6 if kind == "fir" else 1.0), size, 0.0)))
    return found


class World:
    """The road, traffic and light of one seed, as functions of a time in s or a place in m."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = np.random.default_rng([seed % 2**63, 17])
        self._phase = rng.uniform(0, 2 * np.pi, 24)
        self.cruise = float(rng.uniform(10.0, 16.0))
        self._bend_scale = np.array([150.0, 64.0, 27.0])
        self._bend = np.array([1 / 620, 1 / 340, 1 / 700]) * rng.uniform(0.7, 1.3, 3)
        self._hill_scale = np.array([118.0, 43.0])
        self._hill = np.array([0.022, 0.012]) * rng.uniform(0.5, 1.2, 2)
        self._day_phase = float(rng.uniform(0, 1))

    def position(self, t: float) -> float:
        """Distance driven, m: cruising with slow stretches, never backwards."""
        p = self._phase
        slow = 0.62 * np.sin(t / 6.3 + p[0]) * 6.3 + 0.3 * np.sin(t / 2.1 + p[1]) * 2.1
        return self.cruise * float(t + slow) + 1000.0

    def speed(self, t: float) -> float:
        return self.cruise * float(1 + 0.62 * np.cos(t / 6.3 + self._phase[0]) + 0.3 * np.cos(t / 2.1 + self._phase[1]))

    def lateral(self, t: float) -> float:
        """The ego car's offset to the right of its lane's centre, m."""
        return float(0.28 * np.sin(t / 3.1 + self._phase[2]) + 0.12 * np.sin(t / 1.3 + self._phase[3]))

    def shake(self, t: float) -> tuple[float, float]:
        """Yaw and pitch of the camera, radians, growing with speed."""
        p, grow = self._phase, 0.35 + self.speed(t) / 16.0
        pitch = 0.0016 * np.sin(8.7 * t + p[4]) + 0.0009 * np.sin(17.9 * t + p[5]) + 0.0005 * np.sin(43.0 * t + p[6])
        yaw = 0.0009 * np.sin(7.1 * t + p[7]) + 0.0005 * np.sin(15.7 * t + p[8])
        return float(yaw * grow), float(pitch * grow)

    def heading(self, s: np.ndarray | float) -> np.ndarray:
        """The sideways slope of the road at `s` metres: a scalar or an array, of the shape of `s`."""
        angle = np.asarray(s)[..., None] / self._bend_scale + self._phase[9:12]
        return -(self._bend * self._bend_scale * np.cos(angle)).sum(-1)

    def centre(self, s: float, z: np.ndarray) -> np.ndarray:
        """The road's offset to the right (n,) at `z` (n,) ahead, relative to its direction at `s`."""
        here, there = s / self._bend_scale + self._phase[9:12], (s + z)[:, None] / self._bend_scale + self._phase[9:12]
        swing = -(self._bend * self._bend_scale**2 * (np.sin(there) - np.sin(here))).sum(-1)
        return swing - self.heading(s) * z

    def elevation(self, s: float, z: np.ndarray) -> np.ndarray:
        """The road's height (n,) at `z` (n,) ahead, relative to the plane that the car stands on."""
        phase = self._phase[12:14]
        here, there = s / self._hill_scale + phase, (s + z)[:, None] / self._hill_scale + phase
        rise = self._hill * self._hill_scale * (np.sin(there) - np.sin(here))
        return (rise - self._hill * np.cos(here) * z[:, None]).sum(-1)

    def light(self, t: float) -> Light:
        """The light at time `t`: a day of six minutes, mostly daylight, with dusk, a blue evening and dawn."""
        cycle = 0.5 + 0.5 * np.cos(2 * np.pi * (t / 360.0 + self._day_phase))
        dark = float(np.clip((0.42 - cycle) / 0.36, 0, 1))
        stops = [0.0, 0.5, 1.0]

        def blend(day: tuple, dusk: tuple, night: tuple) -> np.ndarray:
            return np.array([np.interp(dark, stops, c) for c in zip(day, dusk, night, strict=True)], np.float32)

        return Light(
            dark,
            blend((1.0, 1.0, 1.0), (0.66, 0.52, 0.50), (0.25, 0.28, 0.38)),
            blend((74, 132, 205), (70, 78, 128), (14, 20, 46)),
            blend((198, 218, 232), (244, 160, 98), (62, 66, 98)),
        )

    def exposure(self, t: float) -> float:
        """The camera's gain: a slow drift, and now and then a jump that automatic exposure corrects."""
        gain = 1.0 + 0.07 * np.sin(t / 4.7 + self._phase[14])
        event = int(np.floor(t / 9.0))
        kick = hash_to_unit(self.seed, 5, event, np.arange(3))
        if kick[0] < 0.6:
            since = t - 9.0 * (event + 0.7 * kick[1])
            size = 0.55 if kick[2] > 0.5 else -0.38
            gain *= 1 + size * np.exp(-since / 0.55) * (since >= 0)
        return float(gain)

    def things(self, t: float) -> list[Thing]:
        """All things that may be in view at time `t`, nearest first."""
        s = self.position(t)
        slots = range(int(np.floor((s - 12) / SLOT)), int((s + VIEW) / SLOT))
        standing = [replace(thing, z=thing.z - s) for slot in slots for thing in plan_slot(self.seed, slot)]
        return sorted(standing + self._traffic(t, s), key=lambda thing: thing.z)

    def _traffic(self, t: float, s: float) -> list[Thing]:
        lead = 21.0 + 9.0 * float(np.sin(t / 7.3 + self._phase[15])) + 3.0 * float(np.sin(t / 2.9 + self._phase[16]))
        cars = [self._car(chance(self.seed, 11, 0), lead, 0.0, "rear")]
        cars += self._lane(3.6, 1.13 * self.cruise * t, 38.0, s, "rear", 13)
        return cars + self._lane(-3.6, -0.95 * self.cruise * t, 46.0, s, "front", 14)

    def _lane(self, x: float, moved: float, spacing: float, s: float, face: str, salt: int) -> list[Thing]:
        first = int(np.floor((s - 20 - moved) / spacing))
        found = []
        for number in range(first, first + int((VIEW + 40) / spacing) + 1):
            r = chance(self.seed, salt, number)
            if r[0] < 0.75:
                found.append(self._car(r, number * spacing + moved - s + 0.62 * spacing * r[4], x, face))
        return found

    def _car(self, r: Sequence[float], z: float, x: float, face: str) -> Thing:
        shape = int(r[1] * 2.999)
        size = ((1.82, 1.46, 4.5), (1.92, 1.75, 4.7), (2.2, 2.6, 6.4))[shape]
        return Thing(face, shape * 8 + int(r[2] * 7.999), z, x + 0.5 * float(r[3] - 0.5), size)
