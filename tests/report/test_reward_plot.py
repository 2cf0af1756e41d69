"""The reward curves: drawn of any log, high enough for every reward."""

import pytest
from PIL import Image

from emor3_trl.report.reward_plot import plot_rewards


def test_a_plot_is_drawn_even_of_an_empty_log(tmp_path):
    plot_rewards({"EMO-R3": []}, tmp_path / "plot" / "rewards.png")
    assert Image.open(tmp_path / "plot" / "rewards.png").width > 500


@pytest.mark.parametrize("name", ["format", "think_format"])
def test_a_plot_holds_the_highest_reward_and_either_format(tmp_path, monkeypatch, name):
    figures = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, path, **_: figures.append(figure) or path.touch()
    )
    log = [{"step": step, "reward": 1.1, f"rewards/{name}_reward/mean": 0.5} for step in range(3)]
    plot_rewards({"GRPO": log}, tmp_path / "rewards.png")
    overall, *_, form = figures[0].axes
    assert overall.get_ylim()[1] > 1.1  # what the reference's rewards reach
    assert form.lines[0].get_ydata().tolist() == [0.5] * 3
