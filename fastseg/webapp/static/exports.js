// The exports side by side: figures, intervals, and how each was trained.

import { $, duration, el, figure } from "./app.js";

/** Draw the table of exports, the newest first. */
export function drawExports({ figure: title, exports }) {
  const root = $("#history");
  if (!exports.length) {
    root.replaceChildren(el("p", { class: "quiet" }, "None yet: the first training makes one."));
    $("#history-note").textContent = "";
    return;
  }
  const classes = Object.keys(exports[0].classes);
  const head = (text) => el("th", { scope: "col" }, text);
  root.replaceChildren(el("table", {},
    el("thead", {}, el("tr", {}, head("export"), head(title), ...classes.map(head), head("images"), head("epochs"), head("network"), head("trained for"))),
    el("tbody", {}, ...exports.map((one) => row(one, classes)))));
  const counts = new Set(exports.map((one) => one.held_out));
  $("#history-note").textContent = counts.size > 1
    ? "The exports were judged on different held-out images: compare two of them on the same images on the page Compare."
    : "Small figures are 95 % intervals, by bootstrap over the held-out images.";
}

function row(one, classes) {
  const earlier = one.earlier_labels ? "quiet" : null;
  return el("tr", {},
    el("th", { scope: "row" }, one.name, " ", one.current ? el("span", { class: "badge" }, "current") : null, el("small", {}, when(one.created))),
    el("td", { class: earlier }, el(earlier ? "span" : "b", {}, figure(one.value)), interval(one), earlier ? el("small", {}, "judged by earlier labels") : null),
    ...classes.map((name) => el("td", { class: earlier }, figure(one.classes[name]))),
    el("td", {}, String(one.images), el("small", {}, `${one.held_out} held out`)),
    el("td", {}, String(one.epochs ?? "")),
    el("td", {}, one.arch, el("small", {}, [one.decoder, one.size.join(" x ")].filter(Boolean).join(", "))),
    el("td", {}, duration(one.seconds)));
}

function interval(one) {
  if (one.earlier_labels && one.is_waiting) return el("small", {}, el("span", { class: "spin", "aria-hidden": "true" }), " being judged again");
  if (one.interval) return el("small", {}, `${figure(one.interval[0])} to ${figure(one.interval[1])}`);
  return one.is_waiting ? el("small", {}, el("span", { class: "spin", "aria-hidden": "true" }), " interval") : null;
}

function when(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? text : date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}
