// The table of endpoints, from api/endpoints.

import { count, percent, seconds, short } from './format.js';
import { element, number, rowHeader, share } from './table.js';

const STATES = {
  fresh: 'fresh',
  fading: 'fading',
  stale: 'too old',
  unknown: 'none yet',
  unreachable: 'unreachable',
};

export function showEndpoints({ endpoints }) {
  document.getElementById('endpoints-empty').hidden = endpoints.length > 0;
  const table = document.getElementById('endpoints');
  table.hidden = endpoints.length === 0;
  table.tBodies[0].replaceChildren(...endpoints.map(row));
}

function row(endpoint) {
  const state = element('span', { className: `state ${endpoint.state}`, text: STATES[endpoint.state] ?? endpoint.state });
  return element('tr', {
    children: [
      rowHeader(endpoint.endpoint),
      element('td', { children: [state] }),
      number(seconds(endpoint.metrics_age_seconds)),
      number(count(endpoint.waiting_requests)),
      number(count(endpoint.running_requests)),
      kvCache(endpoint.kv_cache_utilization),
      number(count(endpoint.requests_in_flight)),
      number(seconds(endpoint.wait_seconds)),
      prefillRate(endpoint.prefill_tokens_per_second),
      number(short(endpoint.predicted_cached_tokens)),
      actual(endpoint),
    ],
  });
}

function kvCache(use) {
  if (use === null) return element('td', { text: '–' });
  return element('td', { children: [share(use, percent(use))] });
}

function prefillRate(rate) {
  return number(rate === null ? 'not learned' : `${short(rate)} tok/s`, rate === null ? 'note' : '');
}

function actual(endpoint) {
  const text = short(endpoint.actual_cached_tokens);
  if (!endpoint.predictions_distrusted) return number(text);
  const cell = number(`${text}, distrusted`, 'warning');
  cell.title = 'Predicted hits did not happen: check block size and prefix caching of this engine.';
  return cell;
}
