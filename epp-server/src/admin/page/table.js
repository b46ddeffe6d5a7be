// Elements of tables and lists. All text goes through textContent: what the server sends is never read as markup.

export function element(tag, { text, className, children = [], ...properties } = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  Object.assign(made, properties);
  made.append(...children);
  return made;
}

export const number = (text, className = '') => element('td', { text, className: `number ${className}`.trim() });

export const rowHeader = (text) => element('th', { text, scope: 'row', title: text });

// A share of 0 to 1 as a bar with its text beside it.
export function share(value, text) {
  const fill = element('span');
  fill.style.setProperty('width', `${Math.min(100, Math.max(0, value * 100))}%`);
  const bar = element('span', { className: 'bar', children: [fill] });
  bar.setAttribute('aria-hidden', 'true');
  return element('div', { className: 'share', children: [bar, element('span', { text })] });
}

export function facts(entries) {
  const pairs = entries.map(([name, value]) =>
    element('div', { children: [element('dt', { text: name }), element('dd', { text: value })] }));
  return element('dl', { className: 'facts', children: pairs });
}
