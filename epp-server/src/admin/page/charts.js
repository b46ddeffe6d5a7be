// Three charts over the last ten minutes, from the columns of api/history.

import { microseconds, short } from './format.js';

const HEIGHT = 180;
const SHORTEST_SPAN = 60;

const CHARTS = [
  {
    figure: 'chart-picks',
    value: short,
    series: [['picks', 'Picks'], ['refusals', 'Refusals']],
  },
  {
    figure: 'chart-pick-time',
    value: microseconds,
    series: [['pick_microseconds_p50', 'p50'], ['pick_microseconds_p95', 'p95'], ['pick_microseconds_p99', 'p99']],
  },
  {
    figure: 'chart-tokens',
    value: short,
    series: [
      ['prompt_tokens', 'Prompt'],
      ['predicted_cached_tokens', 'Predicted cached'],
      ['actual_cached_tokens', 'Actual cached'],
    ],
  },
];

const DASHES = [[], [7, 4], [2, 3]];

export function createCharts() {
  const charts = CHARTS.map((chart) => new Chart(chart));
  const redrawAll = () => charts.forEach((chart) => chart.draw());
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redrawAll);
  const sizes = new ResizeObserver(() => charts.forEach((chart) => chart.resize()));
  charts.forEach((chart) => sizes.observe(chart.place));
  return { update: (history) => charts.forEach((chart) => chart.update(history)) };
}

class Chart {
  constructor({ figure, value, series }) {
    this.figure = document.getElementById(figure);
    this.place = this.figure.querySelector('.plot');
    this.caption = this.figure.querySelector('figcaption').textContent;
    this.value = value;
    this.series = series;
    this.data = [[], ...series.map(() => [])];
    this.draw();
  }

  update(history) {
    this.data = [history.seconds, ...this.series.map(([column]) => history[column])];
    this.plot.setData(this.data);
    this.showLast();
  }

  // Colours are read when a chart is made, so another colour scheme makes it anew.
  draw() {
    this.plot?.destroy();
    this.plot = new uPlot(this.options(), this.data, this.place);
    this.plot.root.querySelector('.u-wrap').setAttribute('role', 'img');
    this.showLast();
  }

  resize() {
    const width = this.place.clientWidth;
    if (width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  // Without a pointer on the chart, the legend and the text for screen readers tell the newest values.
  showLast() {
    const last = this.data[0].length - 1;
    if (last >= 0 && this.plot.cursor.left < 0) this.plot.setLegend({ idx: last });
    const newest = this.series.map(([, name], at) => `${name} ${this.value(this.data[at + 1][last])}`);
    const text = last < 0 ? 'nothing yet' : `newest: ${newest.join(', ')}`;
    this.plot.root.querySelector('.u-wrap').setAttribute('aria-label', `${this.caption}; ${text}`);
  }

  options() {
    const colours = getComputedStyle(document.documentElement);
    const colour = (name) => colours.getPropertyValue(name).trim();
    const axis = {
      stroke: colour('--muted'),
      grid: { stroke: colour('--grid'), width: 1 },
      ticks: { show: false },
      font: '12px system-ui, sans-serif',
    };
    const line = ([, label], at) => ({
      label,
      stroke: colour(`--series-${at + 1}`),
      width: 1.75,
      dash: DASHES[at],
      points: { show: false },
      value: (_, value) => this.value(value),
    });
    return {
      width: this.place.clientWidth,
      height: HEIGHT,
      cursor: { drag: { x: false, y: false }, points: { size: 6 } },
      legend: { live: true, isolate: false },
      scales: {
        x: { range: (_, first, last) => timeSpan(first, last ?? Date.now() / 1e3) },
        y: { range: (_, least, most) => [0, Math.max(most ?? 0, 1) * 1.08] },
      },
      series: [{ label: 'Time', value: () => '' }, ...this.series.map(line)],
      axes: [
        { ...axis, space: 70, size: 30, values: (_, ticks) => ticks.map(clockTime) },
        { ...axis, size: 58, space: 34, values: (_, ticks) => ticks.map((tick) => this.value(tick)) },
      ],
    };
  }
}

// A server that has just started shows a line of its true length, not one stretched over the whole chart.
function timeSpan(first, last) {
  return [Math.min(first ?? last, last - SHORTEST_SPAN), last];
}

function clockTime(unixSeconds) {
  const options = { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false };
  return new Date(unixSeconds * 1e3).toLocaleTimeString('en', options);
}
