// The page from top to bottom.

function drawAbout() {
  const titles = { model: 'weights', max_tokens: 'longest completion' };
  const shown = { started: (value) => value.slice(0, 16).replace('T', ' '), commit: (value) => value.slice(0, 10) };
  const keys = [...new Set(page.models.flatMap((model) => Object.keys(model.about)))];
  document.getElementById('about').append(
    h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'How each model was evaluated' }, h('table', { class: 'about' },
      caption('How each model was evaluated: one greedy completion per picture.'),
      h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, 'Model'), keys.map((key) => h('th', { scope: 'col' }, titles[key] ?? key.replaceAll('_', ' '))))),
      h('tbody', {}, page.models.map((model, index) => h('tr', {}, h('th', { scope: 'row' }, modelName(index)), keys.map((key) => h('td', {}, key in model.about ? (shown[key] ?? String)(model.about[key]) : '–'))))))),
    h('p', { class: 'hint' }, 'Intervals and tests cover the choice of pictures, not the seed of training. EMO-R3: arXiv 2602.23802.'));
}

/** Mark the section that is being read in the navigation. */
function followSections() {
  const links = new Map([...document.querySelectorAll('nav a')].map((link) => [link.hash.slice(1), link]));
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((link) => link.removeAttribute('aria-current'));
      links.get(entry.target.id).setAttribute('aria-current', 'true');
    }
  }, { rootMargin: '-20% 0px -75% 0px' });
  document.querySelectorAll('main section[id]').forEach((section) => observer.observe(section));
}

const EVALUATED = ['results', 'calibration', 'confusion', 'emotions', 'cases', 'about'];

if (page.models.length) {
  drawHeadline();
  drawResults();
  drawCalibration();
  drawConfusion();
  drawEmotions();
  drawGallery();
  drawAbout();
} else {
  for (const id of EVALUATED) {
    document.getElementById(id).remove();
    document.querySelector(`nav a[href="#${id}"]`).parentElement.remove();
  }
  document.getElementById('headline').append('Nothing is evaluated here yet: this page is about training.');
}
drawCurves();
drawRollouts();
startTips();
followSections();
startLive();
document.documentElement.dataset.ready = String(Math.round(performance.now()));
