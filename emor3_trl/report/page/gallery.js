// The cases: filters, how the outcome changed between two models, and pages of cards that are made when they are shown.

const PAGE_SIZE = 12;
const SEGMENTS = [['both', 'both right'], ['fixed', 'fixed'], ['broken', 'broken'], ['neither', 'both wrong']];
const MATCHES = {
  right: ['both', 'fixed', 'right'], wrong: ['broken', 'neither', 'wrong'], changed: ['fixed', 'broken'],
  both: ['both'], fixed: ['fixed'], broken: ['broken'], neither: ['neither'],
};

const filters = { dataset: '', emotion: '', answer: '', a: page.baseline, b: page.trained, outcome: '', malformed: false, text: '' };
let found = [];
let pageNumber = 0;
const parts = {};

function drawGallery() {
  page.cases.forEach((one, index) => { one.number = index; });
  for (const name of ['form', 'segments', 'status', 'cards', 'pager']) parts[name] = h('div', { class: name });
  fill(parts.status, { role: 'status', tabindex: -1 }, []);
  const total = page.cases.length < page.casesTotal
    ? `${count(page.cases.length)} of ${count(page.casesTotal)} cases are on this page, drawn at random; the numbers above cover all.` : null;
  fill(document.getElementById('cases'), {}, [
    h('p', { class: 'hint' }, 'Each picture with what two models wrote about it, and what each completion earns by the rewards of its model’s training, or by the paper’s where none is known (Eq. 5 and 6; the last table says which).'),
    total && h('p', { class: 'note' }, total),
    page.picturesMissing.map((text) => h('p', { class: 'note' }, text)),
    parts.form, parts.segments, parts.status, parts.cards, parts.pager]);
  drawForm();
  update();
}

function drawForm() {
  const focused = parts.form.contains(document.activeElement) ? document.activeElement.name : null;
  const set = (name, read = String) => (value) => { filters[name] = read(value); update(); };
  const models = page.models.map((model, index) => [index, model.title]);
  const labels = page.datasets.filter((_, index) => filters.dataset === '' || String(index) === filters.dataset).flatMap((dataset) => dataset.labels);
  const emotions = [...new Set(labels)].map((label) => [label, label]);
  const { title } = page.models[filters.b];
  const outcomes = [['', 'any'], ['right', `${title} right`], ['wrong', `${title} wrong`]];
  if (filters.a !== filters.b) outcomes.push(['changed', 'changed: fixed or broken'], ['fixed', `fixed by ${title}`], ['broken', `broken by ${title}`], ['both', 'both right'], ['neither', 'both wrong']);
  const answers = [['', 'any'], ...emotions, ['none', 'none']];
  // What is no longer to choose must not go on filtering unseen
  for (const [name, offered] of [['emotion', emotions], ['answer', answers], ['outcome', outcomes]]) {
    if (!offered.some(([value]) => value === filters[name])) filters[name] = '';
  }
  const search = h('input', { type: 'search', name: 'text', value: filters.text, placeholder: 'words, id', input: later(() => set('text')(search.value)) });
  const box = h('input', { type: 'checkbox', name: 'malformed', checked: filters.malformed, change: () => set('malformed', Boolean)(box.checked) });
  const redraw = (name, read) => (value) => { filters[name] = read(value); drawForm(); update(); };
  parts.form.replaceChildren(h('form', { class: 'controls filters', 'aria-label': 'Filter the cases', submit: (event) => event.preventDefault() },
    select('From', models, filters.a, redraw('a', Number)),
    select('To', models, filters.b, redraw('b', Number)),
    select('Outcome', outcomes, filters.outcome, set('outcome')),
    select('Data set', [['', 'all'], ...datasetOptions()], filters.dataset, redraw('dataset', String)),
    select('Emotion', [['', 'any'], ...emotions], filters.emotion, set('emotion')),
    select(`Answer of ${title}`, answers, filters.answer, set('answer')),
    h('label', { class: 'field' }, h('span', {}, 'Text'), search),
    h('label', { class: 'check' }, box, ' malformed only'),
    h('button', { type: 'button', name: 'Reset', class: 'plain', click: () => showCases(null) }, 'Reset')));
  if (focused) parts.form.querySelector('form').elements[focused]?.focus();
}

