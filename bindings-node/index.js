'use strict';

/**
 * The public face of the package: options objects and decisions as plain objects over the private native module.
 *
 * Nothing is decided here. What every method does is described in `index.d.ts`.
 */

const { bytes, number, object, optional, string, time, withPlain, wrongType } = require('./arguments.js');
const native = require('./native.js');

const ID = 0;
const MATCHED_TOKENS = 1;
const PROMPT_TOKENS = 2;

class Scheduler {
  #native;
  #pickBody;
  /** Where the native side writes the numbers of a decision. */
  #numbers = new Float64Array(3);

  constructor(config) {
    this.#native = withPlain('config', optional(nameOrObject, 'config', config), (plain) => new native.Scheduler(plain));
    this.#pickBody = this.#native.bodyPicker();
  }

  get config() {
    return this.#native.config();
  }

  addEndpoint(endpoint) {
    withPlain('endpoint', nameOrObject('endpoint', endpoint), (plain) => this.#native.addEndpoint(plain));
  }

  removeEndpoint(name) {
    this.#native.removeEndpoint(string('name', name));
  }

  setEndpoints(endpoints) {
    // A text would be taken for its letters, and what cannot be iterated for no endpoints at all.
    if (typeof endpoints === 'string' || typeof endpoints?.[Symbol.iterator] !== 'function') {
      throw wrongType('endpoints must be a list of names or objects', endpoints);
    }
    const list = Array.from(endpoints, (endpoint, at) => nameOrObject(`endpoints[${at}]`, endpoint));
    withPlain('endpoints', list, (plain) => this.#native.setEndpoints(plain));
  }

  ingestMetrics(endpoint, page, options) {
    this.#native.ingestMetrics(string('endpoint', endpoint), bytes('page', page), time(options));
  }

  observe(endpoint, metrics, options) {
    const now = time(options);
    string('endpoint', endpoint);
    withPlain('metrics', object('metrics', metrics), (plain) => this.#native.observe(endpoint, plain, now));
  }

  ingestLoadHeader(endpoint, value, options) {
    this.#native.ingestLoadHeader(string('endpoint', endpoint), string('value', value), time(options));
  }

  scrapeFailed(endpoint, failure, options) {
    this.#native.scrapeFailed(string('endpoint', endpoint), string('failure', failure), time(options));
  }

  pick(request, options) {
    return explained(this.#native.pick(object('request', request), time(options)));
  }

  pickBody(path, body, options) {
    if (options !== undefined && options !== null) {
      const { now, ...fields } = object('options', options);
      const moment = optional(number, 'now', now);
      return explained(this.#native.pickBodyWith(string('path', path), bytes('body', body), fields, moment));
    }
    const numbers = this.#numbers;
    const endpoints = this.#pickBody(string('path', path), bytes('body', body), numbers);
    return decision(endpoints, numbers[ID], numbers[MATCHED_TOKENS], numbers[PROMPT_TOKENS]);
  }

  explain(request, options) {
    return explained(this.#native.explain(object('request', request), time(options)));
  }

  explainBody(path, body, options) {
    const { now, ...fields } = optional(object, 'options', options) ?? {};
    const moment = optional(number, 'now', now);
    return explained(this.#native.explainBody(string('path', path), bytes('body', body), fields, moment));
  }

  firstToken(id, options) {
    this.#native.firstToken(number('id', id), time(options));
  }

  complete(id, outcome, options) {
    const now = time(options);
    number('id', id);
    withPlain('outcome', object('outcome', outcome), (plain) => this.#native.complete(id, plain, now));
  }

  applyKvEvent(endpoint, event, options) {
    const now = time(options);
    string('endpoint', endpoint);
    withPlain('event', object('event', event), (plain) => this.#native.applyKvEvent(endpoint, plain, now));
  }

  applyKvBatch(endpoint, batch, options) {
    const known = batch instanceof KvEventBatch ? batch : new KvEventBatch(batch);
    return this.#native.applyKvBatch(string('endpoint', endpoint), nativeBatch(known), time(options));
  }

  resumeKvEvents(endpoint, rank, next) {
    this.#native.resumeKvEvents(string('endpoint', endpoint), number('rank', rank), number('next', next));
  }

  snapshot() {
    return this.#native.snapshot();
  }

  restore(snapshot) {
    this.#native.restore(bytes('snapshot', snapshot));
  }

  stats(options) {
    return this.#native.stats(time(options));
  }
}

class UsageScanner {
  #native = new native.UsageScanner();

  push(chunk) {
    this.#native.push(bytes('chunk', chunk));
  }

  finish() {
    return this.#native.finish();
  }
}

let nativeBatch;

class KvEventBatch {
  #native;

  static {
    nativeBatch = (batch) => batch.#native;
  }

  constructor(fields) {
    const isNative = fields instanceof native.KvEventBatch;
    this.#native = isNative ? fields : withPlain('batch', object('batch', fields), (plain) => new native.KvEventBatch(plain));
  }

  static decode(payload, sequence) {
    return new KvEventBatch(native.KvEventBatch.decode(bytes('payload', payload), number('sequence', sequence)));
  }

  get sequence() {
    return this.#native.sequence;
  }

  get timestamp() {
    return this.#native.timestamp;
  }

  get rank() {
    return this.#native.rank;
  }

  get events() {
    return this.#native.events;
  }
}

function readBody(path, body) {
  return native.readBody(string('path', path), bytes('body', body));
}

function readMetrics(page) {
  return native.readMetrics(bytes('page', page));
}

function blockHashes(request, options) {
  const { blockSizeTokens, bytesPerToken, maxPrefixTokens } = object('options', options);
  return native.blockHashes(
    object('request', request),
    number('blockSizeTokens', blockSizeTokens),
    number('bytesPerToken', bytesPerToken),
    optional(number, 'maxPrefixTokens', maxPrefixTokens),
  );
}

function readLoadHeader(value) {
  return native.readLoadHeader(string('value', value));
}

function preset(name) {
  return native.preset(string('name', name));
}

function nameOrObject(name, value) {
  if (typeof value === 'string' || (value !== null && typeof value === 'object')) return value;
  throw wrongType(`${name} must be a string or an object`, value);
}

function decision(endpoints, id, matchedTokens, promptTokens) {
  if (typeof endpoints === 'string') {
    return { id, endpoint: endpoints, fallbacks: [], matchedTokens, promptTokens };
  }
  return { id, endpoint: endpoints[0], fallbacks: endpoints.slice(1), matchedTokens, promptTokens };
}

function explained([endpoints, id, matchedTokens, promptTokens, explanation, explanationText]) {
  const answer = decision(endpoints, id, matchedTokens, promptTokens);
  // Absent, not undefined, where it was not asked for.
  return explanation ? { ...answer, explanation, explanationText } : answer;
}

module.exports.Scheduler = Scheduler;
module.exports.UsageScanner = UsageScanner;
module.exports.KvEventBatch = KvEventBatch;
module.exports.readBody = readBody;
module.exports.readMetrics = readMetrics;
module.exports.readLoadHeader = readLoadHeader;
module.exports.blockHashes = blockHashes;
module.exports.preset = preset;
module.exports.presetNames = native.presetNames;
module.exports.version = native.VERSION;
