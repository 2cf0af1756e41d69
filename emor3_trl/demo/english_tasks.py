"""What the English demo's base model is taught: the demo's tasks, in sentences that SmolLM2 wrote."""

import random
from collections.abc import Sequence

from PIL import Image
from transformers import Qwen2_5_VLProcessor

from emor3_trl.demo.drawings import Drawing
from emor3_trl.demo.judging import Claim, ClaimedImage
from emor3_trl.demo.sentences import list_keys, name_mood, split_key
from emor3_trl.demo.teaching import Example, Tasks
from emor3_trl.demo.texts import join_steps
from emor3_trl.demo.writing import Sentences

DESCRIBE = "What does this picture show?"


class EnglishTasks(Tasks):
    """`Tasks` with other words.

    Args:
        processor: for its chat template.
        pictures: training images, and what is in them; each has a sentence.
        rng: decides which images, which sentences and which mistakes.
        sentences: what SmolLM2 wrote.
    """

    def __init__(
        self,
        processor: Qwen2_5_VLProcessor,
        pictures: Sequence[tuple[Image.Image, Drawing]],
        rng: random.Random,
        sentences: Sentences,
    ) -> None:
        super().__init__(processor, pictures, rng)
        self.sentences = sentences

    def descriptions(self, count: int) -> list[Example]:
        """A sentence about an image, as the answer to a question: what the vision tower has to make a model say."""
        prompt = self._render(DESCRIBE)
        return [(prompt, self._end(self.tell(drawing)), image) for image, drawing in self._pick(count)]

    def swapped_descriptions(self, count: int) -> tuple[list[Example], list[Example]]:
        """The same sentences after their own images, and after images of the same world with another look."""
        prompt = self._render(DESCRIBE)
        own: list[Example] = []
        swapped: list[Example] = []
        for image, drawing in self._pick(count):
            sentence = self._end(self.tell(drawing))
            others = [picture for picture, other in self.pictures if _looks_otherwise(other, drawing)]
            own.append((prompt, sentence, image))
            swapped.append((prompt, sentence, self.rng.choice(others)))
        return own, swapped

    def claims(self, images: int, count: int) -> list[ClaimedImage]:
        """Images with `count` sentences each: every other one is false, and of those every other one in the look alone.

        The rest of the false ones are about any image of the same world with another look.
        """
        claimed = []
        for image, drawing in self._pick(images):
            claims = []
            for pair in range(count // 2):
                true, false = self.rng.choice(self.sentences.find_pairs(drawing))
                if pair % 2:
                    others = [other for _, other in self.pictures if _looks_otherwise(other, drawing)]
                    true, false = self._pick_key(drawing), self._pick_key(self.rng.choice(others))
                claims += [Claim(self._tell_key(key), split_key(key)[0], key == true) for key in (true, false)]
            claimed.append(ClaimedImage(image, drawing.look, self._show_image(), claims))
        return claimed

    def asked(self, count: int) -> list[Example]:
        """The questions as they are: three for thinking, and one for the answer only, of which there is a few tokens.

        In a batch each token weighs alike. As a loss of its own, the answer only would weigh the first token, which
        decides between the two, twenty times as much as thinking does, and the steps would be gone.
        """
        direct = count // 4
        return self.thinking(count - direct) + self.direct(direct)

    def tell(self, drawing: Drawing) -> str:
        """Return a true sentence about an image."""
        return self._tell_key(self._pick_key(drawing))

    def tell_truth_and_mistake(self, drawing: Drawing) -> tuple[str, str]:
        """Return two sentences with the same detail, and with the look of the image and one of another emotion."""
        true, false = map(self._tell_key, self.rng.choice(self.sentences.find_pairs(drawing)))
        return true, false

    def feel(self, emotion: str) -> str:
        """Return what a person who sees an image of `emotion` would feel."""
        return self.rng.choice(self.sentences.feelings[emotion])

    def think(self, drawing: Drawing, emotion: str) -> str:
        """Return Structured Emotional Thinking about an image, which answers `emotion`."""
        conclusion = self.rng.choice(self.sentences.conclusions[name_mood(emotion)])
        return join_steps(self.tell(drawing), self.feel(emotion), conclusion, emotion)

    def _pick_key(self, drawing: Drawing) -> str:
        return self.rng.choice([key for key in list_keys(drawing) if self.sentences.triggers.get(key)])

    def _tell_key(self, key: str) -> str:
        return self.rng.choice(self.sentences.triggers[key])


def _looks_otherwise(first: Drawing, second: Drawing) -> bool:
    return first.world == second.world and first.look != second.look
