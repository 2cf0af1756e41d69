"""What the figures are drawn from, and that they are drawn."""

from pathlib import Path

import pytest
from PIL import Image
from small_grid import write_scale

from emor3_trl.evaluation.prediction import Prediction
from emor3_trl.reproduce.figures import (
    choose_case,
    draw_case,
    draw_curves,
    draw_seconds,
    find_starved_steps,
    split_step,
    take_median_curve,
)


def make_log(offset: float = 0.0, starved: tuple[int, ...] = ()) -> list[dict]:
    log: list[dict] = []
    for step in range(1, 7):
        entry = {
            "step": step,
            "rewards/accuracy_reward/mean": step / 10 + offset,
            "step_time": 4.0 if step > 1 else 99.0,
        }
        entry |= {"time/rollout": 1.5, "time/reflection": 0.5}
        entry |= {"rollout/starved_share": 0.5 if step in starved else 0.0}
        log.append(entry)
        if step % 3 == 0:
            log.append(
                {"step": step, **{f"eval/{n}_validation/accuracy": step / 12 for n in ("sketches", "toons", "emoji")}}
            )
    return log


def predict(picture: str, answer: str | None, *, well_formed: bool = True, dataset: str = "sketches") -> Prediction:
    text = f"<step1>A face of ${picture}$.</step1><step2>One feels it.</step2><step3>Clear.</step3>\\boxed{{{answer}}}"
    return Prediction(
        picture, dataset, "joy", ["joy", "fear"], text, None, None, None, answer, well_formed, answer == "joy"
    )


def test_a_curve_is_the_median_of_runs_with_their_range() -> None:
    curve = take_median_curve([make_log(), make_log(0.3), make_log(0.1)], "rewards/accuracy_reward/mean")
    assert curve[0] == pytest.approx((1, 0.2, 0.1, 0.4))
    assert len(curve) == 6
    assert take_median_curve([make_log()], "no such key") == []


def test_steps_at_which_any_run_starved_are_marked() -> None:
    assert find_starved_steps([make_log(), make_log(starved=(4, 5)), make_log(starved=(5,))]) == [4, 5]


def test_a_step_is_split_into_its_parts_without_the_first() -> None:
    assert split_step([make_log(), make_log()]) == {"rollout": 1.5, "reflection": 0.5, "training": 2.0}
    assert split_step([[{"step": 2, "loss": 1.0}]]) == {}


def test_seconds_of_a_rollout_for_several_updates_are_spread_over_them() -> None:
    log = [{"step": step, "step_time": 4.0} for step in range(1, 6)]
    log[1]["rollout/seconds"] = log[3]["rollout/seconds"] = 3.0
    assert split_step([log])["rollout"] == 1.5


WRONG_A, RIGHT_A, WRONG_B, RIGHT_B = (
    predict("a", "fear"),
    predict("a", "joy"),
    predict("b", "fear"),
    predict("b", "joy"),
)
ELSEWHERE = [predict("a", "fear", dataset="toons")], [predict("a", "joy", dataset="toons")]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param([WRONG_A, WRONG_B], [WRONG_A, RIGHT_B], "b", id="won"),
        pytest.param([RIGHT_A], [RIGHT_A], None, id="both right"),
        pytest.param([WRONG_A], [predict("a", "joy", well_formed=False)], None, id="no steps to read"),
        pytest.param(
            [predict("a", None, well_formed=False), WRONG_B], [RIGHT_A, RIGHT_B], "b", id="an answer beside an answer"
        ),
        pytest.param(*ELSEWHERE, None, id="elsewhere"),
    ],
)
def test_a_case_is_a_picture_that_the_second_system_alone_gets_right(
    before: list[Prediction], after: list[Prediction], expected: str | None
) -> None:
    case = choose_case(before, after, "sketches")
    assert (case and case[1].id) == expected


def test_figures_are_drawn_the_same_each_time(tmp_path: Path) -> None:
    scale = write_scale(tmp_path)
    curves = {"grpo_g8": [make_log(), make_log(0.1)], "dapo_g8": [make_log(0.2, starved=(5, 6))]}
    answers = {"grpo_g8": predict("a", "fear"), "emo_r3_g8": predict("a", "joy")}
    for folder in (tmp_path / "one", tmp_path / "two"):
        draw_curves(curves, scale, "sketches", folder / "figure3.png")
        draw_case(Image.new("RGB", (60, 40), "orange"), answers, folder / "figure4.png")
        seconds = {
            name: {"rollout": 1.0, "reflection": part, "training": 2.0}
            for name, part in (("grpo_g8", 0.0), ("emo_r3_g8", 0.3))
        }
        draw_seconds(seconds, folder / "figure5.png")
    for number in (3, 4, 5):
        one, two = (tmp_path / folder / f"figure{number}.png" for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
        with Image.open(one) as image:
            colours = image.convert("RGB").getcolors(1 << 24)
            assert min(image.size) > 150
            assert colours is not None
            assert len(colours) > 20
