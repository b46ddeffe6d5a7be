// The live stream of decisions, and one of them with its full explanation.

import { explanationTables } from './explanation.js';
import { count, microseconds, percent, seconds, timeOfDay } from './format.js';
import { element, facts, number, share } from './table.js';

const SHOWN = 100;

export class Decisions {
  constructor(ask) {
    this.ask = ask;
    this.after = 0;
    this.pause = document.getElementById('pause');
    this.table = document.getElementById('decisions');
    this.dialog = document.getElementById('details');
    document.getElementById('details-close').addEventListener('click', () => this.dialog.close());
  }

  // Another server may answer now, which counts from 1 again.
  startAgain() {
    this.after = 0;
    this.table.tBodies[0].replaceChildren();
  }

  async update() {
    if (this.pause.checked) return;
    const { decisions, last_sequence: last, skipped } = await this.ask(`api/decisions?after=${this.after}`);
    if (last < this.after) this.startAgain();
    this.after = last;
    const rows = this.table.tBodies[0];
    rows.prepend(...decisions.slice(-SHOWN).reverse().map((decision) => this.row(decision)));
    while (rows.rows.length > SHOWN) rows.lastChild.remove();
    this.table.hidden = rows.rows.length === 0;
    document.getElementById('decisions-empty').hidden = rows.rows.length > 0;
    const sampled = skipped > 0 ? ` ${count(skipped)} more were made in busy seconds and are not listed.` : '';
    document.getElementById('decisions-hint').textContent =
      `The newest first. Select one to see why that endpoint was picked.${sampled}`;
  }

  row(decision) {
    const cached = decision.prompt_tokens > 0 ? decision.matched_tokens / decision.prompt_tokens : 0;
    const open = element('button', { type: 'button', className: 'link', text: timeOfDay(decision.at) });
    open.setAttribute('aria-label', `Explain the decision of ${timeOfDay(decision.at)}`);
    const row = element('tr', {
      children: [
        element('td', { children: [open] }),
        element('td', { children: [endpoints(decision)] }),
        element('td', { className: 'name', text: decision.model || '–', title: decision.model }),
        number(count(decision.prompt_tokens)),
        element('td', { children: [share(cached, `${count(decision.matched_tokens)} (${percent(cached)})`)] }),
        number(microseconds(decision.pick_microseconds)),
      ],
    });
    row.addEventListener('click', () => this.show(decision.id));
    return row;
  }

  async show(id) {
    const content = document.getElementById('details-content');
    try {
      content.replaceChildren(...details(await this.ask(`api/decisions/${id}`)));
    } catch (error) {
      content.replaceChildren(element('p', { className: 'notice', text: error.message }));
    }
    this.dialog.showModal();
  }
}

function endpoints({ endpoint, prefill_endpoint: prefill }) {
  const made = element('span', { text: endpoint });
  if (prefill) made.append(element('small', { className: 'part', text: `prefill on ${prefill}` }));
  return made;
}

function details(record) {
  const { decision, outcome, prefill } = record;
  const entries = [
    ['Picked at', timeOfDay(record.at)],
    ['Endpoint', decision.endpoint],
    ...(prefill ? [['Prefill on', prefill.endpoint]] : []),
    ['Fallbacks', decision.fallbacks.join(', ') || 'none'],
    ['Model', record.model || '–'],
    ['Prompt tokens', count(decision.prompt_tokens)],
    ['Predicted cached', count(decision.matched_tokens)],
    ['Actually cached', count(outcome?.cached_tokens)],
    ['Request', `${count(record.request_bytes)} bytes`],
    ['Pick time', microseconds(record.pick_microseconds)],
    ['End', end(outcome)],
    ['First token after', seconds(outcome?.first_token_seconds)],
    ['Decision', String(decision.id)],
  ];
  return [facts(entries), ...explanationTables(decision, prefill)];
}

function end(outcome) {
  if (!outcome) return 'not seen yet';
  const elsewhere = outcome.served_by ? ` by ${outcome.served_by}` : '';
  return `${outcome.success ? 'served' : 'failed'}${elsewhere} after ${seconds(outcome.seconds)}`;
}
