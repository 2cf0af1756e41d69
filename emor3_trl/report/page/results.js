// Results: accuracy by model and data set against a chosen model, the means of the paper's Table 1, and what else was measured.

const MEANS = [['inMean', 'A', 'I'], ['outMean', 'A', 'O'], ['allMean', 'A', '']];
const MEASURES = [
  ['macro_f1', 'Macro F1'], ['format_rate', 'Format'], ['agreement', 'Think–answer agreement'],
  ['coherence', 'Coherence'], ['consistency', 'Consistency'], ['valence_agreement', 'Valence agreement'],
];

function drawHeadline() {
  const { baseline: a, trained: b } = page;
  const first = page.metrics[0][a];
  const last = page.metrics[0][b];
  if (!first || !last) return;
  const [{ name, inDomain }] = page.datasets;
  const parts = [`${page.models[b].title} answers `, h('strong', {}, `${percent(last.accuracy)}%`), inDomain ? ' of the in-domain pictures right' : ` of the pictures of ${name} right`];
  const change = page.comparisons[0][a][b];
  if (change) {
    parts.push(`, ${page.models[a].title} ${percent(first.accuracy)}%: `, h('strong', {}, `${signed(change.difference)} points`),
      ` (95% interval ${signed(change.low)} to ${signed(change.high)}, ${pValue(change.p)}, n = ${count(change.n)}).`);
  } else parts.push('.');
  document.getElementById('headline').append(...parts);
}

function drawResults() {
  const place = h('div', {});
  const draw = (baseline) => place.replaceChildren(resultsTable(Number(baseline)));
  draw(page.baseline);
  const measures = h('div', {});
  const drawMeasures = (dataset) => measures.replaceChildren(measuresTable(Number(dataset)));
  drawMeasures(0);
  document.getElementById('results').append(
    h('div', { class: 'controls' }, page.models.length > 1 &&
      select('Compare with', page.models.map((model, index) => [index, model.title]), page.baseline, draw)),
    place,
    glossary(['accuracy', 'difference', 'p', 'chance', 'inMean', 'outMean', 'allMean']),
    h('h3', {}, 'Beyond accuracy'),
    h('div', { class: 'controls' }, select('Data set', datasetOptions(), 0, drawMeasures)),
    measures,
    glossary(MEASURES.map(([name]) => name)),
  );
}

function resultsTable(baseline) {
  const outside = page.datasets.filter((dataset) => !dataset.inDomainOf.length).length;
  const inside = page.datasets.filter((dataset) => dataset.inDomain).length;
  const group = (text, span) => span > 0 && h('th', { scope: 'colgroup', colspan: span, class: 'group' }, text);
  const head = page.datasets.map((dataset) => h('th', { scope: 'col' }, dataset.name,
    h('small', {}, `n = ${dataset.n.map(count).join('–')} · `, term('chance', `chance ${percent(1 / dataset.labels.length)}`))));
  const means = MEANS.map(([name, letter, upper]) => h('th', { scope: 'col', class: 'mean' }, h('span', { class: 'term', tabindex: 0, 'data-tip': TERMS[name] }, letter, h('sup', {}, upper))));
  const rows = page.models.map((_, model) => h('tr', { class: model === baseline ? 'baseline' : null },
    h('th', { scope: 'row' }, modelName(model), model === baseline && h('small', {}, 'baseline')),
    page.datasets.map((_, dataset) => accuracyCell(dataset, model, baseline)),
    MEANS.map((_, index) => meanCell(index, model, baseline))));
  return h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Accuracy by model and data set' },
    h('table', { class: 'results' },
      caption(term('accuracy', 'Accuracy'), ` in % with its 95% interval; below, the `, term('difference', 'difference'), ' from ', h('b', {}, page.models[baseline].title), ' and its ', term('p', 'p-value'), '.'),
      h('thead', {},
        h('tr', {}, h('td', {}), group('In-domain', inside), group('In-domain of some models', page.datasets.length - inside - outside), group('Out of domain', outside), group('Means', 3)),
        h('tr', {}, h('th', { scope: 'col' }, 'Model'), head, means)),
      h('tbody', {}, rows)));
}

