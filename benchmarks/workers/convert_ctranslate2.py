"""Turns the checkpoint into CTranslate2's format, in float32: it is rounded when it is loaded."""

from ctranslate2.converters import TransformersConverter
from exchange import answer, task

if __name__ == "__main__":
    assigned = task()
    TransformersConverter(assigned["checkpoint"]).convert(assigned["ctranslate2"])
    answer(done=True)
