// The page Compare: figures of two exports side by side, and the images that changed most.

import { $, api, el, figure, plural, repeat, told } from "./app.js";

const SHOWN = 12; // images that got better, and worse
const LEAST = 0.005; // a change of an image's error below this counts as none
const look = $("#look");
let task, found;
let list = []; // the images in the dialog's order
let place = 0;

const FIGURES = { dice: "Dice", iou: "IoU", boundary_f1: "boundary F1", precision: "precision", recall: "recall", f1: "F1", accuracy: "accuracy", roc_auc: "ROC AUC" };

function draw(now) {
  found = now;
  const isRunning = now.state === "running";
  $("#start").disabled = isRunning || now.exports.length < 2;
  $("#state").replaceChildren(...(isRunning ? [el("span", { class: "spin", "aria-hidden": "true" }), " judging both on the held-out images"] : []));
  const count = now.exports.length;
  $("#form").hidden = count < 2;
  $("#few").hidden = count > 1;
  $("#few-text").textContent = `${count ? `There is one export, ${now.exports[0]}` : "There is no export yet"}. Two are needed: train ${count ? "once more" : "twice"} on the page Train, which keeps the earlier one.`;
  $("#fault").hidden = now.state !== "failed" || count < 2;
  $("#fault").textContent = now.error;
  $("#result").hidden = now.state !== "done";
  if (now.state === "done") result(now);
}

function result({ result }) {
  $("#verdict").textContent = result.verdict;
  $("#favour").hidden = !result.favour;
  $("#favour").textContent = `${result.favour}.`;
  const head = (text) => el("th", { scope: "col" }, text);
  $("#figures").replaceChildren(
    el("thead", {}, el("tr", {}, head(`on ${plural(result.images, "image")}`), head("new"), head("old"), head("difference"))),
    el("tbody", {}, ...result.rows.map(row)));
  const better = result.changes.filter((one) => one.second - one.first > LEAST);
  const worse = result.changes.filter((one) => one.first - one.second > LEAST).reverse();
  const same = result.changes.length - better.length - worse.length;
  $("#same").hidden = !same;
  $("#same").textContent = same === 1 ? `1 image without a difference above ${LEAST}.` : `${same.toLocaleString("en")} images without a difference above ${LEAST}.`;
  $("#better-title").textContent = `${plural(better.length, "image")} got better`;
  $("#worse-title").textContent = `${plural(worse.length, "image")} got worse`;
  $("#better").replaceChildren(...better.slice(0, SHOWN).map((one, at) => tile(one, better, at)));
  $("#worse").replaceChildren(...worse.slice(0, SHOWN).map((one, at) => tile(one, worse, at)));
}

function row(one) {
  const cell = ([value, ends]) => el("td", {}, figure(value), ends ? el("small", {}, `${figure(ends[0])} to ${figure(ends[1])}`) : null);
  const [value, ends] = one.difference;
  const isClear = value !== null && signed(value) !== "0.000" && ends && (ends[0] > 0 || ends[1] < 0);
  const text = value === null ? "absent" : signed(value);
  return el("tr", {},
    el("th", { scope: "row" }, one.of === "mean_foreground" ? "foreground mean" : one.of || "all", el("small", {}, FIGURES[one.figure] ?? one.figure)),
    cell(one.first), cell(one.second),
    el("td", { class: isClear ? (value > 0 ? "up" : "down") : null }, el(isClear ? "b" : "span", {}, text),
      ends ? el("small", {}, `${signed(ends[0])} to ${signed(ends[1])}`) : null));
}

/** A difference with its sign, with as many digits as it takes to be no 0.000. */
function signed(value) {
  const digits = [3, 4, 5].find((count) => Number(value.toFixed(count)) !== 0);
  return digits ? `${value > 0 ? "+" : ""}${value.toFixed(digits)}` : "0.000";
}

function tile(one, all, at) {
  return el("li", {}, el("button", { type: "button", class: "result", title: one.name, onclick: () => open(all, at) },
    el("span", { class: "pile" }, el("img", { src: `/api/images/${one.id}/thumbnail?labels=1`, alt: "", loading: "lazy" })),
    el("span", { class: "name" }, one.name.split("/").pop()),
    el("span", { class: "small number" }, `error ${figure(one.second)} \u2192 ${figure(one.first)}`)));
}

function open(all, at) {
  if (!all[at]) return;
  list = all;
  place = at;
  const one = all[at];
  $("#look-name").textContent = one.name;
  $("#before").disabled = at === 0;
  $("#after").disabled = at === all.length - 1;
  const pane = (title, layer) => el("figure", {}, el("div", { class: "stage" },
    el("img", { src: `/api/images/${one.id}/picture`, alt: title }), layer ? el("img", { src: layer, alt: "" }) : null), el("figcaption", {}, title));
  const prediction = (name) => (task.has_masks ? `/api/compare/${encodeURIComponent(name)}/${one.id}` : null);
  $("#panes").replaceChildren(...(task.has_masks ? [
    pane("image"), pane("label", `/api/images/${one.id}/overlay`),
    pane(`${found.first}: error ${figure(one.first)}`, prediction(found.first)),
    pane(`${found.second}: error ${figure(one.second)}`, prediction(found.second)),
  ] : [pane(`error ${figure(one.second)} \u2192 ${figure(one.first)}`)]));
  if (!look.open) look.showModal();
}

async function watch() {
  await repeat(async () => {
    draw(await api("/api/compare"));
    return found.state === "running";
  }, 1000);
}

async function start() {
  draw(await api("/api/compare/start", { first: $("#first").value, second: $("#second").value }));
  await watch();
}

$("#form").addEventListener("submit", (event) => {
  event.preventDefault();
  told(start)();
});
$("#opacity").addEventListener("input", (event) => document.documentElement.style.setProperty("--opacity", event.target.value / 100));
$("#close").addEventListener("click", () => look.close());
$("#before").addEventListener("click", () => open(list, place - 1));
$("#after").addEventListener("click", () => open(list, place + 1));
look.addEventListener("keydown", (event) => {
  if (event.target.type === "range") return;
  if (event.key === "ArrowLeft") open(list, place - 1);
  if (event.key === "ArrowRight") open(list, place + 1);
});

told(async () => {
  task = await api("/api/task");
  const now = await api("/api/compare");
  const choices = (select, chosen) => select.replaceChildren(...now.exports.map((name) => el("option", { value: name, selected: name === chosen }, name)));
  // the page Train asks for the newest export against the one before it; a reload does not ask again
  const isAsked = new URLSearchParams(location.search).has("start") && now.state !== "running" && now.exports.length > 1;
  history.replaceState(null, "", location.pathname);
  choices($("#first"), (isAsked ? null : now.first) ?? now.exports[0]);
  choices($("#second"), (isAsked ? null : now.second) ?? now.exports[1]);
  if (isAsked) return start();
  draw(now);
  if (now.state === "running") await watch();
  return undefined;
})();
