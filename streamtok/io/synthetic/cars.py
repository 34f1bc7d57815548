"""The cars of the synthetic drive: rear, front and side views of three shapes in eight colours."""

from functools import lru_cache

import cv2
import numpy as np

from streamtok.io.synthetic.art import CAR_COLORS, _canvas, _fill, pyramid

GLASS = (38, 50, 62, 255)
SHADE = (20, 20, 22, 255)
END_OUTLINES = (
    [(14, 236), (10, 120), (24, 96), (52, 22), (204, 22), (232, 96), (246, 120), (242, 236)],
    [(12, 240), (8, 110), (22, 84), (40, 14), (216, 14), (234, 84), (248, 110), (244, 240)],
    [(12, 244), (8, 150), (14, 10), (242, 10), (248, 150), (244, 244)],
)
END_WINDOWS = (
    [(38, 98), (60, 34), (196, 34), (218, 98)],
    [(36, 88), (52, 28), (204, 28), (220, 88)],
    [(34, 104), (40, 34), (216, 34), (222, 104)],
)
SIDE_OUTLINES = (
    [(4, 190), (2, 120), (40, 96), (150, 84), (214, 22), (372, 22), (446, 88), (506, 112), (510, 190)],
    [(4, 200), (2, 96), (26, 16), (366, 16), (440, 84), (504, 106), (510, 200)],
    [(4, 216), (2, 12), (430, 12), (482, 96), (508, 120), (510, 216)],
)
SIDE_WINDOWS = (
    [(170, 86), (222, 34), (366, 34), (428, 88)],
    [(40, 86), (52, 30), (360, 30), (420, 86)],
    [(360, 94), (360, 34), (422, 34), (462, 94)],
)


def _shaded(color: tuple, amount: float) -> tuple:
    return (*[min(255, int(c * amount)) for c in color], 255)


def _end_view(shape: int, color: tuple, front: bool) -> np.ndarray:
    image = _canvas(256, 256)
    for x in (24, 192):
        cv2.rectangle(image, (x, 196), (x + 40, 254), SHADE, -1)
    _fill(image, END_OUTLINES[shape], _shaded(color, 1.0))
    waist = 100 if shape < 2 else 110
    cv2.rectangle(image, (12, waist), (244, waist + 8), _shaded(color, 1.22), -1)
    _fill(image, END_WINDOWS[shape], GLASS)
    _fill(image, [(60, 96), (84, 36), (120, 36), (92, 96)], (64, 80, 94, 255))
    cv2.rectangle(image, (14, 200), (242, 232), _shaded(color, 0.62), -1)
    if front:
        cv2.rectangle(image, (76, 146), (180, 182), (28, 30, 34, 255), -1)
        lamps, lamp_color = ((16, 128), (196, 128)), (238, 240, 226, 255)
    else:
        cv2.rectangle(image, (98, 158), (158, 182), (228, 226, 206, 255), -1)
        lamps, lamp_color = ((14, 124), (198, 124)), (172, 22, 26, 255)
    for x, y in lamps:
        cv2.rectangle(image, (x, y), (x + 44, y + 26), lamp_color, -1)
    return image


def _side_view(shape: int, color: tuple) -> np.ndarray:
    """The car's right side, driving right: 256 high, 512 long."""
    image = _canvas(256, 512)
    _fill(image, SIDE_OUTLINES[shape], _shaded(color, 0.8))
    _fill(image, SIDE_WINDOWS[shape], GLASS)
    cv2.rectangle(image, (4, 176), (508, 200), _shaded(color, 0.55), -1)
    if shape < 2:
        cv2.line(image, (292, 30), (292, 176), _shaded(color, 0.6), 5, cv2.LINE_AA)
    for x in (100, 412):
        cv2.circle(image, (x, 210), 46, SHADE, -1, cv2.LINE_AA)
        cv2.circle(image, (x, 210), 25, (132, 134, 138, 255), -1, cv2.LINE_AA)
    return image


@lru_cache(maxsize=64)
def car(view: str, variant: int) -> list[np.ndarray]:
    """Sprite of "rear", "front", "side" (driving right) or "side_left"; `variant` is shape * 8 + colour."""
    shape, color = variant // 8, CAR_COLORS[variant % 8]
    if view == "side":
        return pyramid(_side_view(shape, color))
    if view == "side_left":
        return pyramid(np.ascontiguousarray(_side_view(shape, color)[:, ::-1]))
    return pyramid(_end_view(shape, color, front=view == "front"))
