"""The miniature world: pictures that a program draws, with captions that say all there is in them.

A concept is a number, a colour, a shape and a background: "three red stars on pink". A fifth of the combinations is
for testing only; every pair of values still occurs in both parts, so a test caption is new but none of its words is.
"""

import itertools
import math
import random
from typing import NamedTuple

from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 30, 30),
    "orange": (245, 130, 30),
    "yellow": (240, 210, 40),
    "green": (30, 160, 50),
    "blue": (40, 70, 220),
    "purple": (150, 50, 180),
}
BACKGROUNDS = {"black": (20, 20, 20), "grey": (150, 150, 150), "pink": (255, 190, 205), "brown": (110, 70, 40)}
SHAPES = {
    "circle": "circles",
    "ring": "rings",
    "square": "squares",
    "triangle": "triangles",
    "cross": "crosses",
    "star": "stars",
}
NUMBERS = ("one", "two", "three")

SIDE = 96  # px of a picture
OVERSAMPLING = 3  # drawn larger by this and scaled down: Pillow draws hard edges
SHADE = 15  # of 255; every colour is a little off
# Radius of one object as a share of the picture's side: smallest and largest, by how many there are.
RADIUS = {1: (0.22, 0.30), 2: (0.17, 0.20), 3: (0.145, 0.175)}
APART = 2.45  # radii between two objects' centres, at least
TILT = 0.25  # radians, either way


class Concept(NamedTuple):
    """What is in a picture: `number` objects of one shape and colour on a background."""

    number: int
    colour: str
    shape: str
    background: str

    @property
    def caption(self) -> str:
        noun = self.shape if self.number == 1 else SHAPES[self.shape]
        return f"{NUMBERS[self.number - 1]} {self.colour} {noun} on {self.background}"


def concepts(split: str) -> list[Concept]:
    """The concepts of "train" or "test", in a fixed order: the same for every seed, so that no test is ever trained."""
    return [concept for concept in all_concepts() if is_test(concept) == (split == "test")]


def all_concepts() -> list[Concept]:
    numbers = range(1, len(NUMBERS) + 1)
    return [Concept(*values) for values in itertools.product(numbers, COLOURS, SHAPES, BACKGROUNDS)]


def is_test(concept: Concept) -> bool:
    """Every fifth diagonal of the table of all combinations: any two values meet in both parts."""
    places = (list(COLOURS).index(concept.colour), list(SHAPES).index(concept.shape))
    return (concept.number + sum(places) + list(BACKGROUNDS).index(concept.background)) % 5 == 0


def draw_picture(concept: Concept, rng: random.Random) -> Image.Image:
    """A picture of `concept`, SIDE x SIDE pixels, RGB; sizes, places, tilts and shades are drawn from `rng`."""
    side = SIDE * OVERSAMPLING
    picture = Image.new("RGB", (side, side), _shade(BACKGROUNDS[concept.background], rng))
    pen, colour = ImageDraw.Draw(picture), _shade(COLOURS[concept.colour], rng)
    radius = side * rng.uniform(*RADIUS[concept.number])
    for x, y in _centres(concept.number, side, radius, rng):
        box = (x - radius, y - radius, x + radius, y + radius)
        if concept.shape == "circle":
            pen.ellipse(box, fill=colour)
        elif concept.shape == "ring":
            pen.ellipse(box, outline=colour, width=round(0.42 * radius))
        else:
            tilt = rng.uniform(-TILT, TILT)
            pen.polygon([_turned(x, y, radius, point, tilt) for point in OUTLINES[concept.shape]], fill=colour)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _shade(colour: tuple[int, int, int], rng: random.Random) -> tuple[int, ...]:
    return tuple(min(255, max(0, value + rng.randint(-SHADE, SHADE))) for value in colour)


def _centres(count: int, side: float, radius: float, rng: random.Random) -> list[tuple[float, float]]:
    """Centres of `count` objects that neither touch each other nor leave the picture."""
    low, high = 1.2 * radius, side - 1.2 * radius
    while True:
        centres: list[tuple[float, float]] = []
        for _ in range(200):
            centre = (rng.uniform(low, high), rng.uniform(low, high))
            if all(math.dist(centre, other) > APART * radius for other in centres):
                centres.append(centre)
            if len(centres) == count:
                return centres


def _turned(x: float, y: float, radius: float, point: tuple[float, float], angle: float) -> tuple[float, float]:
    right, down = point
    return (
        x + radius * (right * math.cos(angle) - down * math.sin(angle)),
        y + radius * (right * math.sin(angle) + down * math.cos(angle)),
    )


def _regular(corners: int, first: float, *radii: float) -> list[tuple[float, float]]:
    """Corners around the origin at the given radii in turn, the first at angle `first` (radians)."""
    angles = [first + 2 * math.pi * i / corners for i in range(corners)]
    return [(radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(angles)]


def _cross(reach: float, half: float) -> list[tuple[float, float]]:
    arm = [(-half, -reach), (half, -reach), (half, -half)]
    quarter_turns = [lambda p: p, lambda p: (-p[1], p[0]), lambda p: (-p[0], -p[1]), lambda p: (p[1], -p[0])]
    return [turn(point) for turn in quarter_turns for point in arm]


# Corners of the shapes with straight edges, around the origin, for objects of radius 1.
OUTLINES = {
    "square": _regular(4, math.pi / 4, 1.15),
    "triangle": _regular(3, -math.pi / 2, 1.25),
    "cross": _cross(1.15, 0.36),
    "star": _regular(10, -math.pi / 2, 1.25, 0.5),
}
