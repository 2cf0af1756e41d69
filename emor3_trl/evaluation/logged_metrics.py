"""What recipes/evaluate.py logs, explained. Beside every rate and mean stand the ends of its 95% interval."""

from emor3_trl.logged_metrics import LoggedMetric

# What each of these has: the same name with _low and with _high
BOUNDS = ("_low", "_high")
EVALUATION = (
    LoggedMetric(
        "eval/<dataset>/n", "images", "images that were asked about", "as many as the split has",
        "Fewer: max_samples is set.",
    ),
    LoggedMetric(
        "eval/<dataset>/accuracy", "share", "greedy answers that are right", "far above 1 / labels",
        "At chance: look at format_rate, then at the confusion.",
    ),
    LoggedMetric(
        "eval/<dataset>/macro_f1", "share", "mean F1 over the emotions", "near the accuracy",
        "Far below it: rare emotions are never answered. See class/<emotion>/recall.",
    ),
    LoggedMetric(
        "eval/<dataset>/uar", "share", "mean recall over the emotions", "near the accuracy",
        "Far below it: the answers lean on frequent emotions.",
    ),
    LoggedMetric(
        "eval/<dataset>/format_rate", "share", "completions that are well formed", "above 0.95",
        "Lower: a larger max_tokens, or more weight on format in training.",
    ),
    LoggedMetric(
        "eval/<dataset>/completion_tokens", "tokens", "mean length of a completion", "well below max_tokens",
        "At max_tokens: completions are cut off.",
    ),
    LoggedMetric(
        "eval/<dataset>/n_valence", "images", "images whose emotion has a known valence",
        "as many as n in the paper's label spaces", "Fewer: some labels have no valence, or some answers have none.",
    ),
    LoggedMetric(
        "eval/<dataset>/valence_agreement", "share",
        "of these: the answer is as pleasant or unpleasant as the emotion", "above the accuracy",
        "Near chance: the errors are not near misses.",
    ),
    LoggedMetric(
        "eval/<dataset>/arousal_agreement", "share", "of these: the answer is as calm or excited as the emotion",
        "above the accuracy", "Near chance: the errors are not near misses.",
    ),
    LoggedMetric(
        "eval/<dataset>/names_valence", "share",
        "of well-formed completions: step 3 names a valence, as it is asked to", "above 0.9",
        "Lower: step 3 says something else. Read completions.",
    ),
    LoggedMetric(
        "eval/<dataset>/n_reflected", "images", "well-formed completions that the model was asked about",
        "n times format_rate", "0: reflect is off.",
    ),
    LoggedMetric(
        "eval/<dataset>/agreement", "share",
        "of these: the emotion that the model reads from its own steps is its answer", "above the base model's",
        "Lower than before training: the steps no longer lead to the answer.",
    ),
    LoggedMetric(
        "eval/<dataset>/coherence", "share", "of these: the emotion that it reads from its own steps is the true one",
        "rises with the accuracy", "Far below the accuracy: the steps do not carry the answer.",
    ),
    LoggedMetric(
        "eval/<dataset>/consistency", "share", "of these: it says Yes to its own step 1", "above 0.5, below 1",
        "1: a judge that says Yes to anything. See the diagnostics.",
    ),
    LoggedMetric(
        "eval/<dataset>/n_with_probabilities", "images", "answers that are a label, and whose probability is known",
        "n", "0: score_labels is off. Fewer than n: some answers name no label.",
    ),
    LoggedMetric(
        "eval/<dataset>/ece", "0 to 1",
        "of these: how far the probability of an answer is from its accuracy, in 15 bins",
        "below 0.1", "High: do not read probabilities as chances of being right. See the reliability diagram.",
    ),
    LoggedMetric(
        "eval/<dataset>/brier", "0 to 2", "of these: mean squared error of all labels' probabilities",
        "falls with training", "Above 1 - 1 / labels: worse than knowing nothing.",
    ),
    LoggedMetric(
        "eval/<dataset>/auroc", "0 to 1", "of these: a right answer is more probable than a wrong one",
        "above 0.7", "Near 0.5: the probability does not tell which answers are right.",
    ),
    LoggedMetric(
        "eval/<dataset>/selective_accuracy", "share", "of these: mean accuracy of the k surest answers, over all k",
        "above the accuracy", "Near the accuracy: leaving out unsure answers gains nothing.",
    ),
    LoggedMetric(
        "eval/<dataset>/sampled_n", "completions", "with sampled: completions that were drawn", "as it was set",
        "It is a record.",
    ),
    LoggedMetric(
        "eval/<dataset>/sampled_accuracy", "share", "with sampled: drawn completions whose answer is right",
        "near the accuracy", "Far below it: the policy is unsure. Lower the temperature.",
    ),
    LoggedMetric(
        "eval/<dataset>/sampled_format_rate", "share", "with sampled: drawn completions that are well formed",
        "near format_rate", "Far below it: the steps are not learned well.",
    ),
    LoggedMetric(
        "eval/<dataset>/class/<emotion>/support", "images", "images of an emotion", "above 20",
        "Fewer: its rates have wide intervals.",
    ),
    LoggedMetric(
        "eval/<dataset>/class/<emotion>/precision", "share", "answers of an emotion that are right",
        "near the accuracy", "Low: other emotions are taken for it. See the confusion.",
    ),
    LoggedMetric(
        "eval/<dataset>/class/<emotion>/recall", "share", "images of an emotion that are answered rightly",
        "near the accuracy", "Near 0: the emotion is never answered. See the confusion.",
    ),
    LoggedMetric(
        "eval/<dataset>/class/<emotion>/f1", "share", "harmonic mean of both", "near the accuracy",
        "See precision and recall.",
    ),
    LoggedMetric(
        "eval/mean/in_domain", "share", "mean accuracy over the data sets that were trained on (paper: A^I)",
        "rises with training", "See eval/<dataset>/accuracy.",
    ),
    LoggedMetric(
        "eval/mean/out_of_domain", "share", "mean accuracy over the others (paper: A^O)", "does not fall",
        "It falls: training harms what generalises. Stop earlier, or raise beta.",
    ),
    LoggedMetric(
        "eval/mean/overall", "share", "mean accuracy over all data sets (paper: A)", "rises with training",
        "See eval/<dataset>/accuracy.",
    ),
    LoggedMetric("eval/seconds", "seconds", "the whole evaluation of a model", "–", "It is a record."),
)  # fmt: skip
