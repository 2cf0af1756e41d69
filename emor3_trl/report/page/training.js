// The groups of completions that trained a run, sorted, and each with its rewards as that run weighs them.

const GROUPS_SHOWN = 4;
const SORTS = {
  disagreement: ['disagreement of rewards', (a, b) => (b.disagreement ?? -1) - (a.disagreement ?? -1)],
  spread: ['spread of rewards', (a, b) => (b.spread ?? -1) - (a.spread ?? -1)],
  lowest: ['lowest mean reward', (a, b) => (a.reward ?? Infinity) - (b.reward ?? Infinity)],
  last: ['last step first', (a, b) => b.step - a.step],
  first: ['first step first', (a, b) => a.step - b.step],
};
const rollouts = { run: '0', sort: 'disagreement', emotion: '', start: 0, open: new Set() };

function drawRollouts() {
  const section = clear('rollouts');
  const { runs, groups } = page.training;
  if (!groups.length) {
    section.append(h('p', { class: 'note' }, 'No completions of training were kept in these folders: log_completions: true in a run’s configuration keeps them.'));
    return;
  }
  page.training.groups.forEach((group, index) => { group.number = index; });
  const shown = runs.map((_, index) => index).filter((index) => runs[index].shown);
  if (!shown.includes(Number(rollouts.run))) rollouts.run = String(shown[0]);
  const list = h('div', { class: 'groups' });
  const form = h('div', { class: 'controls', role: 'group', 'aria-label': 'Choose and sort the groups' });
  const emotions = [...new Set(groups.map((group) => group.emotion).filter(Boolean))].sort();
  const set = (name) => (value) => { rollouts[name] = value; rollouts.start = 0; drawGroups(list); };
  fill(form, {}, [
    select('Run', shown.map((index) => [index, runTitle(index)]), rollouts.run, set('run')),
    select('Sort by', Object.entries(SORTS).map(([name, [title]]) => [name, title]), rollouts.sort, set('sort')),
    emotions.length > 0 && select('Emotion', [['', 'any'], ...emotions.map((emotion) => [emotion, emotion])], rollouts.emotion, set('emotion'))]);
  fill(section, {}, [
    h('p', { class: 'hint' }, 'A group is all that the policy wrote about one picture in one step. Its rewards are those that trained it, weighted as in the configuration of its own run. The advantage is what pushed each completion up or down.'),
    h('ul', { class: 'weighings' }, shown.map((index) => h('li', {}, modelName(runs[index].model), ' ', runs[index].weighing, h('small', {}, ` ${keptText(runs[index])}`)))),
    runs.filter((run) => run.unread.length).map((run) => h('p', { class: 'note' }, `${page.titles[run.model]}: ${run.unread.join(', ')} cannot be read (yet).`)),
    h('h3', {}, 'Groups'),
    form, list,
    glossary(['disagreement_of_rewards', 'spread', 'advantage']),
    h('h3', { id: 'story-title', tabindex: -1 }, 'One picture through the steps'),
    drawStory()]);
  drawGroups(list);
}

function runTitle(index) {
  return page.titles[page.training.runs[index].model];
}

function keptText(run) {
  const all = `${count(run.groups)} groups of ${count(run.completions)} completions in steps ${run.steps[0]}–${run.steps[1]}`;
  return run.shown < run.groups ? `${count(run.shown)} of ${all} are on this page: those that disagree most, and whole stories of pictures` : all;
}

function drawGroups(list) {
  const matching = page.training.groups.filter((group) => String(group.run) === rollouts.run && (!rollouts.emotion || group.emotion === rollouts.emotion));
  const sorted = [...matching].sort(SORTS[rollouts.sort][1]);
  rollouts.start = Math.min(rollouts.start, Math.max(0, Math.floor((sorted.length - 1) / GROUPS_SHOWN) * GROUPS_SHOWN));
  const { start } = rollouts;
  const go = (by) => () => { rollouts.start += by * GROUPS_SHOWN; drawGroups(list); list.querySelector('.status').focus(); };
  list.replaceChildren(
    h('p', { class: 'status', role: 'status', tabindex: -1 }, sorted.length ? `${count(start + 1)}–${count(Math.min(sorted.length, start + GROUPS_SHOWN))} of ${count(sorted.length)} groups` : 'No group passes these filters.'),
    ...sorted.slice(start, start + GROUPS_SHOWN).map((group) => groupCard(group)),
    h('div', { class: 'pager' }, sorted.length > GROUPS_SHOWN && [
      h('button', { type: 'button', disabled: start === 0, click: go(-1) }, '← Previous groups'),
      h('button', { type: 'button', disabled: start + GROUPS_SHOWN >= sorted.length, click: go(1) }, 'More groups →')]));
}

