"""A mistake in the options is named before any image is opened, and a right one is heard."""

import re

import pytest
from downloads import save, write_emoset

from emor3_trl.data import load_split
from emor3_trl.data.arguments import PreparationArguments, open_source
from emor3_trl.data.preparation import prepare
from emor3_trl.data.sources.candidates import FolderImages
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.recipe import UserError


def prepare_as_told(arguments: list[str]) -> None:
    (args,) = parse_arguments([PreparationArguments], argv=arguments).arguments
    prepare(open_source(args), args.output_dir, args.build_sampling(), args.build_budget())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--dataset", "emosets"), "dataset"),
        (("--dataset", "emoset"), "needs either --source"),
        (("--source", "x"), "dataset is 'demo'"),
        (("--dataset", "webemo", "--hub_id", "a/b"), "It goes with --dataset emoset or own"),
        (("--dataset", "webemo"), "needs --source"),
        (("--train", "5"), "train is set, but dataset is 'demo'"),
        (("--dataset", "emoset", "--source", "IN", "--label_space", "emotion6"), "It goes with --dataset own"),
        (("--dataset", "own", "--source", "IN", "--label_from", "votes"), "It goes with --dataset emotion6"),
        (("--dataset", "own", "--hub_id", "a/b"), "needs --label_space"),
        (("--dataset", "emoset", "--source", "no/where"), "There is no no/where/train.json"),
        (("--dataset", "emoset", "--source", "IN", "--train", "-1"), "Expected 0 or more"),
        (("--dataset", "emoset", "--source", "IN", "--min_pixels", "5"), "784"),
        (("--dataset", "emoset", "--source", "IN", "--multiple_of", "0"), "multiple_of is 0"),
        (("--dataset", "emoset", "--source", "IN", "--multiple_of", "-28"), "multiple_of is -28"),
        (("--dataset", "emoset", "--source", "IN", "--train", "0", "--test", "0"), "Nothing to draw"),
        (("--dataset", "emoset", "--source", "IN", "--tets", "3"), "--test"),
        (("--dataset", "own", "--source", "IN/image", "--label_space", "emotion6"), "outside the label space"),
        (("--dataset", "own", "--source", "IN/image", "--label_space", "no.yaml"), "no.yaml"),
    ],
)
def test_a_mistake_is_named_before_any_picture_is_opened(tmp_path, monkeypatch, arguments, words):
    write_emoset(tmp_path / "in", per_label=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FolderImages, "read_image", None)
    filled = [str(item).replace("IN", str(tmp_path / "in")) for item in arguments]
    with pytest.raises((UserError, ValueError, FileNotFoundError), match=re.escape(words)):
        prepare_as_told([*filled, "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_sides_are_multiples_of_what_the_model_wants(tmp_path):
    write_emoset(tmp_path / "in", per_label=1)
    told = ["--dataset", "emoset", "--source", str(tmp_path / "in"), "--train", "1", "--test", "0"]
    told += ["--min_pixels", "784", "--multiple_of", "32"]
    prepare_as_told([*told, "--output_dir", str(tmp_path / "out")])
    sides = {side for image in load_split(tmp_path / "out", "train")["image"] for side in image.size}
    assert sides
    assert all(side % 32 == 0 for side in sides)


@pytest.mark.parametrize("output", ["pictures", "pictures/out", "link/out"])
def test_an_output_folder_within_the_pictures_is_refused(tmp_path, output):
    save(tmp_path / "pictures" / "joy" / "a.jpg", 1)
    (tmp_path / "link").symlink_to(tmp_path / "pictures")
    with pytest.raises(ValueError, match=r"lies in source .*Choose an --output_dir beside it"):
        PreparationArguments("own", str(tmp_path / "pictures"), output_dir=str(tmp_path / output))
    PreparationArguments("own", str(tmp_path / "pictures"), output_dir=str(tmp_path / "pictures2"))
