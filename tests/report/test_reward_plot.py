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


def test_the_accuracy_of_held_out_images_stands_beside_that_of_rollouts(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, path, **_: figures.append(figure) or path.touch()
    )
    log = [{"step": step, "reward": 0.5, "rewards/accuracy_reward/mean": 0.4} for step in (1, 2, 3)]
    log += [{"step": step, "eval/validation/accuracy": 0.1 * step, "eval/validation/format_rate": 1} for step in (0, 2)]
    plot_rewards({"GRPO": log}, tmp_path / "rewards.png")
    _, accuracy, *others = figures[0].axes
    rollouts, held_out = accuracy.lines
    assert rollouts.get_ydata().tolist() == [0.4] * 3
    assert (held_out.get_label(), held_out.get_xdata().tolist()) == ("GRPO on validation", [0, 2])
    assert held_out.get_ydata().tolist() == [0.0, 0.2]
    assert all(len(axis.lines) == 1 for axis in others)


def test_a_reward_of_the_users_stands_after_the_papers_at_its_own_height(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, path, **_: figures.append(figure) or path.touch()
    )
    log = [{"step": step, "reward": 0.5, "rewards/brief_reward/mean": -2.0 * step} for step in (0, 1)]
    plot_rewards({"mine": log}, tmp_path / "rewards.png")
    assert [axis.get_title() for axis in figures[0].axes][-2:] == ["format", "brief"]
    assert figures[0].axes[-1].lines[0].get_ydata().tolist() == [0, -2]
    assert figures[0].axes[-1].get_ylim()[0] < -2
