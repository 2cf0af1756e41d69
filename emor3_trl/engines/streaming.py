"""One greedy completion on transformers, token by token as it is written."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from transformers import TextIteratorStreamer

from emor3_trl.engines.engine import Completion
from emor3_trl.engines.transformers import TransformersEngine, padded_inputs
from emor3_trl.prompts import render


class _NobodyReadsError(Exception):
    """The reader of a completion has gone, so it is not written to its end."""


class _Streamer(TextIteratorStreamer):
    """Counts tokens, and ends the writing once nobody reads."""

    abandoned = False
    tokens = -1  # the prompt is put first

    def put(self, value: Any) -> None:
        if self.abandoned:
            raise _NobodyReadsError
        self.tokens += 1
        super().put(value)

    def stop(self) -> None:
        """End the reading, whatever became of the writing."""
        self.text_queue.put(self.stop_signal)


def stream_completion(engine: TransformersEngine, text: str, image: Any, max_tokens: int) -> Iterator[Completion]:
    """Write a completion greedily, and give what there is of it after each word.

    A reader that stops reading stops the writing at the next token.

    Args:
        engine: the model; nothing else may use it meanwhile.
        text: the question.
        image: a PIL image.
        max_tokens: longest completion.

    Yields:
        Beginnings of the completion, and last the whole: the very one that `engine.generate` returns.
    """
    inputs = padded_inputs(engine.processor, [render(engine.processor, text)], [()], [image]).to(engine.model.device)
    streamer = _Streamer(engine.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)

    def write() -> list[Completion]:
        try:
            return engine.complete(inputs, temperature=0, max_tokens=max_tokens, seed=0, streamer=streamer)
        finally:
            streamer.stop()

    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(write)
        beginning = ""
        try:
            for piece in streamer:
                beginning += piece
                yield Completion(beginning, streamer.tokens, finished=False)
        finally:
            streamer.abandoned = True
        yield writing.result()[0]
