// Numbers and times as people read them. What is not known is an en dash.

const UNKNOWN = '–';
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

const known = (value, write) => (value === null || value === undefined ? UNKNOWN : write(value));

export const count = (value) => known(value, (number) => whole.format(number));
export const short = (value) => known(value, (number) => compact.format(number));
export const decimal = (value, digits) => known(value, (number) => number.toFixed(digits));
export const percent = (share) => known(share, (number) => `${(number * 100).toFixed(number < 0.1 && number > 0 ? 1 : 0)} %`);

export function seconds(value) {
  return known(value, (number) => {
    const size = Math.abs(number);
    if (size < 0.9995) return `${(number * 1e3).toFixed(0)} ms`;
    return size < 60 ? `${number.toFixed(size < 10 ? 2 : 1)} s` : `${whole.format(number)} s`;
  });
}

export function microseconds(value) {
  return known(value, (number) => {
    if (number < 1000) return `${number.toFixed(number > 0 && number < 10 ? 1 : 0)} µs`;
    return number < 1e6 ? `${(number / 1e3).toFixed(1)} ms` : `${(number / 1e6).toFixed(1)} s`;
  });
}

export function timeOfDay(unixSeconds) {
  const options = { hour: '2-digit', minute: '2-digit', second: '2-digit', fractionalSecondDigits: 3, hour12: false };
  return new Date(unixSeconds * 1e3).toLocaleTimeString('en', options);
}
