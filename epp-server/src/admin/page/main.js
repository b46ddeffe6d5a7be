// Asks the server for everything once a second and shows it.

import { createCharts } from './charts.js';
import { Decisions } from './decisions.js';
import { showEndpoints } from './endpoints.js';
import { explanationTables } from './explanation.js';
import { count, microseconds, percent, short } from './format.js';

const PERIOD = 1000;
const PATIENCE = 5000;
// Seconds that the summary tells of.
const RECENT = 10;

// The pool that is shown; empty for the first one.
let pool = '';

const byId = (id) => document.getElementById(id);

// Where the API of the shown pool has a route of the first one.
const ofPool = (path) => (pool ? path.replace(/^api\//, `api/pools/${pool}/`) : path);

async function ask(path, options = {}) {
  const response = await fetch(ofPool(path), { signal: AbortSignal.timeout(PATIENCE), ...options });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.message);
  return answer;
}

const charts = createCharts();
const decisions = new Decisions(ask);
let goneSince = null;

async function update() {
  try {
    const [endpoints, history] = await Promise.all([ask('api/endpoints'), ask('api/history')]);
    if (goneSince !== null) decisions.startAgain();
    await decisions.update();
    showEndpoints(endpoints);
    charts.update(history);
    showSummary(endpoints, history);
    showConnection(true);
  } catch {
    showConnection(false);
  }
}

function showConnection(live) {
  goneSince = live ? null : (goneSince ?? new Date());
  document.body.classList.toggle('is-gone', !live);
  byId('connection').dataset.state = live ? 'live' : 'gone';
  const text = live ? 'Live' : 'No connection';
  if (byId('connection-text').textContent !== text) byId('connection-text').textContent = text;
  byId('gone').hidden = live;
  const message = live
    ? ''
    : `The endpoint picker has not answered since ${goneSince.toLocaleTimeString('en', { hour12: false })}. What is shown is from before; this page tries again every second.`;
  if (byId('gone').textContent !== message) byId('gone').textContent = message;
}

function showSummary({ endpoints, requests_in_flight: inFlight }, history) {
  const serving = endpoints.filter((endpoint) => endpoint.reachable).length;
  byId('tile-endpoints').textContent = `${serving} of ${endpoints.length}`;
  byId('tile-in-flight').textContent = count(inFlight);
  const recent = history.picks.map((_, at) => at).slice(-RECENT);
  const sum = (column) => recent.reduce((total, at) => total + history[column][at], 0);
  byId('tile-picks').textContent = recent.length > 0 ? short(sum('picks') / recent.length) : '–';
  const times = recent.map((at) => history.pick_microseconds_p95[at]).filter((time) => time !== null);
  byId('tile-pick-time').textContent = times.length > 0 ? microseconds(Math.max(...times)) : '–';
  const prompt = sum('prompt_tokens');
  byId('tile-cached').textContent = prompt > 0 ? percent(sum('predicted_cached_tokens') / prompt) : '–';
}

async function explain(event) {
  event.preventDefault();
  const button = byId('explain').querySelector('button');
  const [error, result] = [byId('explain-error'), byId('explain-result')];
  button.disabled = true;
  error.hidden = true;
  try {
    const path = encodeURIComponent(byId('explain-path').value);
    const decision = await ask(`api/explain?path=${path}`, { method: 'POST', body: byId('explain-body').value });
    result.replaceChildren(...explanationTables(decision, decision.prefill));
  } catch (failure) {
    result.replaceChildren();
    error.textContent = failure.message;
    error.hidden = false;
  }
  button.disabled = false;
}

byId('explain').addEventListener('submit', explain);

// One pool needs no choice.
async function offerPools() {
  const { pools } = await ask('api/pools');
  if (pools.length < 2) return;
  const select = byId('pool');
  const links = [...document.querySelectorAll('nav a')].map((link) => [link, link.getAttribute('href')]);
  select.replaceChildren(...pools.map((name) => new Option(name)));
  select.addEventListener('change', () => {
    pool = select.value;
    for (const [link, path] of links) link.setAttribute('href', ofPool(path));
    decisions.startAgain();
    byId('explain-result').replaceChildren();
    update();
  });
  byId('pools').hidden = false;
}
offerPools().catch(() => {});

// A page that nobody sees asks for nothing.
async function run() {
  if (!document.hidden) await update();
  setTimeout(run, PERIOD);
}
run();
