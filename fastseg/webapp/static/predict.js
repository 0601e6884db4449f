// The page Predict: images go to the server one by one, and their masks appear one by one.

import { $, AppError, api, el, note, plural, swatch, told } from "./app.js";
import { filesOf } from "./files.js";
import { drawCodes, readCodes } from "./layers.js";

const AT_A_TIME = 2; // one is predicted while the next one is sent
const { compare: byName } = new Intl.Collator(undefined, { numeric: true });
const BATCHES = "fastseg-batches";
const results = $("#results");
const look = $("#look");
const hidden = new Set(); // classes
const done = []; // results in the order of their tiles: {name, number, ..., batch, tile, codes}
let task, limits;
let batch = null;
let place = 0;
let left = 0, total = 0;

const address = (one, kind, size) => `/api/predict/${one.batch}/${one.number}/${kind}?size=${size}`;
const isShown = (code) => code !== task.background && !hidden.has(code);
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

async function predict(files) {
  await ready; // files can be chosen before the page knows its limits
  const images = files.filter(({ file }) => file.type.startsWith("image/") || /\.(tiff?|bmp|webp|jpe?g|png|gif)$/i.test(file.name));
  images.sort((one, other) => byName(one.name, other.name));
  if (!images.length) return note("There is no image among these files.", true);
  const chosen = $("#export").value;
  if (!batch || batch.export !== chosen) {
    const made = await api("/api/predict/new", { export: chosen });
    setBatch(made);
    sessionStorage.setItem(BATCHES, JSON.stringify([...batches(), made.batch]));
  }
  const { id } = batch;
  const waiting = images.map(({ file, name }) => ({ file, name, tile: waitingTile(name) }));
  total += waiting.length;
  left += waiting.length;
  say();
  const work = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      await one(id, next);
      left--;
      say();
    }
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, work));
}

function setBatch({ batch: id, export: name }) {
  batch = { id, export: name };
  $("#zip").href = `/api/predict/${id}/zip`;
}

/** Return the batches of this tab, oldest first: a page that is loaded again shows their results. */
function batches() {
  return JSON.parse(sessionStorage.getItem(BATCHES) ?? "[]");
}

function waitingTile(name) {
  const tile = el("li", {}, el("div", { class: "result" }, el("span", { class: "pile" }, el("span", { class: "spin", "aria-hidden": "true" })), el("span", { class: "name" }, name)));
  results.append(tile);
  return tile;
}

/** Show again what the server still has of this tab's batches. */
async function recover() {
  const known = [];
  for (const id of batches()) {
    const found = await api(`/api/predict/${id}/results`).catch((error) => {
      if (!(error instanceof AppError)) throw error; // deleted, or the server was started again
    });
    if (!found) continue;
    known.push(id);
    setBatch(found);
    total += found.results.length;
    found.results.sort((one, other) => byName(one.name, other.name));
    const tiles = found.results.map((result) => [result, waitingTile(result.name)]);
    told(() => Promise.all(tiles.map(([result, tile]) => show(id, result, tile))))().then(say);
  }
  sessionStorage.setItem(BATCHES, JSON.stringify(known));
  if (batch) $("#export").value = batch.export;
  say();
}

async function one(id, { file, name, tile }) {
  try {
    if (file.size > limits.most_bytes) throw new AppError("too-large", `${name}: is larger than ${limits.most_bytes / 2 ** 20} MiB`);
    const found = await api(`/api/predict/${id}/images?name=${encodeURIComponent(name)}`, file);
    await show(id, found, tile);
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    tile.classList.add("to-review");
    tile.replaceChildren(el("p", { class: "failed" }, error.message));
  }
}

async function show(id, found, tile) {
  const result = { ...found, batch: id, tile };
  done.push(result);
  done.sort((a, b) => (a.tile.compareDocumentPosition(b.tile) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1));
  tile.classList.toggle("to-review", result.needs_review);
  tile.replaceChildren(await shown(result), correction(result) ?? "");
  $("#tools").hidden = false;
}

