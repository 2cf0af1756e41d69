// Which emotion is taken for which, and how well each one is recognised.

function drawConfusion() {
  const matrices = h('div', { class: 'matrices' });
  const draw = (dataset) => {
    matrices.style.setProperty('--columns', page.datasets[dataset].labels.length + 1);
    matrices.replaceChildren(...page.models.map((_, model) => matrix(Number(dataset), model)).filter(Boolean));
  };
  draw(0);
  document.getElementById('confusion').append(
    h('p', { class: 'hint' }, 'Rows: the emotion of the picture. Columns: the answer; “none” is an answer that names no emotion. Numbers: percent of the row. A cell opens its cases.'),
    h('div', { class: 'controls' }, select('Data set', datasetOptions(), 0, draw)), matrices);
}

function matrix(dataset, model) {
  const confusion = page.confusion[dataset][model];
  if (!confusion) return null;
  const labels = page.datasets[dataset].labels;
  const answers = [...labels, 'none'];
  const rows = labels.map((emotion, row) => {
    const sum = confusion.counts[row].reduce((a, b) => a + b, 0);
    return h('tr', {}, h('th', { scope: 'row' }, emotion), answers.map((answer, column) => {
      const number = confusion.counts[row][column];
      const share = sum ? number / sum : 0;
      const text = `${emotion} answered as ${answer}: ${number} of ${sum} (${percent(share)}%)`;
      return h('td', { class: row === column ? 'hit' : null }, number
        ? h('button', { type: 'button', class: share >= 0.8 ? 'strong' : null, style: { '--share': percent(share) + '%' }, 'data-tip': text, 'aria-label': text, click: () => showCases(dataset, model, emotion, answer) }, percent(share, 0))
        : h('span', { 'aria-label': text }, '·'));
    }));
  });
  return h('figure', {},
    h('figcaption', {}, modelName(model), h('small', {}, `accuracy ${percent(page.metrics[dataset][model].accuracy)}%`)),
    h('div', { class: 'scroll' }, h('table', { class: 'matrix' },
      h('thead', {}, h('tr', {}, h('td', {}), answers.map((answer) => h('th', { scope: 'col' }, h('span', {}, answer))))),
      h('tbody', {}, rows))));
}

function drawEmotions() {
  const bars = h('div', { class: 'bars' });
  const draw = (dataset) => bars.replaceChildren(...['recall', 'f1'].map((measure) => barPanel(Number(dataset), measure)));
  draw(0);
  document.getElementById('emotions').append(
    h('div', { class: 'controls' }, select('Data set', datasetOptions(), 0, draw)),
    h('ul', { class: 'legend' }, page.models.map((_, model) => h('li', {}, modelName(model)))),
    bars, glossary(['recall', 'f1']));
}

function barPanel(dataset, measure) {
  const groups = page.datasets[dataset].labels.map((emotion, row) => {
    const values = page.confusion[dataset].map((own) => own?.[measure][row] ?? null);
    const shown = Math.max(...page.confusion[dataset].map((own) => own?.counts[row].reduce((a, b) => a + b, 0) ?? 0));
    const text = values.map((own, model) => `${page.models[model].title} ${own === null ? 'nothing to count' : `${percent(own[0])}% [${percent(own[1])}, ${percent(own[2])}]`}`).join(', ');
    return h('div', { class: 'emotion', role: 'img', 'aria-label': `${emotion}: ${text}`, 'data-tip': `${emotion}: ${text}`, tabindex: 0 },
      h('span', { class: 'name' }, emotion, h('small', {}, `n = ${count(shown)}`)),
      h('span', { class: 'stack' }, values.map((own, model) => page.confusion[dataset][model] && h('span', { class: 'row' },
        h('span', { class: 'track' }, own !== null && [
          h('span', { class: 'bar', style: { width: `${percent(own[0])}%`, background: colour(model) } }),
          h('span', { class: 'range', style: { left: `${percent(own[1])}%`, width: `${percent(own[2] - own[1])}%` } })]),
        h('span', { class: 'value' }, own === null ? '–' : percent(own[0], 0))))));
  });
  return h('figure', {}, h('figcaption', {}, h('h3', {}, term(measure, measure === 'f1' ? 'F1' : 'Recall')), h('small', {}, 'in %, with 95% intervals')), groups,
    h('div', { class: 'scale', 'aria-hidden': 'true' }, [0, 25, 50, 75, 100].map((value) => h('span', {}, String(value)))));
}
