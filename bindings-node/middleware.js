'use strict';

/** Middleware for Connect, Express and Fastify; see `middleware.d.ts`. */

const { Readable } = require('node:stream');
const { Route } = require('./route.js');

const DEFAULT_MAX_BODY_BYTES = 64 * 1024 * 1024;

/** What a client is told about an error of a pick. */
const STATUS = { InvalidRequest: 400, NoEndpoints: 503, NoEligibleEndpoint: 503 };

function connect(scheduler, options = {}) {
  return function p3sched(request, response, next) {
    bodyOf(request, options)
      .then((body) => {
        const url = request.originalUrl ?? request.url;
        request.body = body;
        request.p3sched = begin(scheduler, options, { request, url, body, response });
      })
      .then(() => next(), next);
  };
}

function fastify(instance, options, done) {
  const { scheduler } = options;
  instance.decorateRequest('p3sched', null);
  instance.addHook('preParsing', async (request, reply, payload) => {
    const body = await read(payload, options);
    const route = { request, url: request.raw.url, body, response: reply.raw };
    request.p3sched = begin(scheduler, options, route);
    // Fastify's own parsers read the body once more.
    const again = Readable.from(body.length > 0 ? [body] : []);
    again.receivedEncodedLength = body.length;
    return again;
  });
  done();
}
// What the plugin adds is for the instance that registers it, not for a scope of its own.
fastify[Symbol.for('skip-override')] = true;
fastify[Symbol.for('fastify.display-name')] = 'p3sched';

function begin(scheduler, options, { request, url, body, response }) {
  try {
    const decision = scheduler.pickBody(url, body, options.fields?.(request));
    const route = new Route(scheduler, decision, body);
    route.follow(response);
    return route;
  } catch (error) {
    error.statusCode = error.status = STATUS[error.code] ?? 500;
    throw error;
  }
}

/** The body as bytes, also where a parser was there before. */
async function bodyOf(request, options) {
  const { body } = request;
  if (Buffer.isBuffer(body)) return body;
  if (typeof body === 'string') return Buffer.from(body);
  if (body !== undefined && request.readableEnded) return Buffer.from(JSON.stringify(body));
  return read(request, options);
}

async function read(stream, { maxBodyBytes = DEFAULT_MAX_BODY_BYTES }) {
  const chunks = [];
  let size = 0;
  for await (const chunk of stream) {
    size += chunk.length;
    if (size > maxBodyBytes) throw tooLarge(maxBodyBytes);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size);
}

function tooLarge(limit) {
  const error = new Error(`the body is larger than the limit in bytes: \`${limit}\``);
  return Object.assign(error, { code: 'InvalidRequest', status: 413, statusCode: 413 });
}

module.exports.connect = connect;
module.exports.fastify = fastify;
