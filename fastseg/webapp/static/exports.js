// The exports side by side: figures, intervals, and how each was trained.

import { $, api, duration, el, figure, note, plural, told, watchModel } from "./app.js";

/** Draw the table of exports, the newest first. */
export function drawExports({ figure: title, exports }) {
  const root = $("#history");
  drawNever(exports.find((one) => one.current));
  if (!exports.length) {
    root.replaceChildren(el("p", { class: "quiet" }, "None yet: the first training makes one."));
    $("#history-note").textContent = "";
    return;
  }
  const classes = Object.keys(exports[0].classes);
  const head = (text) => el("th", { scope: "col" }, text);
  root.replaceChildren(el("table", {},
    el("thead", {}, el("tr", {}, head("export"), head(title), ...classes.map(head), head("images"), head("epochs"), head("network"), head("trained for"))),
    el("tbody", {}, ...exports.map((one) => row(one, classes, title)))));
  const counts = new Set(exports.map((one) => one.held_out));
  $("#history-note").textContent = counts.size > 1
    ? "The exports were judged on different held-out images: compare two of them on the same images on the page Compare."
    : "Small figures are 95 % intervals, by bootstrap over the held-out images.";
}

function row(one, classes, title) {
  const earlier = one.earlier_labels ? "quiet" : null;
  const lost = new Set(one.never_found);
  const back = one.can_return && !one.current
    ? el("button", { type: "button", class: "small-button", title: "Make this export the current one again; the current one is kept here", "aria-label": `Take back ${one.name}`, onclick: told(() => takeBack(one)) }, "Take back") : null;
  return el("tr", {},
    el("th", { scope: "row" }, el("span", { class: "export-name" }, one.name, " ", one.current ? el("span", { class: "badge" }, "current") : null, back),
      el("small", {}, when(one.created)), one.compared ? el("small", { class: change(one.compared).kind }, change(one.compared, title).short) : null),
    el("td", { class: earlier }, el(earlier ? "span" : "b", {}, figure(one.value)), interval(one), earlier ? el("small", {}, "judged by earlier labels") : null),
    ...classes.map((name) => el("td", { class: earlier }, figure(one.classes[name]), lost.has(name) ? el("small", { class: "down" }, "never found") : null)),
    el("td", {}, String(one.images), el("small", {}, `${one.held_out} held out`)),
    el("td", {}, String(one.epochs ?? "")),
    el("td", {}, one.arch, el("small", {}, [one.decoder, one.size.join(" x ")].filter(Boolean).join(", "))),
    el("td", {}, duration(one.seconds)));
}

async function takeBack(one) {
  drawExports(await api("/api/train/restore", { export: one.name }));
  document.dispatchEvent(new Event("restored"));
  note(`${one.name} is the current export again; the one before is kept in the table.`);
  watchModel();
}

/** Say which classes the current export never finds, and what to do. */
function drawNever(current) {
  const names = current?.never_found ?? [];
  const shown = $("#never");
  shown.hidden = !names.length;
  if (!names.length) return;
  const are = names.length > 1;
  shown.textContent = `${names.join(", ")}: never found (recall 0) on the ${plural(current.held_out, "held-out image")}. ` +
    `Train longer or at a larger size, and label more images with ${are ? "them" : "it"}. ` +
    `On the page Data, the class filter shows the images that have ${are ? "them" : "it"}.`;
}

/** A paired difference in words: "worse by 0.030 (0.010 to 0.050) Dice on the 12 same held-out images". */
export function change({ difference, interval, images }, title = "") {
  const on = images === 1 ? "on the same held-out image" : `on the ${images.toLocaleString("en")} same held-out images`;
  const ends = interval && interval.map(Math.abs).sort((one, other) => one - other).map((end) => figure(end));
  const isClear = interval && (interval[0] > 0 || interval[1] < 0);
  const word = difference < 0 ? "worse" : "better";
  if (!isClear) {
    const between = interval ? ` (${signed(interval[0])} to ${signed(interval[1])})` : "";
    return { kind: "", isWorse: false, short: `no clear change: ${signed(difference)}${between}`, text: `${signed(difference)}${between} ${title} ${on}` };
  }
  const by = `${word} by ${figure(Math.abs(difference))} (${ends.join(" to ")})`;
  return { kind: difference < 0 ? "down" : "up", isWorse: difference < 0, short: by, text: `${by} ${title} ${on}` };
}

const signed = (value) => `${value > 0 ? "+" : ""}${figure(value)}`;

function interval(one) {
  if (one.earlier_labels && one.is_waiting) return el("small", {}, el("span", { class: "spin", "aria-hidden": "true" }), " being judged again");
  if (one.interval) return el("small", {}, `${figure(one.interval[0])} to ${figure(one.interval[1])}`);
  return one.is_waiting ? el("small", {}, el("span", { class: "spin", "aria-hidden": "true" }), " interval") : null;
}

function when(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? text : date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}
