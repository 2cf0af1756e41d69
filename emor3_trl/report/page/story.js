// One picture through the steps of a run, or of two runs side by side.

const story = { image: null, left: null, right: null };

/** The pictures that can be followed: those that most runs saw, and saw most often, first. */
function listStories() {
  const visits = new Map();
  for (const group of page.training.groups) {
    if (group.image === null) continue;
    const own = visits.get(group.image) ?? visits.set(group.image, { image: group.image, runs: new Set(), groups: 0 }).get(group.image);
    own.runs.add(group.run);
    own.groups += 1;
  }
  return [...visits.values()].sort((a, b) => b.runs.size - a.runs.size || b.groups - a.groups || a.image - b.image);
}

function drawStory() {
  const stories = listStories();
  const place = h('div', { class: 'story' });
  if (!stories.length) {
    fill(place, {}, [h('p', { class: 'note' }, 'The completions in these folders do not name their pictures, so none can be followed. Runs of this version log the name.')]);
    return place;
  }
  const shown = page.training.runs.map((_, index) => index).filter((index) => page.training.runs[index].shown);
  if (!stories.some((own) => own.image === story.image)) story.image = stories[0].image;
  if (!shown.includes(story.left)) [story.left] = shown;
  if (story.right !== null && !shown.includes(story.right)) story.right = null;
  if (story.right === null && story.chosen !== true && shown.length > 1) [, story.right] = shown;
  const draw = () => {
    const focused = place.contains(document.activeElement) ? document.activeElement.name : null;
    place.replaceChildren(storyForm(stories, shown, draw), storyColumns());
    if (focused) place.querySelector(`[name="${focused}"]`)?.focus();
  };
  story.draw = draw;
  draw();
  return place;
}

function storyForm(stories, shown, draw) {
  const at = stories.findIndex((own) => own.image === story.image);
  const go = (by) => () => { story.image = stories[at + by].image; draw(); };
  const runs = shown.map((index) => [index, runTitle(index)]);
  const text = ({ image, runs: seen, groups }) => {
    const { id, emotion } = page.training.images[image];
    return `${emotion ?? 'picture'} · ${id} · ${groups} ${groups === 1 ? 'visit' : 'visits'}${page.training.runs.length > 1 ? `, ${seen.size} ${seen.size === 1 ? 'run' : 'runs'}` : ''}`;
  };
  return h('div', { class: 'controls', role: 'group', 'aria-label': 'Choose a picture and two runs' },
    select('Picture', stories.map((own) => [own.image, text(own)]), story.image, (value) => { story.image = Number(value); draw(); }),
    h('button', { type: 'button', class: 'plain', name: 'before', disabled: at === 0, click: go(-1) }, '← Previous picture'),
    h('button', { type: 'button', class: 'plain', name: 'after', disabled: at === stories.length - 1, click: go(1) }, 'Next picture →'),
    select('Left', runs, story.left, (value) => { story.left = Number(value); draw(); }),
    runs.length > 1 && select('Right', [['', 'no other run'], ...runs], story.right ?? '', (value) => { story.right = value === '' ? null : Number(value); story.chosen = true; draw(); }));
}

function storyColumns() {
  const image = page.training.images[story.image];
  const runs = story.right === null || story.right === story.left ? [story.left] : [story.left, story.right];
  return h('article', { class: 'card', 'aria-label': `Picture ${image.id} through the steps` },
    trainingPicture(image),
    h('header', {}, h('h4', {}, image.emotion ?? 'picture'), h('span', { class: 'where', dir: 'auto' }, image.id)),
    h('div', { class: runs.length > 1 ? 'pair' : 'pair alone' }, runs.map((run) => {
      const groups = page.training.groups.filter((group) => group.run === run && group.image === story.image);
      return h('section', { class: 'visits', 'aria-label': `${runTitle(run)}` },
        h('h4', {}, modelName(page.training.runs[run].model)),
        groups.length ? groups.map((group) => h('div', { class: 'visit' }, h('h5', {}, `Step ${group.step}`), groupBody(group)))
          : h('p', { class: 'hint' }, 'has not seen this picture, as far as this page tells'));
    })));
}

/** Open the story of a picture, from a group of a run. */
function followImage(image, run) {
  story.image = image;
  if (story.right !== run) story.left = run;
  story.draw();
  const title = document.getElementById('story-title');
  title.focus({ preventScroll: true });
  title.scrollIntoView();
}
