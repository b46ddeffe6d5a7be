'use strict';

/** Arguments, checked here by their names: the native side knows only their types. */

const { isUint8Array } = require('node:util').types;

function string(name, value) {
  if (typeof value === 'string') return value;
  throw wrongType(`${name} must be a string`, value);
}

function number(name, value) {
  if (typeof value === 'number') return value;
  throw wrongType(`${name} must be a number`, value);
}

function object(name, value) {
  if (value !== null && typeof value === 'object') return value;
  throw wrongType(`${name} must be an object`, value);
}

function optional(check, name, value) {
  return value === undefined || value === null ? undefined : check(name, value);
}

/** The time that a call carries. */
function time(options) {
  return options === undefined ? undefined : optional(number, 'now', optional(object, 'options', options)?.now);
}

function bytes(name, data) {
  if (typeof data === 'string') return Buffer.from(data);
  if (isUint8Array(data)) return data;
  throw wrongType(`${name} must be a string, a Buffer or a Uint8Array`, data);
}

/** Calls with plain data, and names what is none. */
function withPlain(name, value, call) {
  try {
    return call(value);
  } catch (error) {
    // What cannot become JSON is refused before anybody knows the argument's name.
    if (!error.message.includes('serde_json')) throw error;
    const [place, wrong] = notPlain(name, value) ?? [name, value];
    throw wrongType(`${place} must be plain data: finite numbers, strings, true, false, null, and arrays and objects of them`, wrong);
  }
}

function notPlain(place, value) {
  if (['function', 'symbol', 'undefined'].includes(typeof value) || (typeof value === 'number' && !Number.isFinite(value))) {
    return [place, value];
  }
  if (value === null || typeof value !== 'object') return undefined;
  for (const [name, field] of Object.entries(value)) {
    const found = notPlain(Array.isArray(value) ? `${place}[${name}]` : `${place}.${name}`, field);
    if (found) return found;
  }
  return undefined;
}

function wrongType(message, value) {
  const isPrimitive = value === null || !['object', 'function'].includes(typeof value);
  const found = isPrimitive ? String(value) : Object.prototype.toString.call(value).slice('[object '.length, -1);
  return Object.assign(new TypeError(`${message}: \`${found}\``), { code: 'InvalidArg' });
}

module.exports = { bytes, number, object, optional, string, time, withPlain, wrongType };
