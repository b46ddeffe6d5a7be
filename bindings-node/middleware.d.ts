/**
 * Middleware for Connect, Express and Fastify: reads the body once, picks, and reports how the request goes on.
 *
 * A pick that fails is passed on as an error with a `status`: 400 for a body that cannot be read, 413 for one that is too
 * large, 503 where there is no endpoint.
 */

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Decision, Outcome, RequestFields, Scheduler } from './index.js';

/** What is picked for a request; it is completed by itself when the response ends or the client leaves. */
export interface Route {
  /** What the scheduler decided. */
  readonly decision: Decision;
  /** The chosen endpoint. */
  readonly endpoint: string;
  /** The body as the client sent it. */
  readonly body: Buffer;
  /**
   * Adds to what is reported at the end, for example `{ servedBy }` after a retry elsewhere. Success, usage and the first
   * token of an event stream are seen in the response without it.
   */
  report(outcome: Partial<Outcome>): void;
}

/** How requests are read and picked for. */
export interface MiddlewareOptions<Request = IncomingMessage> {
  /** The largest body that is read, in bytes; 64 MiB by default. */
  maxBodyBytes?: number;
  /** What the gateway knows of a request beyond its body, such as a session or a subset of endpoints. */
  fields?(request: Request): RequestFields;
}

declare module 'http' {
  interface IncomingMessage {
    /** Set by the middleware of p3sched. */
    p3sched?: Route;
  }
}

/** Middleware for Connect and Express. Sets `request.p3sched`, and `request.body` to the bytes of the body. */
export function connect(
  scheduler: Scheduler,
  options?: MiddlewareOptions<any>,
): (request: IncomingMessage, response: ServerResponse, next: (error?: unknown) => void) => void;

/**
 * Plugin for Fastify: `instance.register(fastify, { scheduler })`. Sets `request.p3sched`; Fastify's parsers still see the body.
 */
export function fastify(
  instance: any,
  options: MiddlewareOptions<any> & { scheduler: Scheduler },
  done: (error?: Error) => void,
): void;
