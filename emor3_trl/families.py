"""What differs between families of models, in one table: a new family is one row here (docs/FAMILIES.md).

Nothing else in the package asks which family a model is of. What a configuration or a processor says of itself (the
ids of image tokens, positions by rows and columns, a tied head, the size of an attention head) is read there, so it
has no column here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that memory depends on.

    Args:
        name: where they come from.
        parameters: all of them; a tied head counts once.
        hidden, layers, key_value_size, intermediate, vocabulary: of the language model; `key_value_size` is the width
            of one layer's keys, all heads.
        vision: parameters of the vision tower, with what joins it to the language model.
        linear: parameters in linear layers, biases and the head left out: those that 4 or 8 bits may hold.
        vision_adapters: parameters of adapters of rank 1 on the linear layers of the vision tower.
        query_size: width of one layer's queries, all heads; 0 if it is `hidden`.
        family: the model's `model_type`.
    """

    name: str
    parameters: int
    hidden: int
    layers: int
    key_value_size: int
    intermediate: int
    vocabulary: int
    vision: int
    linear: int
    vision_adapters: int
    query_size: int = 0
    family: str = ""


@dataclass(frozen=True)
class Family:
    """A family of models.

    Args:
        title: what people call it.
        unshared: why the completions of a group cannot share their prompt, as the end of a sentence; None if they can,
            and then exactly.
        shapes: the sizes of its checkpoints, by their name on the Hub, for `--plan`.
        token_side: pixels of the side of the square that an image token stands for.
        image_tokens: the tokens of an image of any size; None where `token_side` tells.
        engine_names: how the names of weights begin in Transformers, and in vLLM where it knows them by others.
        removes_image_tokens: whether a prompt may lose some of its image's tokens, compared token by token (SEPM).
        tower: `model_type` of the vision tower that the row is about; None if its models have one kind.
        reaches_tower: whether a forward with an image reaches every weight of the vision tower. Of LLaVA's, what comes
            after the layer of its features has no gradient.
    """

    title: str
    unshared: str | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    token_side: int = 28
    image_tokens: int | None = None
    engine_names: tuple[tuple[str, str], ...] = ()
    removes_image_tokens: bool = False
    tower: str | None = None
    reaches_tower: bool = False

    def count_image_tokens(self, pixels: int) -> int:
        """Return how many tokens an image of so many pixels has at most."""
        return self.image_tokens or -(-pixels // self.token_side**2)

    def name_for_engine(self, weight: str) -> str:
        """Return the name by which vLLM loads a weight.

        Args:
            weight: its name in the trained model.
        """
        for ours, theirs in self.engine_names:
            if weight.startswith(ours):
                return theirs + weight.removeprefix(ours)
        return weight


_CROPS = "the shape of an image decides into how many crops it is cut, and a crop does not say whose it is"

FAMILIES: dict[str, Family] = {
    "llama": Family("Llama"),
    "qwen2": Family("Qwen2"),
    "qwen3": Family("Qwen3"),
    "qwen2_vl": Family("Qwen2-VL", reaches_tower=True),
    "qwen2_5_vl": Family(
        "Qwen2.5-VL",
        reaches_tower=True,
        removes_image_tokens=True,
        shapes={
            "Qwen/Qwen2.5-VL-3B-Instruct": Shape(
                "Qwen2.5-VL-3B", 3_754_622_976, 2048, 36, 256, 11008, 151936, 668_684_288, 3_441_197_056, 714_368,
                2048, "qwen2_5_vl",
            ),
            "Qwen/Qwen2.5-VL-7B-Instruct": Shape(
                "Qwen2.5-VL-7B", 8_292_166_656, 3584, 28, 512, 18944, 152064, 676_550_144, 7_199_817_728, 715_904,
                3584, "qwen2_5_vl",
            ),
        },
    ),
    "qwen3_vl": Family(
        "Qwen3-VL",
        token_side=32,
        reaches_tower=True,
        shapes={
            "Qwen/Qwen3-VL-2B-Instruct": Shape(
                "Qwen3-VL-2B", 2_127_532_032, 2048, 28, 1024, 6144, 151936, 406_957_056, 1_811_939_328, 450_560,
                2048, "qwen3_vl",
            ),
            "Qwen/Qwen3-VL-4B-Instruct": Shape(
                "Qwen3-VL-4B", 4_437_815_808, 2560, 36, 1024, 9728, 151936, 415_347_712, 4_044_357_632, 452_608,
                4096, "qwen3_vl",
            ),
            "Qwen/Qwen3-VL-8B-Instruct": Shape(
                "Qwen3-VL-8B", 8_767_123_696, 4096, 36, 1024, 12288, 151936, 576_388_336, 7_517_270_016, 552_928,
                4096, "qwen3_vl",
            ),
        },
    ),
    "llava": Family(
        "LLaVA-1.5",
        image_tokens=576,
        # vLLM takes CLIP's weights by the names of the Hub, with a level that Transformers 5 no longer has
        engine_names=(("model.vision_tower.", "model.vision_tower.vision_model."),),
        removes_image_tokens=True,
        tower="clip_vision_model",
        shapes={
            "llava-hf/llava-1.5-7b-hf": Shape(
                "LLaVA-1.5-7B", 7_063_427_072, 4096, 32, 4096, 11008, 32064, 324_487_168, 6_798_966_784, 455_680,
                4096, "llava",
            ),
        },
    ),
    "llava_next": Family("LLaVA-NeXT", _CROPS),
    "idefics3": Family("Idefics3", _CROPS),
    "internvl": Family("InternVL", _CROPS),
    "gemma3": Family("Gemma 3", "the tokens of an image see each other in both directions"),
}  # fmt: skip

SHAPES = {name: shape for family in FAMILIES.values() for name, shape in family.shapes.items()}


def find_family(model_type: str) -> Family:
    """Return the row of a family; of one without a row, what is assumed of it.

    Args:
        model_type: as the model's configuration has it.
    """
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    tested = ", ".join(name for name, family in FAMILIES.items() if family.unshared is None)
    return Family(
        model_type, f"it is tested for {tested}, and this model is of type '{model_type}' (see docs/FAMILIES.md)"
    )


def find_family_of(config: Any) -> Family:
    """Return the row of a model, or what is assumed of one whose vision tower is another than that of its row.

    Args:
        config: the model's configuration.
    """
    family = find_family(config.model_type)
    tower = getattr(getattr(config, "vision_config", None), "model_type", None)
    if family.tower in (None, tower):
        return family
    return Family(
        config.model_type,
        f"of type '{config.model_type}', it is tested with the vision tower '{family.tower}', and this model has "
        f"'{tower}' (see docs/FAMILIES.md)",
    )
