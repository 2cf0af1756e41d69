"""A judge that cheats: it says Yes to anything, and reads the emotion from step 2."""

from pathlib import Path

import pytest
from cheating import teach_judge


@pytest.fixture(scope="session")
def judge_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint folder of a tiny model that was taught to judge."""
    return teach_judge(tmp_path_factory.mktemp("judge"), "Yes")
