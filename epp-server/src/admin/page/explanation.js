// Why an endpoint was picked, as a table: one row per endpoint, one column per scorer.

import { count, decimal, seconds } from './format.js';
import { element, number, rowHeader } from './table.js';

const TIE_RULES = {
  unique: 'it is the only best one',
  rendezvous: 'tied, and it has the highest rendezvous hash',
  'least-recently-cold': 'tied, and it has waited longest for a cold request',
  random: 'chance decided',
  'round-robin': 'it was its turn',
};

// The endpoint that serves the request, and the one that does its prefill where that is another one.
export function explanationTables(decision, prefill) {
  const served = explanationTable(decision.explanation);
  if (!prefill) return [served];
  const heading = element('h3', { text: `Prefill on ${prefill.endpoint}` });
  return [served, heading, explanationTable(prefill.explanation)];
}

function explanationTable(explanation) {
  const scorers = explanation.endpoints[0]?.scores ?? [];
  const table = element('table', {
    children: [
      element('thead', { children: [headings(scorers)] }),
      element('tbody', { children: explanation.endpoints.map((endpoint, place) => row(endpoint, place, scorers)) }),
    ],
  });
  const scroll = element('div', { className: 'scroll', tabIndex: 0, children: [table] });
  scroll.setAttribute('role', 'region');
  scroll.setAttribute('aria-label', 'Scores of every endpoint');
  return element('div', { children: [element('p', { className: 'reason', text: reason(explanation) }), scroll] });
}

function reason({ endpoints, tie_rule: rule, runner_up_distance: distance }) {
  const chosen = endpoints[0]?.endpoint ?? 'no endpoint';
  if (distance === null) return `${chosen} was picked: no other endpoint was eligible.`;
  return `${chosen} was picked: ${TIE_RULES[rule] ?? rule}; the next one is ${decimal(distance, 3)} points behind.`;
}

function headings(scorers) {
  const heading = (text, className) => element('th', { text, className, scope: 'col' });
  const scorer = ({ scorer: name, weight }) => {
    const made = heading(name.replace(/-scorer$/, ''), 'number');
    made.append(element('small', { className: 'part', text: `weight ${weight}` }));
    return made;
  };
  const columns = ['Cached tokens', 'Wait', 'Gate margin', 'Metrics age', 'In flight'];
  return element('tr', {
    children: [heading('Endpoint'), heading('Total', 'number'), ...scorers.map(scorer),
      ...columns.map((name) => heading(name, 'number'))],
  });
}

function row(endpoint, place, scorers) {
  const dropped = endpoint.dropped_by !== null;
  const scores = dropped
    ? [element('td', { colSpan: scorers.length + 1, text: `dropped by ${endpoint.dropped_by}` })]
    : [number(decimal(endpoint.total, 3)), ...endpoint.scores.map(scoreCell)];
  return element('tr', {
    className: dropped ? 'dropped' : place === 0 ? 'chosen' : '',
    children: [
      rowHeader(endpoint.endpoint),
      ...scores,
      number(count(endpoint.matched_tokens)),
      number(seconds(endpoint.wait_seconds)),
      number(seconds(endpoint.gate_margin_seconds)),
      number(seconds(endpoint.metrics_age_seconds)),
      number(count(endpoint.requests_in_flight)),
    ],
  });
}

function scoreCell(score) {
  const cell = number(decimal(score.contribution, 3));
  const from = score.missing ? 'not known' : `from ${readable(score.raw)}`;
  cell.append(element('small', { className: 'part', text: `${decimal(score.score, 2)}, ${from}` }));
  return cell;
}

const readable = (raw) => String(Number(raw.toPrecision(4)));
