// Line charts as SVG: few lines, few ticks, colours of the page.

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 480, HEIGHT = 230;
const SPACE = { left: 44, right: 12, top: 10, bottom: 34 };

function svg(tag, attributes = {}, text) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Return round numbers between two values, about `count` of them. */
export function ticks(low, high, count = 4) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((value) => value >= raw);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(8)));
  return found;
}

/**
 * Return a figure with one line for each of `series`: {name, values, kind}, a value (or null) an
 * epoch; `kind` 1 to 4 gives colour and dashes. `epochs` is how many the axis has; the first `head`
 * of them, which trained the head only, are numbered 0 and below.
 */
export function lines(title, series, epochs, { from, to, head = 0 } = {}) {
  const all = series.flatMap((line) => line.values).filter((value) => value !== null);
  const low = from ?? Math.min(...all, 0);
  const high = Math.max(to ?? -Infinity, ...all, low + 1e-6);
  const last = Math.max(2, epochs, ...series.map((line) => line.values.length));
  const x = (place) => SPACE.left + ((place - 1) / (last - 1)) * (WIDTH - SPACE.left - SPACE.right);
  const y = (value) => HEIGHT - SPACE.bottom - ((value - low) / (high - low)) * (HEIGHT - SPACE.top - SPACE.bottom);
  const now = series.map((line) => `${line.name} ${line.values.findLast((value) => value !== null)?.toFixed(3) ?? "not known"}`);
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "lines",
    "aria-label": `${title} after epoch ${Math.max(0, ...series.map((line) => line.values.length)) - head}: ${now.join(", ")}` });
  for (const value of ticks(low, high)) {
    chart.append(svg("line", { class: "rule", x1: SPACE.left, x2: WIDTH - SPACE.right, y1: y(value), y2: y(value) }));
    chart.append(svg("text", { x: SPACE.left - 7, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  for (const value of ticks(1 - head, last - head, 6).filter(Number.isInteger))
    chart.append(svg("text", { x: x(value + head), y: HEIGHT - SPACE.bottom + 18, "text-anchor": "middle" }, String(value)));
  chart.append(svg("text", { x: WIDTH - SPACE.right, y: HEIGHT - 3, "text-anchor": "end" }, head ? `epoch (${head > 1 ? "up to " : ""}0: head only)` : "epoch"));
  for (const line of series) {
    const points = line.values.map((value, place) => [x(place + 1), value]).filter(([, value]) => value !== null).map(([left, value]) => [left, y(value)]);
    chart.append(svg("polyline", { class: `line kind-${line.kind}`, points: points.map((point) => point.map((one) => one.toFixed(1)).join(",")).join(" ") }));
    const end = points.at(-1);
    if (end) chart.append(svg("circle", { class: `dot kind-${line.kind}`, cx: end[0].toFixed(1), cy: end[1].toFixed(1), r: 3.5 }));
  }
  const figure = document.createElement("figure");
  figure.className = "chart";
  const caption = document.createElement("figcaption");
  caption.append(...series.map((line) => {
    const key = document.createElement("span");
    key.className = "key";
    const mark = svg("svg", { viewBox: "0 0 24 8", class: "mark", "aria-hidden": "true" });
    mark.append(svg("line", { class: `line kind-${line.kind}`, x1: 0, x2: 24, y1: 4, y2: 4 }));
    key.append(mark, ` ${line.name}`);
    return key;
  }));
  const heading = document.createElement("b");
  heading.textContent = title;
  caption.prepend(heading);
  figure.append(caption, chart);
  return figure;
}
