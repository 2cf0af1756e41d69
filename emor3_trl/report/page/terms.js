// What each word of the page means, in one sentence.

const TERMS = {
  accuracy: 'Accuracy: the share of pictures whose answer is the emotion of the data set, with its 95% Wilson interval.',
  difference: 'Difference: percentage points above or below the model that is compared with, with a 95% interval from a paired bootstrap over pictures.',
  p: 'p: how often chance alone would split the pictures that only one of the two models gets right at least so unevenly (exact McNemar test); not corrected for the number of comparisons.',
  inMean: 'Aᴵ: mean accuracy over the in-domain data sets, with its 95% interval.',
  outMean: 'Aᴼ: mean accuracy over the out-of-domain data sets, each counting the same.',
  allMean: 'A: mean accuracy over all data sets, each counting the same.',
  macro_f1: 'Macro F1: the harmonic mean of precision and recall, averaged over the emotions, so that rare ones count as much.',
  format_rate: 'Format: the share of completions that have exactly the form that the prompt asks for.',
  agreement: 'Think–answer agreement: of the well-formed completions, how often the model, shown only its own steps 1 and 2, reads from them the emotion that it answered.',
  consistency: 'Consistency: of the well-formed completions, how often the model, shown the picture again, says that its own step 1 describes it.',
  coherence: 'Coherence: of the well-formed completions, how often the model, shown only its own steps 1 and 2, reads from them the true emotion.',
  valence_agreement: 'Valence agreement: how often the answer is positive or negative like the true emotion, whichever emotion it is.',
  recall: 'Recall: of the pictures that show this emotion, the share that got this answer.',
  f1: 'F1: the harmonic mean of recall and precision (of the pictures that got this answer, the share that show the emotion).',
  chance: 'Chance: the accuracy of guessing, one in the number of emotions.',
  ece: 'ECE: expected calibration error. Answers are sorted by confidence into 15 bins of equal width; it is the mean gap between confidence and accuracy of a bin, weighted by its pictures. Of few pictures it is above 0 even for a calibrated model.',
  brier: 'Brier: the squared error of the label probabilities, summed over the labels (0 to 2), averaged over pictures.',
  auroc: 'AUROC of being right: how often a right answer is more confident than a wrong one; 0.5 is chance.',
  selective_accuracy: 'Selective accuracy: the accuracy of the k most confident answers, averaged over all k, which is the area under the curve.',
  disagreement_of_rewards: 'Disagreement: the pull of a reward on a completion is its weight times how far it lies above its group’s mean, p = w (r − mean r). Disagreement is 1 − Σ|Σp| ÷ ΣΣ|p|, inner sums over rewards, outer ones over completions: 0 where all rewards pull each completion the same way, 1 where they cancel.',
  spread: 'Spread: the standard deviation of the overall reward in the group; without any, the group teaches nothing.',
  advantage: 'Advantage: the overall reward above the mean of its group, as training scaled it.',
  'Overall reward': 'Overall reward: the weighted sum of the parts, which training maximises.',
  KL: 'KL: how far the policy has moved from the model that it started from, per token.',
  'Completion length': 'Completion length: mean number of tokens that the model writes.',
  Accuracy: 'Accuracy reward: 1 if the box names the emotion of the picture, else 0.',
  Consistency: 'Consistency reward: 1 if the policy says that its own step 1 describes the picture, else 0.',
  Coherence: 'Coherence reward: 1 if the policy reads the true emotion from its own steps 1 and 2, else 0.',
  Format: 'Format reward: 1 if the completion has exactly the form that is asked for, else 0.',
};

/** What a word means; what is not in the list is a reward that a user wrote. */
function meaningOf(name) {
  return TERMS[name] ?? `${name}: what this function, which is not one of the paper’s rewards, gave the completions.`;
}

/** A word with its meaning in a tooltip, reachable with the keyboard. */
function term(name, text) {
  return h('span', { class: 'term', tabindex: 0, 'data-tip': meaningOf(name) }, text);
}

/** The same meanings as a list that opens, for touch and for paper. */
function glossary(names) {
  const entries = names.map((name) => {
    const [word, ...meaning] = meaningOf(name).split(': ');
    return [h('dt', {}, word), h('dd', {}, meaning.join(': '))];
  });
  return h('details', { class: 'glossary' }, h('summary', {}, 'What the words mean'), h('dl', {}, entries));
}
