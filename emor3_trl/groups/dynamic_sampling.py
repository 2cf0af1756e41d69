"""Dynamic sampling (DAPO, arXiv 2503.14476, Sec. 3.2): groups that teach nothing make room for further prompts.

A group whose rewards are all alike has no advantage. `DynamicSampler` judges the groups of a rollout, draws further
prompts for the places of those that it drops, and judges again, until the batch is full or the tries are used up. The
batch has the size of an ordinary one. A batch that stays short keeps the dropped groups of its first rollout without
advantages, and the run says so: the pool starves (paper, Fig. 3).

Rewards are gathered and the main process draws, so all processes decide alike and take part in the same calls. A group
stays in the processes that made it, so no row travels. What is drawn follows from the seed and the step alone, so a
resumed run draws the same without a state of its own.
"""

import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import Trainer
from trl.trainer.utils import get_callable_name

from emor3_trl.groups.rows import Batch, copy_images, merge_rows, split_rows, take_rows

logger = logging.getLogger(__name__)

MEAN_LIMITS = (0.01, 0.99)  # reference: exclusive
ACCURACY = "accuracy_reward"
# Metrics that count what a step did, in all its tries
ADDED_UP = ("images/", "reflection/", "time/", "rollout/completions")


def has_spread(rewards: torch.Tensor) -> torch.Tensor:
    """Return whether the completions of a group differ in their reward.

    Args:
        rewards: shape (groups, G); NaN for a completion that no reward judges.
    """
    lowest = rewards.nan_to_num(nan=math.inf).amin(dim=1)
    return rewards.nan_to_num(nan=-math.inf).amax(dim=1) > lowest


def has_middle_mean(rewards: torch.Tensor) -> torch.Tensor:
    """Return whether the mean reward of a group lies inside `MEAN_LIMITS`, as the reference asks; see `has_spread`."""
    means = rewards.nanmean(dim=1)
    return (means > MEAN_LIMITS[0]) & (means < MEAN_LIMITS[1])


RULES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "spread": has_spread,
    "reward": has_middle_mean,
    "accuracy": has_middle_mean,
}


def check_dynamic_sampling(args: Any, train_dataset: Any, reward_funcs: Any) -> None:
    """Check that groups can be judged and further prompts drawn, before a model loads.

    Args:
        args: the configuration; without the fields of `EmoR3Config` nothing is checked.
        train_dataset: the rows to train on.
        reward_funcs: the reward functions.

    Raises:
        ValueError: for a stream, or a filter on an accuracy that is not rewarded.
    """
    rule = getattr(args, "dynamic_sampling", "none")
    if rule != "none" and not isinstance(train_dataset, Dataset):
        raise ValueError(
            f"dynamic_sampling is '{rule}', but the training data is a stream, from which no further prompt can be "
            "drawn. Load it as a Dataset, or set dynamic_sampling: none."
        )
    functions = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    names = [get_callable_name(function) for function in functions if callable(function)]
    if rule == "accuracy" and ACCURACY not in names:
        raise ValueError(
            f"dynamic_sampling is 'accuracy', but no reward is named {ACCURACY} (the rewards: {', '.join(names)}). "
            "Add it, or set dynamic_sampling: spread."
        )


