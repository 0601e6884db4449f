// The page: images come in, the worker predicts them, people look, correct and download.

import { $, el, note, plural, swatch } from "./app.js";
import { Canvas } from "./canvas.js";
import { Choice } from "./choice.js";
import { Clock } from "./clock.js";
import { Entry, deliver, saveCorrections, saveMask } from "./entries.js";
import { filesOf } from "./files.js";
import { keysDialog } from "./ui.js";

const NAME = "fastseg-name";
const PENDING = { waiting: "waiting", failed: "cannot be read", done: "" };

const entries = [];
const clock = new Clock();
let settings = null;
let face = null;
let ask = null; // asks the worker
let current = null;

const percent = (share) => `${(100 * share).toFixed(share && share < 0.0995 ? 2 : 1)} %`;

/** Return a function that asks a worker and resolves to its answer. */
function asking(worker) {
  const waiting = new Map();
  let count = 0;
  worker.addEventListener("message", ({ data: { id, found, fault } }) => {
    const { done, failed } = waiting.get(id);
    waiting.delete(id);
    if (fault === undefined) done(found);
    else failed(new Error(fault));
  });
  return (message, moved = []) =>
    new Promise((done, failed) => {
      waiting.set(++count, { done, failed });
      worker.postMessage({ id: count, ...message }, moved);
    });
}

/** Take the text of a data block out of the page. */
function taken(id) {
  const block = document.getElementById(id);
  const { textContent } = block;
  block.remove();
  return textContent;
}

/** Start the page; `worker` is a promise of the worker. */
export async function start(worker) {
  settings = JSON.parse(taken("settings"));
  listen();
  try {
    ask = asking(await worker);
    await ask({ kind: "open", settings: settings.model, wasm: taken("wasm"), model: taken("model-file") });
  } catch (error) {
    $("#state").textContent = `The model cannot be loaded: ${error.message}`;
    throw error;
  }
  const ready = performance.now() / 1000;
  $("#state").textContent = `Model ready (${ready.toFixed(1)} s)`;
  document.documentElement.dataset.ready = ready;
  for (const entry of entries) predict(entry);
}

// Images

function add(files) {
  for (const { file, name } of files) {
    const entry = new Entry(file, name, settings);
    entries.push(entry);
    entry.button = el("button", { type: "button", onclick: () => open(entry) }, el("span", { class: "spin", "aria-hidden": "true" }), el("span", { class: "name" }, name));
    $("#images").append(el("li", {}, entry.button));
    if (document.documentElement.dataset.ready) predict(entry);
  }
  if (!entries.length) return;
  $("#begin").hidden = true;
  $("#work").hidden = false;
  tell();
}

async function predict(entry) {
  try {
    const bytes = await entry.file.arrayBuffer();
    entry.take(await ask({ kind: "image", bytes }, [bytes]));
    if (entry.isTransparent) note(`${entry.name}: is transparent; where it is, the mask may differ from that of fastseg predict`);
  } catch (error) {
    entry.state = "failed";
    note(`${entry.name}: cannot be read: ${error.message}`, true);
  }
  await entry.drawThumbnail();
  tell();
  if (!current && entry.state === "done") await open(entry);
}

async function open(entry) {
  if (entry.state !== "done") return;
  leave();
  current = entry;
  clock.restart();
  const opened = await entry.opened();
  if (current !== entry) return;
  face.open(entry.name, opened);
  if (settings.masks) {
    face.desk.others.set("prediction", { codes: entry.predicted() });
    if (entry.history) face.desk.labels.history = entry.history;
    face.ui.showState();
  }
  $("#about").textContent = `${entry.width} \u00d7 ${entry.height} px, ${entry.seconds.toFixed(2)} s`;
  measure();
  tell();
}

/** Keep what was painted on the current image. */
function leave() {
  if (!current) return;
  current.spent += clock.seconds;
  clock.restart();
  if (settings.masks) current.history = face.desk.labels.history;
  keep();
  current.drawThumbnail();
}

function keep() {
  if (settings.masks) current.keep(face.desk.labels.codes);
  else current.label = face.read().class;
}

// What is shown