async function shown(result) {
  const pile = el("span", { class: "pile" }, el("img", { src: address(result, "image", "small"), alt: "", loading: "lazy" }));
  if (task.has_masks) {
    result.codes = await readCodes(address(result, "codes", "small"));
    result.canvas = el("canvas", { "aria-hidden": "true" });
    drawCodes(result.canvas, result.codes, task.classes, isShown);
    result.unsure = el("img", { alt: "", hidden: true });
    pile.append(result.canvas, result.unsure);
    doubt(result);
  }
  if (result.needs_review) pile.append(el("span", { class: "badge bad" }, "review"));
  const label = result.label ? `${result.label} (${percent(Math.max(...result.shares))}) ` : "";
  return el("button", { type: "button", class: "result", title: result.name, onclick: told(() => open(done.indexOf(result))) },
    pile, el("span", { class: "name" }, label ? el("b", {}, label) : null, result.name));
}

/** Return what corrects a result: a button that adds its image, and then a link to the editor. */
function correction(result) {
  if (limits.why_no_adding) return null;
  if (result.entry) return el("a", { class: "button correct", href: `/edit/${result.entry.id}`, target: "_blank", title: `${result.entry.name}, in a new tab` }, result.entry.has_label ? "In the data: edit its label" : "Added: correct it");
  return el("button", { type: "button", class: "correct", title: "Copy the image into the data, and open it in the editor, in a new tab", onclick: told(async () => {
    await added(result);
    window.open(`/edit/${result.entry.id}`, "_blank");
  }) }, "Add and correct");
}

/** Copy a result's image into the data folder. */
async function added(result) {
  if (result.entry) return;
  result.entry = await api(`/api/predict/${result.batch}/correct`, { number: result.number, name: result.name });
  $(".correct", result.tile)?.replaceWith(correction(result));
  if (look.open && done[place] === result) $("#look-correct").replaceChildren(correction(result));
  say();
}

const toCorrect = () => done.filter((one) => one.needs_review && !one.entry && !one.refused);

/** Copy all images that need review into the data folder, and lead to the page Review. */
async function addAll() {
  $("#correct-all").disabled = true;
  let count = 0;
  try {
    for (const result of toCorrect()) {
      try {
        await added(result);
        count++;
      } catch (error) {
        if (!(error instanceof AppError)) throw error;
        result.refused = true;
        note(error.message, true);
      }
    }
  } finally {
    $("#correct-all").disabled = false;
    say();
  }
  if (count) note(`${plural(count, "image")} added to the data. `).append(el("a", { href: "/review", target: "_blank" }, "Correct them"));
}

function doubt(result) {
  const isAsked = $("#doubt")?.checked;
  if (isAsked && !result.unsure.src) result.unsure.src = address(result, "uncertainty", "small");
  result.unsure.hidden = !isAsked;
  result.canvas.hidden = isAsked;
}

function say() {
  const count = done.filter((one) => one.needs_review).length;
  $("#progress").textContent = left ? `${total - left} of ${plural(total, "image")} done` : total ? `${plural(done.length, "image")} done${count ? `; ${count} to review` : ""}.` : "";
  const waiting = limits.why_no_adding ? 0 : toCorrect().length;
  $("#correct-all").hidden = !waiting;
  $("#correct-all").textContent = `Add the ${plural(waiting, "image")} to review to the data`;
  $("#zip").classList.toggle("main", left === 0);
}

async function open(index) {
  const result = done[index];
  if (!result) return;
  place = index;
  $("#look-name").textContent = result.name;
  $("#before").disabled = index === 0;
  $("#after").disabled = index === done.length - 1;
  $("#picture").src = address(result, "image", "large");
  $("#picture").alt = result.name;
  $("#facts").replaceChildren(facts(result));
  $("#look-correct").replaceChildren(correction(result) ?? "");
  if (!look.open) look.showModal();
  if (!task.has_masks) return;
  const codes = await readCodes(address(result, "codes", "large"));
  if (place !== index) return;
  look.codes = codes;
  $("#unsure").src = address(result, "uncertainty", "large");
  redraw();
}