class DynamicSampler(Trainer):
    """Fills a rollout with groups that a rule keeps; mix it in before a trainer of TRL.

    It reads the fields `dynamic_sampling`, `dynamic_sampling_tries` and `dynamic_sampling_starved` of the
    configuration, and does nothing without them.
    """

    rollout: Any
    _has_starved = False

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the rewards of the completions of all processes, and keep them beside the rollout's rows."""
        self.rollout.rewards = super()._calculate_rewards(*args, **kwargs)
        return self.rollout.rewards

    def _fill_batch(self, rows: list[dict[str, Any]]) -> Batch:
        """Return a rollout of the rows, split by row, in which other groups stand for those that are dropped.

        Args:
            rows: one per completion of this process.
        """
        rule = getattr(self.args, "dynamic_sampling", "none")
        if rule == "none":
            return split_rows(self._generate_and_score_completions(rows))
        counted = {name: len(values) for name, values in self._metrics["train"].items()}
        prompts = self._identify_prompts(rows)  # before reflection writes into the rows
        first = split_rows(self._generate_and_score_completions(rows))
        rollout, kept = self.rollout, self._judge_groups(rule)
        free = [place for place, is_kept in enumerate(kept) if not is_kept]
        dropped = len(free)
        used = {prompt for prompt, is_kept in zip(prompts, kept, strict=True) if is_kept}
        draw = self._draw_prompts(set(prompts), used)
        parts, places = [first], [(0, row) for row in range(len(rows))]
        tries, judged = 1, len(kept)
        kept_groups = sum(kept)
        while free and tries < self.args.dynamic_sampling_tries:
            count = self._count_refills(free, len(rows), kept_groups / judged)
            drawn = list(islice(draw, count)) if self.accelerator.is_main_process else []
            (drawn,) = broadcast_object_list([drawn])
            if not drawn:  # every prompt stands in the batch
                break
            further = self._read_rows([index for index, _ in drawn])
            part = split_rows(self._generate_and_score_completions(further))
            tries, judged, kept = tries + 1, judged + count, self._judge_groups(rule)
            kept_groups += sum(kept)
            moves: list[tuple[int, int]] = []  # (row of this process's batch, row of its refill)
            for group, (_, prompt) in enumerate(drawn):
                home = self._find_home(group, len(further))
                place = next((place for place in free if self._find_home(place, len(rows)) == home), None)
                if kept[group] and prompt not in used and place is not None:
                    free.remove(place)
                    used.add(prompt)
                    moves += zip(self._local_rows(place, len(rows)), self._local_rows(group, len(further)), strict=True)
            for number, (target, source) in enumerate(moves):
                places[target] = (len(parts), number)
                rollout.rows[target] = self.rollout.rows[source]
            if moves:
                parts.append(copy_images(take_rows(part, [source for _, source in moves])))
        self.rollout = rollout
        self._report_sampling(counted, tries, 1 - kept_groups / judged, free, len(prompts))
        # The same in every process, whether its own places were filled or another's
        batch = first if len(free) == dropped else self._merge(parts, places)
        for place in free:  # what a rule drops has advantages where it still differs
            batch["advantages"][self._local_rows(place, len(rows))] = 0.0
        return batch

    def _identify_prompts(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        """Return what tells the row of each group from others, over all processes."""
        start = self.accelerator.process_index * len(rows)
        firsts = [row for number, row in enumerate(rows, start) if number % self.num_generations == 0]
        return gather_object([Hasher.hash(row) for row in firsts])

    def _judge_groups(self, rule: str) -> list[bool]:
        """Return which groups of the last rollout a rule keeps, over all processes."""
        rewards = self.rollout.rewards  # (completions of all processes, functions)
        if rule == "accuracy":
            overall = rewards[:, self.reward_func_names.index(ACCURACY)]
        else:
            overall = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
            overall[rewards.isnan().all(dim=1)] = torch.nan
        return RULES[rule](overall.view(-1, self.num_generations)).tolist()

    def _draw_prompts(self, tried: set[str], used: set[str]) -> Iterator[tuple[int, str]]:
        """Yield further rows of the training set, as index and prompt, until all of them are used.

        Args:
            tried: prompts that come again only after all others.
            used: prompts that do not come; the caller adds to them.
        """
        draw = random.Random(f"{self.args.seed} {self._step}")
        while True:
            has_drawn = False
            for index in draw.sample(range(len(self.train_dataset)), len(self.train_dataset)):
                prompt = Hasher.hash(self.train_dataset[index])
                if prompt not in used and prompt not in tried:
                    has_drawn = True
                    yield index, prompt
            if not has_drawn and not tried:
                return
            tried = set()

    def _count_refills(self, free: Sequence[int], rows: int, kept_share: float) -> int:
        """Return how many prompts to draw: as many as fill the places if as many are kept as so far; a batch at most.

        Each process gets as many as another, whole groups where its rows are whole groups.
        """
        groups, is_cut = divmod(rows, self.num_generations)
        processes = self.accelerator.num_processes
        if is_cut:
            return rows * processes // self.num_generations
        missing = max(Counter(self._find_home(place, rows) for place in free).values())
        return processes * min(groups, math.ceil(missing / max(kept_share, 1e-9)))

    def _find_home(self, group: int, rows: int) -> tuple[int, ...]:
        """Return the process of each completion of a group, where each process has `rows` of them."""
        start = group * self.num_generations
        return tuple((start + completion) // rows for completion in range(self.num_generations))

    def _local_rows(self, group: int, rows: int) -> list[int]:
        """Return the rows of a group that are this process's."""
        start = group * self.num_generations - self.accelerator.process_index * rows
        return [row for row in range(start, start + self.num_generations) if 0 <= row < rows]

    def _read_rows(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return this process's part of G rows for each of these indices of the training set."""
        rows = len(indices) * self.num_generations // self.accelerator.num_processes
        start = self.accelerator.process_index * rows
        places = [row // self.num_generations for row in range(start, start + rows)]
        known = {place: self.train_dataset[indices[place]] for place in dict.fromkeys(places)}
        return [dict(known[place]) for place in places]  # reflection writes into each

    def _merge(self, parts: Sequence[Batch], places: Sequence[tuple[int, int]]) -> Batch:
        """Return one batch of the first rollout and its refills, with the number of tokens that it has now."""
        batch = merge_rows(parts, places, self._tokenizer.pad_token_id)
        tokens = batch["completion_mask"] * batch.get("tool_mask", 1)
        return {**batch, "num_items_in_batch": self.accelerator.gather(tokens.sum()).sum()}

    def _report_sampling(
        self, counted: dict[str, int], tries: int, dropped_share: float, free: Sequence[int], groups: int
    ) -> None:
        """Log what was dropped; where the batch stayed short, say so once, and stop the run if it is to stop."""
        metrics = self._metrics["train"]
        for name, values in metrics.items():
            if name.startswith(ADDED_UP):
                start = counted.get(name, 0)
                metrics[name] = [*values[:start], sum(values[start:])]
        metrics["rollout/dropped_share"].append(dropped_share)
        metrics["rollout/tries"].append(float(tries))
        metrics["rollout/starved_share"].append(len(free) / groups)
        if not free:
            return
        stops = self.args.dynamic_sampling_starved == "stop"
        if stops:  # at the end of this optimizer step
            self.control.should_save = self.control.should_training_stop = True
        if not self._has_starved and self.accelerator.is_main_process:
            logger.warning(
                "The pool starves at step %d: %d of %d groups were kept (dynamic_sampling: %s, tries: %d). The others "
                "train without an advantage. %s",
                self.state.global_step + 1, groups - len(free), groups, self.args.dynamic_sampling, tries,
                "The run saves a checkpoint and ends after this step (dynamic_sampling_starved: stop)."
                if stops
                else "The run goes on; rollout/starved_share logs it.",
            )  # fmt: skip
        self._has_starved = True
