// A page that its server watches: it asks for what has changed, and draws training again around the reader's choices.

const ASK_AFTER = 2000; // milliseconds

function startLive() {
  if (!page.live) return;
  const status = document.getElementById('live');
  status.hidden = false;
  let version = null;
  const say = (text) => { if (status.textContent !== text) status.textContent = text; };
  const ask = async () => {
    try {
      const answer = await fetch('/data.json', { headers: version ? { 'If-None-Match': version } : {} });
      if (answer.status === 200) {
        const fresh = await answer.json();
        version = answer.headers.get('ETag');
        if (JSON.stringify(fresh.models) !== JSON.stringify(page.models)) return location.reload();
        redraw(fresh);
      }
      say(liveText());
    } catch {
      say('The server does not answer: this is what it last showed.');
    }
    return setTimeout(ask, ASK_AFTER);
  };
  say(liveText());
  ask();
}

function liveText() {
  const steps = page.training.runs.filter((run) => run.lastStep !== null).map((run) => `${page.titles[run.model]} at step ${run.lastStep}`);
  return `Live: ${steps.join(', ') || 'no step yet'}`;
}

/** Draw training again; what is focused there keeps the focus, by its name. */
function redraw(fresh) {
  const focused = document.activeElement;
  const group = focused?.closest('#training, #rollouts') ? focused : null;
  const place = group && [...document.querySelectorAll(FOCUSABLE)].indexOf(group);
  Object.assign(page, fresh);
  drawCurves();
  drawRollouts();
  if (group) document.querySelectorAll(FOCUSABLE)[place]?.focus({ preventScroll: true });
}

const FOCUSABLE = '#training :is(svg, [tabindex]), #rollouts :is(select, button, summary, [tabindex])';