function redraw() {
  if (!task.has_masks) return;
  const isAsked = $("#doubt").checked;
  $("#unsure").hidden = !isAsked;
  $("#mask").hidden = isAsked;
  if (look.codes) drawCodes($("#mask"), look.codes, task.classes, isShown);
  slide();
}

/** Show the mask left of the slider: nothing of it at "image", and all of it at "mask". */
function slide() {
  const { width, height } = $("#stage").getBoundingClientRect();
  const ratio = done[place] ? done[place].width / done[place].height : 1;
  const wide = Math.min(width, height * ratio);
  const right = width - (width - wide) / 2 - (wide * $("#slide").value) / 100;
  for (const layer of [$("#mask"), $("#unsure")]) layer.style.clipPath = `inset(0 ${right}px 0 0)`;
}

function facts(result) {
  const list = el("ul", { class: "shares" }, ...result.shares.map((share, code) =>
    share > 0 ? el("li", {}, task.has_masks ? swatch(task.classes[code].colour) : null, `${task.classes[code].name} ${percent(share)}`) : null).filter(Boolean));
  const expected = `Expected error ${percent(result.expected_error)}, mean confidence ${percent(result.confidence)}; ${result.width} x ${result.height} px.`;
  return el("div", {}, list, el("p", {}, expected, result.needs_review ? " A person should look at it." : ""));
}

function drawClasses() {
  $("#classes").replaceChildren(...task.classes.map(({ name, colour }, code) => {
    if (code === task.background || !task.has_masks) return null;
    const box = el("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(code);
      else hidden.add(code);
      for (const one of done) drawCodes(one.canvas, one.codes, task.classes, isShown);
      redraw();
    });
    return el("label", {}, box, swatch(colour), name);
  }).filter(Boolean));
}

const drop = $("#drop");
for (const name of ["dragenter", "dragover"]) addEventListener(name, (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
for (const name of ["dragleave", "drop"]) addEventListener(name, (event) => {
  event.preventDefault();
  if (name === "drop" || !event.relatedTarget) drop.classList.remove("over");
});
addEventListener("drop", told(async (event) => predict(await filesOf(event.dataTransfer))));
for (const input of [$("#files"), $("#folder")]) input.addEventListener("change", told(async () => {
  const files = [...input.files].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
  input.value = "";
  await predict(files);
}));
$("#opacity")?.addEventListener("input", (event) => document.documentElement.style.setProperty("--opacity", event.target.value / 100));
$("#doubt")?.addEventListener("change", () => {
  done.forEach(doubt);
  redraw();
});
$("#correct-all").addEventListener("click", told(addAll));
$("#review").addEventListener("change", (event) => results.classList.toggle("review", event.target.checked));
$("#slide")?.addEventListener("input", slide);
addEventListener("resize", () => look.open && task.has_masks && slide());
$("#close").addEventListener("click", () => look.close());
look.addEventListener("close", () => $("button", done[place].tile)?.focus());
$("#before").addEventListener("click", told(() => open(place - 1)));
$("#after").addEventListener("click", told(() => open(place + 1)));
look.addEventListener("keydown", (event) => {
  if (event.target.type === "range") return;
  if (event.key === "ArrowLeft") told(open)(place - 1);
  if (event.key === "ArrowRight") told(open)(place + 1);
});

async function setUp() {
  [task, limits] = await Promise.all([api("/api/task"), api("/api/predict")]);
  drawClasses();
  $("#export").replaceChildren(...limits.exports.map((name) => el("option", { value: name, selected: name === limits.current }, name)));
  $("#why-no-adding").hidden = !limits.why_no_adding;
  $("#why-no-adding").textContent = limits.why_no_adding ?? "";
  $("#export-label").hidden = limits.exports.length < 2;
  if (limits.exports.length) return recover();
  drop.hidden = true;
  $("#fault").hidden = false;
  $("#fault").replaceChildren("There is no export yet. ", el("a", { href: "/train" }, "Train one"), " first.");
}

const ready = setUp();
told(() => ready)();