function accuracyCell(dataset, model, baseline) {
  const own = page.metrics[dataset][model];
  if (!own) return h('td', { class: 'none' }, '–');
  const change = model === baseline ? null : page.comparisons[dataset][baseline][model];
  const { inDomain, inDomainOf } = page.datasets[dataset];
  const ownDomain = !inDomain && inDomainOf.includes(model);
  return h('td', {},
    h('span', { class: 'number' }, percent(own.accuracy)),
    h('small', { class: 'interval' }, `[${percent(own.accuracy_low)}, ${percent(own.accuracy_high)}]`),
    strip(own, page.metrics[dataset][baseline], model, baseline),
    ownDomain && h('small', { class: 'domain' }, 'in-domain'),
    change && h('span', { class: `change ${direction(change)}` }, h('b', {}, signed(change.difference)), interval(change), h('i', {}, pValue(change.p))));
}

/** The interval of a difference; there is none where no picture tells the models apart. */
function interval(change) {
  if (change.fixed + change.broken === 0) return ' same pictures ';
  return ` [${signed(change.low)}, ${signed(change.high)}] `;
}

/** "up" or "down" where the difference is more than chance, else "same". */
function direction(change) {
  if (change.p >= 0.05) return 'same';
  return change.difference > 0 ? 'up' : 'down';
}

/** A scale from 0 to 100%: the interval as a bar, the accuracy as a dot, the compared model's as a tick. */
function strip(own, compared, model, baseline) {
  const low = percent(own.accuracy_low);
  return h('span', { class: 'strip', 'aria-hidden': 'true' },
    compared && model !== baseline && h('span', { class: 'tick', style: { left: `${percent(compared.accuracy)}%` } }),
    h('span', { class: 'bar', style: { left: `${low}%`, width: `${percent(own.accuracy_high) - low}%`, background: colour(model) } }),
    h('span', { class: 'point', style: { left: `${percent(own.accuracy)}%`, background: colour(model) } }));
}

function meanCell(index, model, baseline) {
  const own = page.means[model][index];
  const compared = page.means[baseline][index];
  if (own === null) return h('td', { class: 'none mean' }, '–');
  const sameSets = MEANS[index][0] === 'allMean' || page.datasets.every(({ inDomainOf }) => inDomainOf.includes(model) === inDomainOf.includes(baseline));
  return h('td', { class: 'mean' }, h('span', { class: 'number' }, percent(own.value)),
    h('small', { class: 'interval' }, `[${percent(own.low)}, ${percent(own.high)}]`),
    model !== baseline && compared && sameSets && h('span', { class: 'change' }, h('b', {}, signed(own.value - compared.value))));
}

function measuresTable(dataset) {
  const shown = MEASURES.filter(([name]) => page.metrics[dataset].some((own) => own?.[name] !== undefined));
  const best = Object.fromEntries(shown.map(([name]) => [name, Math.max(...page.metrics[dataset].map((own) => own?.[name] ?? -1))]));
  const cell = (own, name, model) => {
    const value = own?.[name];
    if (value === undefined) return h('td', { class: 'none' }, own ? 'not measured' : '–');
    return h('td', {}, h('span', { class: value === best[name] ? 'number best' : 'number' }, percent(value)),
      own[`${name}_low`] !== undefined && h('small', { class: 'interval' }, `[${percent(own[`${name}_low`])}, ${percent(own[`${name}_high`])}]`),
      h('span', { class: 'meter', 'aria-hidden': 'true' }, h('span', { style: { width: `${percent(value)}%`, background: colour(model) } })));
  };
  return h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': `Further measures on ${page.datasets[dataset].name}` },
    h('table', { class: 'results measures' },
      caption(`In % with 95% intervals on ${page.datasets[dataset].name}; the highest of a column is underlined.`),
      h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, 'Model'), shown.map(([name, title]) => h('th', { scope: 'col' }, term(name, title))))),
      h('tbody', {}, page.models.map((_, model) => h('tr', {}, h('th', { scope: 'row' }, modelName(model)),
        shown.map(([name]) => cell(page.metrics[dataset][model], name, model)))))));
}