/** Whether a case passes all filters but that of the outcome. */
function passes(one) {
  const own = one.models[filters.b];
  if (filters.dataset !== '' && String(one.dataset) !== filters.dataset) return false;
  if (filters.emotion && one.emotion !== filters.emotion) return false;
  if (filters.answer && (!own || (own.answer ?? 'none') !== filters.answer)) return false;
  if (filters.malformed && ![filters.a, filters.b].some((model) => one.models[model]?.wellFormed === false)) return false;
  return !filters.text || haystack(one).includes(filters.text.trim().toLowerCase());
}

/** All words of a case, in lower case; made when a search first needs them. */
function haystack(one) {
  one.words ??= [one.id, one.emotion, ...one.models.flatMap((own) => (own ? [own.answer ?? '', ...(own.steps ?? [own.text])] : []))].join('\n').toLowerCase();
  return one.words;
}

function update() {
  const { a, b } = filters;
  const candidates = page.cases.filter(passes);
  const tally = {};
  for (const one of candidates) {
    const result = outcome(one, a, b);
    tally[result] = (tally[result] ?? 0) + 1;
  }
  found = filters.outcome ? candidates.filter((one) => MATCHES[filters.outcome].includes(outcome(one, a, b))) : candidates;
  pageNumber = 0;
  drawSegments(tally);
  showPage();
}

/** The bar of what became of the cases from one model to the other; a part of it is also a filter. */
function drawSegments(tally) {
  if (filters.a === filters.b) { parts.segments.replaceChildren(); return; }
  parts.segments.replaceChildren(...SEGMENTS.map(([name, text], index) => {
    const number = tally[name] ?? 0;
    const pressed = filters.outcome === name;
    const press = () => {
      filters.outcome = pressed ? '' : name;
      drawForm();
      update();
      parts.segments.children[index].focus(); // this one is no longer there
    };
    return h('button', { type: 'button', class: `segment ${name}`, 'aria-pressed': String(pressed), style: { 'flex-grow': number }, click: press },
      h('b', {}, count(number)), ' ', text);
  }));
}

function showPage() {
  const start = pageNumber * PAGE_SIZE;
  const words = filters.text.trim().toLowerCase();
  parts.cards.replaceChildren(...found.slice(start, start + PAGE_SIZE).map((one) => card(one, filters.a, filters.b, words)));
  parts.status.textContent = found.length
    ? `${count(start + 1)}–${count(Math.min(found.length, start + PAGE_SIZE))} of ${count(found.length)} cases`
    : 'No case passes these filters.';
  const pages = Math.ceil(found.length / PAGE_SIZE);
  const go = (by) => () => {
    pageNumber += by;
    showPage();
    const [previous, , next] = parts.pager.children;
    const [same, other] = by < 0 ? [previous, next] : [next, previous];
    (same.disabled ? other : same).focus({ preventScroll: true });
    parts.status.scrollIntoView({ block: 'center' });
  };
  parts.pager.replaceChildren(...(pages < 2 ? [] : [
    h('button', { type: 'button', disabled: pageNumber === 0, click: go(-1) }, '← Previous'),
    h('span', {}, `page ${count(pageNumber + 1)} of ${count(pages)}`),
    h('button', { type: 'button', disabled: pageNumber + 1 >= pages, click: go(1) }, 'Next →')]));
}

/** Show the cases behind a cell of a confusion matrix, or all of them for no data set. */
function showCases(dataset, model = filters.b, emotion = '', answer = '') {
  Object.assign(filters, { dataset: dataset === null ? '' : String(dataset), b: model, emotion, answer, outcome: '', malformed: false, text: '' });
  drawForm();
  update();
  if (dataset !== null) parts.status.focus({ preventScroll: true });
  document.getElementById('cases').scrollIntoView();
}

/** Call once typing pauses. */
function later(call) {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(call, 120); };
}
