"""An engine whose random model answers now and then."""

from tiny_model import gold_completion

from emor3_trl.engines.engine import Completion


class AnswersEveryOther:
    """An engine whose every other completion is one that answers."""

    def __init__(self, engine) -> None:
        self.engine = engine
        self.processor, self.group, self.choose = engine.processor, engine.group, engine.choose
        self.log_probabilities = engine.log_probabilities

    def generate(self, texts, images, **options):
        written = self.engine.generate(texts, images, **options)
        answers = [[Completion(gold_completion("fear"), 40, finished=True)] for _ in written]
        return [answers[row] if row % 2 else written[row] for row in range(len(written))]
