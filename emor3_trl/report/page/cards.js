// One case as a card: the picture, its emotion, and what two models wrote about it side by side.

const STEPS = [['1', 'Trigger'], ['2', 'Feeling'], ['3', 'Conclusion']];
const OUTCOMES = {
  both: 'both right', fixed: 'fixed', broken: 'broken', neither: 'both wrong', right: 'right', wrong: 'wrong',
};

/** What became of a case from model a to model b; null where one of them was not shown the picture. */
function outcome(one, a, b) {
  const before = one.models[a];
  const after = one.models[b];
  if (!before || !after) return null;
  if (a === b) return after.correct ? 'right' : 'wrong';
  if (after.correct) return before.correct ? 'both' : 'fixed';
  return before.correct ? 'broken' : 'neither';
}

function card(one, a, b, words) {
  const result = outcome(one, a, b);
  const shown = a === b ? [a] : [a, b];
  const others = one.models.map((_, model) => model).filter((model) => !shown.includes(model) && one.models[model]);
  const titleId = `case-${one.dataset}-${one.number}`;
  return h('article', { class: 'card', 'aria-labelledby': titleId },
    h('div', { class: 'picture' }, one.picture === null
      ? h('span', { class: 'missing' }, 'no picture')
      : h('img', { src: page.pictures[one.picture], alt: `Picture ${one.id}, ${one.emotion}` })),
    h('header', {},
      h('h3', { id: titleId }, marked(one.emotion, words)),
      h('span', { class: 'where' }, page.datasets[one.dataset].name, ' · ', marked(one.id, words)),
      result && h('span', { class: `outcome ${result}` }, OUTCOMES[result])),
    h('div', { class: 'pair' }, shown.map((model) => completion(one, model, words))),
    others.length > 0 && h('details', { class: 'others' },
      h('summary', {}, others.map((model) => h('span', {}, modelName(model), ' ', verdict(one.models[model])))),
      h('div', { class: 'pair' }, others.map((model) => completion(one, model, words, false)))));
}

/** The answer with a tick or a cross. */
function verdict(own) {
  return h('span', { class: own.correct ? 'verdict right' : 'verdict wrong' },
    h('span', { 'aria-label': own.correct ? 'right:' : 'wrong:' }, own.correct ? '✓' : '✗'), ' ', own.answer ?? 'no answer');
}

function completion(one, model, words) {
  const own = one.models[model];
  if (!own) return h('section', { class: 'completion' }, h('h4', {}, modelName(model)), h('p', { class: 'hint' }, 'not shown this picture'));
  const text = own.steps
    ? h('ol', { class: 'steps' }, own.steps.map((step, index) => h('li', {},
        h('span', { class: 'step' }, h('span', { 'aria-hidden': 'true' }, STEPS[index][0]), STEPS[index][1]),
        h('p', { dir: 'auto' }, marked(step, words)))))
    : h('pre', { dir: 'auto', tabindex: 0, 'aria-label': 'The completion as it was written' }, marked(own.text, words));
  return h('section', { class: 'completion', style: { '--own': colour(model) } },
    h('h4', {}, modelName(model), verdict(own), !own.wellFormed && h('span', { class: 'malformed' }, 'malformed'),
      overall(own, page.models[model])),
    text,
    (own.consistency || own.coherence) && h('p', { class: 'reflection' },
      h('span', {}, term('Consistency', 'Does step 1 describe the picture?'), ' ', h('b', {}, own.consistency ?? '–')),
      h('span', {}, term('Coherence', 'Steps 1 and 2 read as'), ' ', h('b', {}, own.coherence ?? '–'))),
    rewards(own, page.models[model].rewards));
}

function rewards(own, parts) {
  return h('dl', { class: 'rewards' },
    parts.map((part, index) => h('div', { class: own.rewards[index] ? 'earned' : null }, h('dt', {}, part.name),
      h('dd', {}, own.rewards[index] === null ? (part.own ? 'not computed' : 'not asked') : String(own.rewards[index])))));
}

function overall(own, { rewards: parts, about }) {
  if (own.overall === null) return null;
  const sum = parts.map((part) => `${part.weight} × ${part.name}`).join(' + ');
  return h('span', { class: 'overall', tabindex: 0, 'data-tip': `Overall reward: ${sum} (${about.rewards})` }, 'reward ', h('b', {}, own.overall.toFixed(2)));
}

/** The text with the searched words marked: text nodes and <mark>, never markup from the text. */
function marked(text, words) {
  if (!words) return text;
  const lower = text.toLowerCase();
  if (lower.length !== text.length) return text; // a letter whose lower case is longer would shift the marks
  const parts = [];
  let from = 0;
  for (let at = lower.indexOf(words); at >= 0; at = lower.indexOf(words, from)) {
    parts.push(text.slice(from, at), h('mark', {}, text.slice(at, at + words.length)));
    from = at + words.length;
  }
  return [...parts, text.slice(from)];
}