function groupCard(group) {
  const image = page.training.images[group.image];
  const titleId = `group-${group.number}`;
  return h('article', { class: 'card', 'aria-labelledby': titleId },
    trainingPicture(image),
    h('header', {},
      h('h3', { id: titleId }, `Step ${group.step}`, group.emotion && `: ${group.emotion}`),
      image && h('span', { class: 'where', dir: 'auto' }, image.id),
      image && h('button', { type: 'button', class: 'plain', click: () => followImage(group.image, group.run) }, 'Follow this picture')),
    groupBody(group));
}

function trainingPicture(image) {
  return h('div', { class: 'picture' }, image?.picture === null || image?.picture === undefined
    ? h('span', { class: 'missing' }, image ? 'no picture' : 'picture not logged')
    : h('img', { src: page.pictures[image.picture], alt: [`Picture ${image.id}`, image.emotion].filter(Boolean).join(', ') }));
}

/** What a group earned, and its completions from the highest advantage to the lowest. */
function groupBody(group) {
  const { rewards: terms, model } = page.training.runs[group.run];
  const fact = (name, title, value) => h('span', {}, term(name, title), ' ', h('b', {}, value === null ? '–' : value.toFixed(3)));
  const rows = [...group.rows].sort((a, b) => (b.advantage ?? 0) - (a.advantage ?? 0));
  const limit = Math.max(...group.rows.map((row) => Math.abs(row.advantage ?? 0)), 1e-9);
  return h('div', { class: 'group', style: { '--own': colour(model) } },
    h('p', { class: 'reflection' }, fact('Overall reward', 'Mean reward', group.reward), fact('spread', 'Spread', group.spread), fact('disagreement_of_rewards', 'Disagreement', group.disagreement)),
    h('ol', { class: 'members' }, rows.map((row, index) => member(row, terms, limit, `${group.run} ${group.step} ${group.image} ${index}`))));
}

function member(row, terms, limit, key) {
  const size = Math.abs(row.advantage ?? 0).toFixed(2);
  const signedAdvantage = row.advantage === null ? '–' : Number(size) === 0 ? size : (row.advantage < 0 ? MINUS : '+') + size;
  const share = row.advantage === null ? 0 : (50 * row.advantage) / limit;
  const details = h('details', { open: rollouts.open.has(key), toggle: () => (details.open ? rollouts.open.add(key) : rollouts.open.delete(key)) },
    h('summary', {},
      h('span', { class: 'push', 'aria-hidden': 'true' }, h('span', { class: share < 0 ? 'down' : 'up', style: { left: `${Math.min(50, 50 + share)}%`, width: `${Math.abs(share)}%` } })),
      h('span', { class: 'advantage' }, h('span', { class: 'unseen' }, 'advantage '), signedAdvantage),
      h('span', { class: row.correct === null ? 'verdict' : row.correct ? 'verdict right' : 'verdict wrong', dir: 'auto' },
        row.correct !== null && h('span', { role: 'img', 'aria-label': row.correct ? 'right:' : 'wrong:' }, row.correct ? '✓' : '✗'), ' ', row.answer ?? 'no answer'),
      !row.wellFormed && h('span', { class: 'malformed' }, 'not three steps'),
      h('span', { class: 'terms' }, terms.map((part, index) => h('span', { class: row.rewards[index] > 0 ? 'earned' : null }, `${part.name} ${row.rewards[index] ?? '–'}`))),
      row.overall !== null && h('span', { class: 'overall' }, 'reward ', h('b', {}, row.overall.toFixed(2)))),
    row.steps
      ? h('ol', { class: 'steps' }, row.steps.map((step, index) => h('li', {},
        h('span', { class: 'step' }, h('span', { 'aria-hidden': 'true' }, STEPS[index][0]), STEPS[index][1]), h('p', { dir: 'auto' }, step))))
      : h('pre', { dir: 'auto', tabindex: 0, role: 'group', 'aria-label': 'The completion as it was written' }, row.text),
    (row.consistency || row.coherence) && h('p', { class: 'reflection' },
      h('span', {}, 'Step 1 describes the picture ', h('b', {}, row.consistency ?? '–')),
      h('span', {}, 'Steps 1 and 2 read as ', h('b', {}, row.coherence ?? '–'))),
    h('dl', { class: 'rewards' }, terms.map((part, index) => h('div', { class: row.rewards[index] ? 'earned' : null },
      h('dt', {}, part.weight === null ? part.name : `${part.weight} × ${part.name}`), h('dd', {}, row.rewards[index] === null ? '–' : String(row.rewards[index]))))));
  return h('li', {}, details);
}
