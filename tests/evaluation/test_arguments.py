"""What an evaluation can be told: models and data sets by name."""

import pytest

from emor3_trl.evaluation.arguments import (
    EvaluationArguments,
    choose_options,
    choose_style,
    name_models,
    name_splits,
    select_in_domain,
)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: name_models([]), "--models names nothing"),
        (lambda: name_models(["a=x", "a=y"]), "distinct names"),
        (lambda: name_models(["x/a", "y/a"]), "write name=path"),
        (lambda: name_models([".."]), "none of them '.' or '..'"),
        (lambda: name_models(["a=x", "b=y"], ["c"]), "--direct names c. Expected some of a, b"),
        (lambda: name_splits(["test", "test"], "data"), "distinct names"),
        (lambda: name_splits(["test"], ["x/a", "y/a"]), "write name=folder/split"),
        (lambda: name_splits(["mean"], "data"), "called 'mean'"),
        (lambda: select_in_domain(["a", "b"], ["c"]), "--in_domain names c. Expected some of a, b"),
        (lambda: EvaluationArguments(["m"], ["d"], "o", max_tokens=0), "max_tokens is 0"),
        (lambda: EvaluationArguments(["m"], ["d"], "o", sampled=-1), "sampled is -1"),
        (lambda: EvaluationArguments(["m"], ["d"], "o", temperature=0), "temperature is 0"),
        (lambda: EvaluationArguments(["m"], ["d"], "o", report_to=["wandv"]), "'none' or 'wandb'"),
    ],
)
def test_a_users_mistake_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_model_that_answers_at_once_is_asked_so_and_the_others_as_before():
    args = EvaluationArguments(["thinks=m", "sft=n"], ["d"], "o", direct=["sft"], seed=3)
    thinks, sft = (choose_options(choose_style(args, name))[0] for name in ("thinks", "sft"))
    assert (thinks.prompt_style, thinks.reflect) == ("set", True)
    assert (sft.prompt_style, sft.reflect) == ("direct", False)
    assert sft.seed == thinks.seed == 3
    assert args.prompt_style == "set"
