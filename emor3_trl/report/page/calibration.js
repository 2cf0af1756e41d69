// How sure the models are of their answers, and how often they are right then: two diagrams per data set.

const SQUARE = { width: 420, height: 330, left: 46, right: 24, top: 14, bottom: 42 };
const SURENESS = ['n_with_probabilities', 'ece', 'brier', 'auroc', 'selective_accuracy'];

function drawCalibration() {
  const section = clear('calibration');
  if (!page.calibration.some((models) => models.some(Boolean))) {
    section.append(h('p', { class: 'note' }, 'No evaluation here measured label probabilities (--label_probabilities of recipes/evaluate.py), so nothing tells how sure the models are.'));
    return;
  }
  const place = h('div', {});
  const draw = (dataset) => place.replaceChildren(calibrationTable(Number(dataset)), calibrationPlots(Number(dataset)));
  draw(0);
  section.append(
    h('p', { class: 'hint' }, 'Confidence is the probability of the label that a completion answers, among the labels of the data set, at the place where it wrote the answer. Completions without label probabilities, such as those that name no label, are left out and counted.'),
    h('div', { class: 'controls' }, select('Data set', datasetOptions(), 0, draw)),
    place, glossary(SURENESS.slice(1)));
}

function calibrationTable(dataset) {
  const number = (own, name) => (own?.[name] === undefined ? '–' : [h('span', { class: 'number' }, own[name].toFixed(3)),
    h('small', { class: 'interval' }, `[${own[`${name}_low`].toFixed(3)}, ${own[`${name}_high`].toFixed(3)}]`)]);
  return h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': `Calibration on ${page.datasets[dataset].name}` },
    h('table', { class: 'results' },
      caption('With 95% intervals from a bootstrap over pictures. Lower is better for ECE and Brier, higher for the others.'),
      h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, 'Model'), h('th', { scope: 'col' }, 'With probabilities'),
        [['ece', 'ECE'], ['brier', 'Brier'], ['auroc', 'AUROC of being right'], ['selective_accuracy', 'Selective accuracy']].map(([name, title]) => h('th', { scope: 'col' }, term(name, title))))),
      h('tbody', {}, page.models.map((_, model) => {
        const own = page.metrics[dataset][model];
        return h('tr', {}, h('th', { scope: 'row' }, modelName(model)),
          h('td', {}, own ? `${count(own.n_with_probabilities ?? 0)} of ${count(own.n)}` : '–'),
          SURENESS.slice(1).map((name) => h('td', {}, number(own, name))));
      }))));
}

function calibrationPlots(dataset) {
  const models = page.models.map((_, model) => model).filter((model) => page.calibration[dataset][model]);
  const own = (model) => page.calibration[dataset][model];
  if (!models.length) return h('p', { class: 'note' }, 'No completion about this data set has label probabilities.');
  return h('div', { class: 'squares' },
    h('figure', {}, h('figcaption', {}, h('h3', {}, 'Reliability'), h('small', {}, 'a dot: a bin of confidence, larger with more pictures; on the dashed line, it is right as often as it is sure')),
      square('confidence', 'accuracy', `Reliability: ${models.map((model) => `${page.titles[model]} ${own(model).bins.map((bin) => `${percent(bin.accuracy, 0)}% right at ${percent(bin.confidence, 0)}% sure (${bin.n})`).join(', ')}`).join('; ')}`,
        (x, y) => [svg('line', { class: 'diagonal', x1: x(0), y1: y(0), x2: x(1), y2: y(1) }),
          models.map((model) => own(model).bins.map((bin) => svg('line', { class: 'whisker', stroke: colour(model), x1: x(bin.confidence), x2: x(bin.confidence), y1: y(bin.low), y2: y(bin.high) }))),
          models.map((model) => own(model).bins.map((bin) => svg('circle', { fill: colour(model), class: 'end', cx: x(bin.confidence), cy: y(bin.accuracy), r: 3 + 7 * Math.sqrt(bin.n / own(model).n) })))])),
    h('figure', {}, h('figcaption', {}, h('h3', {}, 'Selective accuracy'), h('small', {}, 'if only the most confident answers are given; the band is the first and the last model’s 95% interval')),
      square('coverage', 'accuracy', `Selective accuracy: ${models.map((model) => `${page.titles[model]} ${percent(own(model).curve[0].accuracy, 0)}% of the most confident, ${percent(own(model).curve.at(-1).accuracy, 0)}% of all`).join('; ')}`,
        (x, y) => [[...new Set([models[0], models.at(-1)])].map((model) => svg('polygon', { class: 'band', fill: colour(model), points: [...own(model).curve.map((p) => [p.coverage, p.high]), ...own(model).curve.map((p) => [p.coverage, p.low]).reverse()].map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(' ') })),
          models.map((model) => svg('polyline', { class: 'curve', stroke: colour(model), 'stroke-dasharray': dashes(models, model), points: own(model).curve.map((p) => `${x(p.coverage).toFixed(1)},${y(p.accuracy).toFixed(1)}`).join(' ') }))])),
    h('ul', { class: 'legend' }, models.map((model) => h('li', {}, lineSwatch(model, models), page.titles[model]))));
}

/** A diagram from 0 to 1 on both axes; `draw` gets the scales. */
function square(across, up, label, draw) {
  const { width, height, left, right, top, bottom } = SQUARE;
  const x = (value) => left + value * (width - left - right);
  const y = (value) => height - bottom - value * (height - top - bottom);
  const marks = [0, 0.25, 0.5, 0.75, 1];
  return svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label },
    marks.map((mark) => [
      svg('line', { class: 'grid', x1: x(0), x2: x(1), y1: y(mark), y2: y(mark) }),
      svg('text', { x: left - 6, y: y(mark) + 4, 'text-anchor': 'end' }, `${100 * mark}%`),
      svg('text', { x: x(mark), y: height - bottom + 17, 'text-anchor': 'middle' }, `${100 * mark}%`)]),
    svg('text', { class: 'axis', x: x(0.5), y: height - 5, 'text-anchor': 'middle' }, across),
    svg('text', { class: 'axis', x: 11, y: y(0.5), 'text-anchor': 'middle', transform: `rotate(-90 11 ${y(0.5)})` }, up),
    draw(x, y));
}
