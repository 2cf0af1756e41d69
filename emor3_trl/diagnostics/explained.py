"""What the diagnostics, probes and alarms mean: a record for each metric that they log."""

from emor3_trl.diagnostics.alarms import ALARMS
from emor3_trl.logged_metrics import LoggedMetric

_WORDS = "Falling towards 0: the step is a formality. Rising without end: lower max_completion_length or add a reward."

DIAGNOSTICS: tuple[LoggedMetric, ...] = (
    LoggedMetric(
        "diagnostics/advantage_share/<reward>", "share",
        "How much of the size of the advantages this reward causes, signed; the shares of all rewards add up to 1.",
        "accuracy the largest; each above 0",
        "A reward that causes more than you meant: lower its weight. A negative one pulls against the others.",
    ),
    LoggedMetric(
        "diagnostics/only_reflection_decides", "share of groups",
        "Groups whose other rewards are equal, so that the reflective reward makes the whole advantage; dividing by "
        "the deviation cancels lambda1 there.",
        "below 0.5",
        "Use harder data, dynamic_sampling: accuracy, or scale_rewards: none.",
    ),
    LoggedMetric(
        "diagnostics/zero_spread/<reward>", "share of groups",
        "Groups in which all completions earn the same from this reward; `overall` is the weighted sum.",
        "overall below 0.7",
        "Overall near 1: nothing is learned. Use harder or easier data, or dynamic_sampling: spread.",
    ),
    LoggedMetric(
        "diagnostics/reward/<emotion>", "reward",
        "Mean overall reward of completions about images of this emotion.",
        "all rising; none far below the others for long",
        "Look at this emotion's completions and labels; balance the data.",
    ),
    LoggedMetric(
        "diagnostics/agreement", "share of reflected completions",
        "The emotion that the policy reads from steps 1 and 2, masked with masked_coherence, is the answer.",
        "above 0.6",
        "Falling: the answer ignores the thinking. Raise lambda1, or start from the cold start.",
    ),
    LoggedMetric(
        "diagnostics/conclusion_contradicts_answer", "share of conclusions with a valence",
        "Step 3 says positive of a negative answer, or negative of a positive one.",
        "below 0.2",
        "Read step 3 beside the answer; start from the cold start, or from a stronger base.",
    ),
    LoggedMetric(
        "diagnostics/conclusion_names_valence", "share of well-formed completions",
        "Step 3 says whether the emotion is positive or negative, as it is asked to.",
        "above 0.9",
        "Falling: the policy drops the step's content while its tags stay. Raise beta.",
    ),
    LoggedMetric(
        "diagnostics/answer_entropy", "0 to 1",
        "Entropy of all answers over that of equally frequent labels.",
        "close to that of the data's labels (0.9 to 1 where they are balanced)",
        "Falling towards 0: answers collapse. See favourite_excess.",
    ),
    LoggedMetric(
        "diagnostics/answer_entropy/<emotion>", "0 to 1",
        "Entropy of the answers to images of this emotion.",
        "falling while the reward of this emotion rises",
        "0 with a low reward: the policy is sure and wrong, and cannot explore. Raise temperature.",
    ),
    LoggedMetric(
        "diagnostics/largest_answer_share", "share of answers",
        "Share of the most frequent answer.",
        "close to that of the most frequent emotion of the rollout",
        "See favourite_excess.",
    ),
    LoggedMetric(
        "diagnostics/favourite_excess", "share of answers",
        "How much more often the most overused answer is given than it is right.",
        "below 0.3",
        "Balance the emotions of the data, raise beta, or lower the learning rate.",
    ),
    LoggedMetric(
        "diagnostics/no_answer", "share of completions",
        "No box names exactly one label.",
        "below 0.1",
        "See malformed; completions that name a label outside the list need another prompt or label space.",
    ),
    LoggedMetric("diagnostics/trigger_words", "words", "Mean length of step 1.", "steady", _WORDS),
    LoggedMetric("diagnostics/feeling_words", "words", "Mean length of step 2.", "steady", _WORDS),
    LoggedMetric("diagnostics/conclusion_words", "words", "Mean length of step 3.", "steady", _WORDS),
    LoggedMetric(
        "diagnostics/trigger_overlap/siblings", "0 to 1",
        "Mean overlap of the words of step 1 between two completions about the same image: shared words over the "
        "geometric mean of both counts.",
        "above that of others",
        "Near 1: siblings are copies. See entropy.",
    ),
    LoggedMetric(
        "diagnostics/trigger_overlap/others", "0 to 1",
        "The same between completions about two different images.",
        "below that of siblings",
        "See trigger_specificity.",
    ),
    LoggedMetric(
        "diagnostics/trigger_specificity", "-1 to 1",
        "Overlap of siblings minus overlap of others: how much step 1 depends on the image.",
        "above 0.1",
        "Read step 1 of several images: does it say the same of all? Raise beta, or use a stronger base.",
    ),
    LoggedMetric(
        "diagnostics/repeated_trigger", "share of pairs",
        "Pairs of completions about different images whose step 1 is word for word the same.",
        "below 0.05",
        "See trigger_specificity.",
    ),
    LoggedMetric(
        "diagnostics/thinking_names_emotion", "share of well-formed completions",
        "Steps 1 and 2 contain a label of the list as a word: they may name the answer instead of describing.",
        "below 0.3",
        "See masked_coherence, which tells whether the description holds without the label.",
    ),
    LoggedMetric(
        "diagnostics/malformed", "share of completions",
        "Completions without the form that the rewards ask for.",
        "below 0.1, falling",
        "Look at the reasons below; raise lambda2 or beta, or start from the cold start.",
    ),
    LoggedMetric(
        "diagnostics/malformed/<reason>", "share of completions",
        "The first reason why a completion is malformed; the reasons add up to diagnostics/malformed.",
        "near 0",
        "cut_off: raise max_completion_length. Tags and steps: raise lambda2. Text around the box: change the prompt.",
    ),
    LoggedMetric(
        "diagnostics/shuffled_yes", "share of questions",
        "Probe: the policy finds step 1 true of another image, one of another emotion where there is one.",
        "below 0.3",
        "The judge says Yes to anything, or step 1 is true of anything. Lower lambda1, or use a stronger base.",
    ),
    LoggedMetric(
        "diagnostics/yes_gap", "-1 to 1",
        "Probe: share of Yes about the own image minus shuffled_yes.",
        "above 0.3",
        "Near 0: the consistency reward does not depend on the image. Lower lambda1.",
    ),
    LoggedMetric(
        "diagnostics/masked_coherence", "share of reflected completions",
        "Probe: with labels in steps 1 and 2 masked, the same emotion is read from them.",
        "above 0.9",
        "Steps name the emotion and describe nothing. Add a reward that forbids labels in steps 1 and 2.",
    ),
    LoggedMetric(
        "diagnostics/contrasted", "share of reflected completions",
        "With contrastive_consistency: those whose batch holds another image to ask about; the others earn the "
        "paper's consistency.",
        "1",
        "Below 1: some images fill a rollout of a process alone. Raise its number of prompts.",
    ),
    LoggedMetric(
        "diagnostics/contrast_yes", "share of contrasted completions",
        "With contrastive_consistency: the policy finds step 1 true of the other image, too.",
        "falling",
        "Near 1: step 1 fits every image, or the judge says Yes to anything. Read step 1 of several images.",
    ),
    LoggedMetric(
        "diagnostics/reflection_counts", "share",
        "With gated_reflection: the mean gate, by which reflective rewards count.",
        "above 0.2",
        "Near 0: reflection teaches nothing. Set gated_reflection: none, or choose the other gate.",
    ),
    LoggedMetric(
        "diagnostics/exact_probabilities", "share of reflected completions",
        "With soft_reflection: label probabilities of one process that are exact. The others share the probability of "
        "a first token with other labels, see docs/REWARDS.md.",
        "1 where no two labels share their first token",
        "Far below 1: the labels begin alike for this tokenizer. Rename them in the data.",
    ),
    LoggedMetric(
        "diagnostics/probe_requests", "questions",
        "Questions of the probes in one process, in the steps that are probed (probe_steps).",
        "at most two per well-formed completion of a process",
        "Too many: raise probe_steps.",
    ),
    LoggedMetric(
        "diagnostics/probe_seconds", "seconds",
        "Time of the probes, in the steps that are probed.",
        "about that of the reflection",
        "Too long: raise probe_steps.",
    ),
    *(
        LoggedMetric(
            f"alarms/{alarm.name}", "0 or 1",
            f"{alarm.meaning} 1 where {alarm.metric} is {alarm.limit} in {alarm.patience} logged values in a row.",
            "0",
            alarm.action,
        )
        for alarm in ALARMS
    ),
)  # fmt: skip
