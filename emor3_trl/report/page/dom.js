'use strict';
// Elements, numbers as text, and the one tooltip. What the page shows reaches the document as text nodes only.

const page = JSON.parse(document.getElementById('data').textContent);

/** Make an HTML element. Attributes: functions are listeners, `style` sets CSS properties, null and false are left out. */
function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Make an SVG element, likewise. */
function svg(tag, attributes, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (name === 'style') for (const [key, own] of Object.entries(value)) element.style.setProperty(key, own);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A section with its heading alone, to draw in. */
function clear(id) {
  const section = document.getElementById(id);
  while (section.children.length > 1) section.lastChild.remove();
  return section;
}

const MINUS = '−';

/** 0.4133 → "41.3" */
function percent(share, digits = 1) {
  return (100 * share).toFixed(digits);
}

/** 0.05 → "+5.0", with a true minus sign */
function signed(share, digits = 1) {
  const text = percent(Math.abs(share), digits);
  return Number(text) === 0 ? text : (share < 0 ? MINUS : '+') + text;
}

function pValue(p) {
  return p < 0.001 ? 'p\u00a0<\u00a00.001' : `p\u00a0=\u00a0${p.toFixed(p < 0.1 ? 3 : 2)}`;
}

function count(number) {
  return number.toLocaleString('en-US');
}

/** The colour of a model, the same everywhere on the page. */
function colour(model) {
  return `var(--m${model % 8})`;
}

/** A model's name beside its colour. */
function modelName(model) {
  return h('span', { class: 'model' }, h('span', { class: 'dot', style: { background: colour(model) } }), page.titles[model]);
}

/** A labelled <select>; options are [value, text]. */
function select(label, options, value, change) {
  const control = h('select', { name: label, change: () => change(control.value) },
    options.map(([own, text]) => h('option', { value: own, selected: String(own) === String(value) }, text)));
  return h('label', { class: 'field' }, h('span', {}, label), control);
}

/** A table's caption, which stays in sight when the table scrolls sideways. */
function caption(...children) {
  return h('caption', {}, h('span', {}, children));
}

function datasetOptions() {
  return page.datasets.map((dataset, index) => [index, datasetTitle(dataset)]);
}

function datasetTitle(dataset) {
  return dataset.inDomain ? `${dataset.name} (in-domain)` : dataset.name;
}

// The tooltip: whatever carries data-tip shows it on hover and on focus; Escape hides it.

const tip = document.getElementById('tip');
let tipped = null;

function showTip(target) {
  tipped?.removeAttribute('aria-describedby');
  tipped = target;
  tip.hidden = !target;
  if (!target) return;
  if (target.getAttribute('aria-label') !== target.dataset.tip) target.setAttribute('aria-describedby', 'tip');
  tip.textContent = target.dataset.tip;
  const box = target.getBoundingClientRect();
  const { width, height } = tip.getBoundingClientRect();
  const right = document.documentElement.clientWidth - width - 8;
  tip.style.left = `${Math.max(8, Math.min(box.left + box.width / 2 - width / 2, right))}px`;
  tip.style.top = `${box.top - height - 8 > 0 ? box.top - height - 8 : box.bottom + 8}px`;
}

function startTips() {
  const show = (event) => showTip(event.target.closest?.('[data-tip]') ?? null);
  document.addEventListener('pointerover', show);
  document.addEventListener('focusin', show);
  document.addEventListener('focusout', () => showTip(null));
  document.addEventListener('scroll', () => showTip(tipped?.isConnected ? tipped : null), { passive: true, capture: true });
  document.addEventListener('keydown', (event) => event.key === 'Escape' && showTip(null));
}
