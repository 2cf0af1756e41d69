// Training curves as small multiples: one cross-hair through all of them shows the values of a step.

const CURVE = { height: 190, right: 10, top: 8, bottom: 36, width: 250, wide: 554 };
const DASHES = ['', '7 4', '2 3', '9 3 2 3'];

function drawCurves() {
  const section = clear('training');
  if (!page.curves.length) {
    section.append(h('p', { class: 'note' }, page.live ? 'No step has been logged yet. The page shows the first one by itself.' : 'No log of training was found in these folders, so there are no curves.'));
    return;
  }
  const shown = [...new Set(page.curves.flatMap((panel) => panel.lines.map((line) => line.model)))];
  const grid = h('div', { class: 'curves' });
  const narrow = matchMedia('(max-width: 720px)');
  const draw = () => {
    const panels = page.curves.map((panel) => curvePanel(panel, shown, panel.title === 'Overall reward' && !narrow.matches ? CURVE.wide : CURVE.width));
    const move = (step) => panels.forEach((panel) => panel.point(step));
    panels.forEach((panel) => panel.listen(move));
    grid.replaceChildren(...panels.map((panel) => panel.element));
  };
  narrow.addEventListener('change', draw);
  draw();
  section.append(
    h('p', { class: 'hint' }, 'Means over the completions of a step. Point at a curve, or focus it and use the arrow keys, to read its values.'),
    h('ul', { class: 'legend' }, shown.map((model) => h('li', {}, lineSwatch(model, shown), page.titles[model]))),
    grid,
    glossary(page.curves.map((panel) => panel.title)),
  );
}

function lineSwatch(model, shown) {
  return svg('svg', { width: 28, height: 10, 'aria-hidden': 'true' }, svg('line', { x1: 0, y1: 5, x2: 28, y2: 5, class: 'curve', stroke: colour(model), 'stroke-dasharray': dashes(shown, model) }));
}

/** The first line is solid; the others differ in more than their colour. */
function dashes(shown, model) {
  return DASHES[shown.indexOf(model) % DASHES.length];
}

/** Round numbers at which an axis is labelled, at least so far apart. */
function ticks(low, high, wanted, least = 0) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(least, [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999));
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(6)));
}

function curvePanel(panel, shown, width) {
  const { height, right, top, bottom } = CURVE;
  const steps = panel.lines.flatMap((line) => line.steps);
  const values = panel.lines.flatMap((line) => line.values);
  const span = extent(steps);
  const range = valueRange(panel, values);
  const marks = ticks(...range, 5);
  const left = 26 + 7 * Math.max(...marks.map((value) => String(value).length));
  const x = (step) => left + ((step - span[0]) / (span[1] - span[0] || 1)) * (width - left - right);
  const y = (value) => height - bottom - ((value - range[0]) / (range[1] - range[0])) * (height - top - bottom);
  const cross = svg('line', { class: 'cross', y1: top, y2: height - bottom, visibility: 'hidden' });
  const dots = panel.lines.map((line) => svg('circle', { r: 4, fill: colour(line.model), class: 'end', visibility: 'hidden' }));
  const drawing = svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', tabindex: 0, 'aria-label': curveSummary(panel) },
    marks.map((value) => [
      svg('line', { class: 'grid', x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      svg('text', { x: left - 6, y: y(value) + 4, 'text-anchor': 'end' }, String(value))]),
    ticks(...span, width === CURVE.wide ? 10 : 5, 1).map((step) => svg('text', { x: x(step), y: height - bottom + 16, 'text-anchor': 'middle' }, String(step))),
    svg('text', { class: 'axis', x: (left + width - right) / 2, y: height - 5, 'text-anchor': 'middle' }, 'step'),
    svg('text', { class: 'axis', x: 11, y: (height - bottom + top) / 2, 'text-anchor': 'middle', transform: `rotate(-90 11 ${(height - bottom + top) / 2})` }, panel.unit),
    panel.lines.map((line) => svg('polyline', { class: 'curve', stroke: colour(line.model), 'stroke-dasharray': dashes(shown, line.model), points: line.steps.map((step, index) => `${x(step).toFixed(1)},${y(line.values[index]).toFixed(1)}`).join(' ') })),
    cross, dots);
  const readout = h('p', { class: 'readout' });
  const all = [...new Set(steps)].sort((a, b) => a - b);
  let current = null;

  /** Show the values at a step, or the last ones when it is null. */
  function point(step) {
    current = step;
    cross.setAttribute('visibility', step === null ? 'hidden' : 'visible');
    if (step !== null) fill(cross, { x1: x(step), x2: x(step) }, []);
    const entries = panel.lines.map((line, index) => {
      const at = step === null ? line.steps.length - 1 : line.steps.indexOf(step);
      dots[index].setAttribute('visibility', step === null || at < 0 ? 'hidden' : 'visible');
      if (at < 0) return null;
      fill(dots[index], { cx: x(line.steps[at]), cy: y(line.values[at]) }, []);
      return h('span', {}, h('span', { class: 'dot', style: { background: colour(line.model) } }), readable(line.values[at]));
    });
    readout.replaceChildren(h('span', { class: 'when' }, step === null ? 'last' : `step ${step}`), ...entries.filter(Boolean));
  }

  function nearest(event) {
    const box = drawing.getBoundingClientRect();
    const step = span[0] + (((event.clientX - box.left) / box.width) * width - left) / (width - left - right) * (span[1] - span[0]);
    return all.reduce((a, b) => (Math.abs(b - step) < Math.abs(a - step) ? b : a));
  }

  function listen(move) {
    drawing.addEventListener('pointermove', (event) => move(nearest(event)));
    drawing.addEventListener('pointerleave', () => move(null));
    // Only the curve that is being read is read out
    drawing.addEventListener('focus', () => readout.setAttribute('role', 'status'));
    drawing.addEventListener('blur', () => { readout.removeAttribute('role'); move(null); });
    drawing.addEventListener('keydown', (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      const at = current === null ? (by > 0 ? -1 : all.length) : all.indexOf(current);
      move(all[Math.max(0, Math.min(all.length - 1, at + by))]);
    });
  }

  point(null);
  const element = h('figure', { class: width === CURVE.wide ? 'wide' : null }, h('figcaption', {}, h('h3', {}, term(panel.title, panel.title)), readout), drawing);
  return { element, point, listen };
}

function extent(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

/** From 0, but for rewards: these share one scale, from the tenth below the lowest of any panel to 1 or what is above. */
function valueRange(panel, values) {
  if (panel.unit !== 'mean reward') return [Math.min(0, extent(values)[0]), extent(values)[1] * 1.08 || 1];
  const all = page.curves.filter((other) => other.unit === panel.unit).flatMap((other) => other.lines.flatMap((line) => line.values));
  const [low, high] = extent(all);
  return [Math.min(0.9, Math.floor(low * 10) / 10), Math.max(1, high)];
}

function readable(value) {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(3);
}

function curveSummary(panel) {
  const lines = panel.lines.map((line) => `${page.titles[line.model]} from ${readable(line.values[0])} to ${readable(line.values.at(-1))}`);
  return `${panel.title} over the steps: ${lines.join('; ')}`;
}
