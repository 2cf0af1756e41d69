"""Made data in the forms in which people have it: what lies on the disk, what they type, and what is right.

Each case writes a folder and lists commands of `recipes/prepare_data.py`. A command is right if it ends with the images
and emotions of each split that are expected, or is refused with the expected words.
"""

from made_cases.basics import Case, Command
from made_cases.data_sets import DATASETS, HOSTILE, IMAGE_FOLDERS, PAPER_SETS, PHOTOS, SPELLINGS, SPLITS
from made_cases.more_forms import COLUMNS, DISKS, FORMS
from made_cases.no_emotions import LEVELS, NO_EMOTIONS, NUMBERS
from made_cases.places import ELSEWHERE, LINKS, WEBEMO
from made_cases.tables import EMBEDDED, JSON_FORMS, SPREADSHEETS
from made_cases.trainers import CONVERSATIONS, REFERENCE
from made_cases.votes import SAME_FILE, VOTES

__all__ = ["CASES", "Case", "Command"]

CASES = (
    *(
        REFERENCE,
        CONVERSATIONS,
        LINKS,
        ELSEWHERE,
        WEBEMO,
        NUMBERS,
        NO_EMOTIONS,
        LEVELS,
        VOTES,
        SAME_FILE,
        SPREADSHEETS,
    ),
    *(FORMS, COLUMNS, DISKS),
    *(JSON_FORMS, EMBEDDED, IMAGE_FOLDERS, DATASETS, SPLITS, PHOTOS, SPELLINGS, HOSTILE, PAPER_SETS),
)
