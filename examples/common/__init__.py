"""What the programs of this folder share: the command line, the loop, data, figures, checkpoints.

A program ends with ``sys.exit(main(Program(...)))``; :class:`Program` says what it adds.
"""

from . import figures
from .commands import above_zero, learn, main, positive, probability
from .files import Refused
from .samples import classified, segmented
from .training import CLASSIFY, SEGMENT, Program, Shape, rank

__all__ = [
    "CLASSIFY",
    "SEGMENT",
    "Program",
    "Refused",
    "Shape",
    "above_zero",
    "classified",
    "figures",
    "learn",
    "main",
    "positive",
    "probability",
    "rank",
    "segmented",
]
