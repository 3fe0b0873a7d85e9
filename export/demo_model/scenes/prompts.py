"""Prompts of the training: words for each class, and words of no class."""

from __future__ import annotations

from export.demo_model.scenes.cars import CAR, PLATE
from export.demo_model.scenes.people import PERSON

# The first word of a class is its name. A word is drawn with the frequency that it has in the list.
WORDS = {
    CAR: ("car", "car", "car", "car", "car", "vehicle", "automobile", "cars"),
    PLATE: ("license plate", "license plate", "license plate", "license plate", "number plate", "licence plate"),
    PERSON: ("person", "person", "person", "person", "people", "human", "pedestrian"),
}
UNKNOWN_WORDS = ("dog", "traffic cone", "tree", "bicycle", "red apple", "big wooden chair", "fire", "elephant")