/** Fill the table of measures: the area of each class, or its probability. */
function measure() {
  const codes = settings.masks ? face.desk.labels.codes : null;
  const counts = codes ? countsOf(codes, settings.classes.length) : null;
  const rows = settings.classes.map(({ code, name, colour }) => {
    const share = codes ? counts[code] / codes.length : current.shares[code];
    const area = codes ? el("td", { class: "number" }, counts[code].toLocaleString("en")) : null;
    return el("tr", {}, el("th", { scope: "row" }, swatch(colour), ` ${name}`), area, el("td", { class: "number" }, percent(share)));
  });
  $("#measured").replaceChildren(...rows);
}

function countsOf(codes, classes) {
  const counts = new Array(Math.max(256, classes)).fill(0);
  for (const code of codes) counts[code]++;
  return counts;
}

/** Show how far all is: the list of images, and which buttons do something. */
function tell() {
  for (const entry of entries) {
    entry.button.disabled = entry.state !== "done";
    entry.button.setAttribute("aria-current", String(entry === current));
    const mark = entry.isChanged ? "corrected" : entry.isAccepted ? "accepted" : PENDING[entry.state];
    entry.button.dataset.state = mark || "done";
    entry.button.title = mark ? `${entry.name}: ${mark}` : entry.name;
    const badge = $(".badge", entry.button) ?? entry.button.appendChild(el("span", { class: "badge" }));
    badge.hidden = !mark;
    badge.textContent = mark;
  }
  const decided = entries.filter((entry) => entry.isDecided).length;
  const left = entries.filter(({ state }) => state === "waiting").length;
  $("#progress").textContent = left ? `${entries.length - left} of ${plural(entries.length, "image")}` : plural(entries.length, "image");
  $("#save-corrections").disabled = !decided;
  $("#save-corrections").textContent = decided ? `corrections.zip (${decided})` : "corrections.zip";
  for (const button of [$("#save-mask"), $("#accept")].filter(Boolean)) button.disabled = !current;
  $("#accept").setAttribute("aria-pressed", String(Boolean(current?.isAccepted)));
}

function edited() {
  keep();
  measure();
  tell();
}

// What the page listens to

function listen() {
  let showKeys = () => {};
  const keys = [
    ["?", "these keys", () => showKeys()],
    ["a", "the label is right as it is", () => accept()],
    ["n", "next image", () => step(1)],
    ["u", "image before", () => step(-1)],
  ];
  const root = $("#editor");
  face = settings.masks ? new Canvas(root, settings, keys) : new Choice(root, settings, keys);
  face.desk?.set({ canAsk: false });
  root.face = face; // for tests
  showKeys = keysDialog(settings.masks ? face.ui.keys : keys, settings.masks);
  $('[data-do="keys"]').addEventListener("click", () => showKeys());
  face.addEventListener("touched", () => clock.touch());
  face.addEventListener("edited", edited);
  $("#person").value = localStorage.getItem(NAME) ?? "";
  $("#person").addEventListener("change", ({ target }) => localStorage.setItem(NAME, target.value.trim()));
  for (const input of document.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      add([...input.files].map((file) => ({ file, name: file.name })));
      input.value = "";
    });
  }
  listenToDrops();
  $("#accept").addEventListener("click", accept);
  $("#save-mask")?.addEventListener("click", async () => deliver(...(await saveMask(current, settings))));
  $("#save-corrections").addEventListener("click", async () => {
    leave();
    deliver(...(await saveCorrections(entries, settings, $("#person").value.trim())));
    document.documentElement.dataset.saved = "yes";
  });
  addEventListener("beforeunload", (event) => {
    if (entries.some((entry) => entry.isDecided && !entry.isSaved)) event.preventDefault();
  });
}

function listenToDrops() {
  for (const name of ["dragenter", "dragover"]) {
    addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop"]) {
    addEventListener(name, (event) => {
      event.preventDefault();
      if (name === "drop" || !event.relatedTarget) document.body.classList.remove("over");
    });
  }
  addEventListener("drop", async (event) => add(await filesOf(event.dataTransfer)));
}

function accept() {
  if (!current) return;
  current.isAccepted = !current.isAccepted;
  current.isSaved = false;
  clock.touch();
  tell();
}

function step(by) {
  const done = entries.filter(({ state }) => state === "done");
  const next = done[done.indexOf(current) + by];
  if (next) open(next);
}
