/** Keeps a scheduler fed with the metrics of its endpoints. */

import type { Scheduler } from './index.js';

/** Where and how often metrics are read. */
export interface PollOptions {
  /** Ends the polling. */
  signal?: AbortSignal;
  /** Time between two scrapes of an endpoint, in milliseconds; 200 by default. */
  intervalMs?: number;
  /** The longest time between two scrapes of an endpoint that does not answer: it doubles up to here; 2000 by default. */
  maxIntervalMs?: number;
  /** How long an engine may take to answer, in milliseconds; 2000 by default. */
  timeoutMs?: number;
  /** Scheme of the metrics address; `http` by default. */
  scheme?: 'http' | 'https';
  /** Path of the metrics page; `/metrics` by default. */
  path?: string;
  /** The whole address of an endpoint's metrics page, where scheme and path do not say it. */
  url?(endpoint: string): string;
  /** An `Agent` of undici, for certificate authorities and client certificates. */
  dispatcher?: object;
  /** What is called in place of the global `fetch`. */
  fetch?: typeof fetch;
  /** Is told of every failed scrape. */
  onError?(endpoint: string, error: Error): void;
}

/**
 * Scrapes every endpoint of the scheduler until the signal is aborted, also those that are added later.
 *
 * It does not keep the process running. The promise is resolved when the polling has ended.
 */
export function pollMetrics(scheduler: Scheduler, options?: PollOptions): Promise<void>;
