// The page Train: the form, the training that runs, the exports so far.

import { $, api, duration, el, note, plural, repeat, told, watchModel } from "./app.js";
import { lines } from "./chart.js";
import { change, drawExports } from "./exports.js";
import { drawForm, markField, values } from "./form.js";

const WATCH = 1000; // ms between two looks at the training
const NOT_SCORES = new Set(["train_loss", "valid_loss", "lr"]);
let form;
let state = "";
let drawn = ""; // what the charts show
let last = null; // what was drawn
let hasEarlier = false; // whether there is an export to compare the current one with

const OF_EXPORT = ["weights", "arch", "decoder"]; // options that an export brings with it

const TITLES = {
  running: "Training",
  stopping: "Stopping after what it has learnt so far",
  elsewhere: "A training that was started elsewhere",
  interrupted: "An interrupted training waits",
};

function draw(now) {
  last = now;
  const { progress, outcome } = now;
  const isRunning = ["running", "stopping", "elsewhere"].includes(now.state);
  const failed = now.state !== "running" && outcome?.state === "failed";
  const told = isRunning ? null : outcome?.corrections;
  const isDone = !isRunning && outcome?.state === "finished";
  const hasNews = isDone || Boolean(told?.text);
  $("#now").hidden = now.state === "idle" && !failed && !hasNews;
  $("#now-title").textContent = failed ? "The training ended with an error" : TITLES[now.state] ?? "The training is finished";
  $("#now-text").textContent = failed ? outcome.message : text(now, isRunning);
  $("#corrections").replaceChildren(...(hasNews ? news(told, isDone) : []));
  $("#bar").hidden = !isRunning || !progress;
  $("#bar").value = progress?.done ?? 0;
  $("#figures").replaceChildren(...(progress && !failed ? figures(progress, isRunning) : []));
  $("#output").textContent = now.output;
  $("#output").closest("details").hidden = !now.output;
  const buttons = actions(now);
  if (buttons.map((button) => button.textContent).join() !== [...$("#actions").children].map((one) => one.textContent).join())
    $("#actions").replaceChildren(...buttons);
  $("#form").hidden = isRunning;
  $("#start").disabled = isRunning || !form.images || form.fault !== null;
  charts(failed ? null : progress);
}

/** What a training says about earlier corrections, and about the export that it began with. */
function news({ compared, favour, text, came_back: back, not_learned: open, never_trained: apart, ids }, isDone) {
  const list = (title, names) => (names?.length ? el("div", {}, el("b", {}, title), el("ul", {}, ...names.map((name) => el("li", {}, ids?.[name] ? el("a", { href: `/edit/${ids[name]}` }, name) : name)))) : null);
  const links = [["/predict", "Predict with it"], ...(hasEarlier ? [["/compare?start", "Compare with the earlier one"]] : [])];
  return [compared ? verdict(change(compared, form.figure)) : null, favour ? el("p", { class: "warning" }, `${favour}.`) : null, text ? el("p", {}, text) : null, list("Came back", back), list("Not learned yet", open), list("In held-out images, which never train", apart),
    back?.length || open?.length ? el("p", {}, "A correction holds where the model now says at least half of what was corrected. Look at these labels once more; if they are right, train on for more epochs.") : null,
    isDone ? el("p", { class: "row" }, ...links.map(([href, name]) => el("a", { href }, name))) : null].filter(Boolean);
}

/** Say whether the new export is better than the one that it was trained on from. */
function verdict({ kind, isWorse, text }) {
  const hint = isWorse ? " Take the earlier one back in its row below, or look at the images that got worse on the page Compare." : "";
  return el("p", {}, el("b", { class: kind }, kind ? `The new export is ${text}.` : `No clear change: ${text}.`), hint);
}

function text({ state, progress }, isRunning) {
  if (state === "interrupted")
    return `${progress ? `It had begun ${epoch(progress)}. ` : ""}What it learnt is kept, and it can go on from there.`;
  if (isRunning && !progress) return "It looks at the data and loads the network.";
  if (isRunning && progress.done >= 1) return "It judges the held-out images and writes the export.";
  return isRunning ? "You can close this page: the training goes on." : "";
}

/** "epoch 2 of 5", as the form counts them; the epochs of the head alone come before. */
function epoch({ epoch, epochs, head_only: isHead, later_epochs: later }) {
  return isHead ? `epoch ${epoch} of ${epochs} of the head only, before ${plural(later, "epoch")} of the whole network` : `epoch ${epoch} of ${epochs}`;
}

/** The time left in steps that a person cares for, or that it is not known yet. */
function timeLeft({ seconds_left: left }) {
  if (left === null) return "estimating the time left";
  return left < 2 ? "almost trained" : `about ${duration(left > 20 ? 5 * Math.round(left / 5) : left)} of training left`;
}

function figures(progress, isRunning) {
  const last = progress.history.at(-1) ?? {};
  const scores = Object.entries(last).filter(([name]) => !NOT_SCORES.has(name));
  return [
    progress.fold > 1 || $("#field-folds")?.value > 1 ? `learner ${progress.fold}` : null,
    epoch(progress),
    isRunning && progress.done < 1 ? timeLeft(progress) : null,
    progress.loss !== null && isRunning ? `loss ${progress.loss.toFixed(3)}` : null,
    ...scores.map(([name, value]) => (value === null ? null : `${name.replaceAll("_", " ")} ${value.toFixed(3)}`)),
  ].filter(Boolean).map((one) => el("span", {}, one));
}

function actions({ state, progress }) {
  const keeps = progress?.history.length ? "Stop, and keep what it learnt" : "Stop";
  if (state === "running" || state === "elsewhere")
    return [el("button", { type: "button", id: "stop", onclick: told(stop) }, keeps)];
  if (state === "interrupted")
    return [
      el("button", { type: "button", class: "main", id: "resume", onclick: told(() => begin({ resume: true })) }, "Resume"),
      el("button", { type: "button", id: "discard", onclick: told(discard) }, "Discard it, and start a new one"),
    ];
  return [];
}

function charts(progress) {
  const rows = progress?.history ?? [];
  const head = progress?.head_epochs ?? 0;
  const last = progress && head + (progress.head_only ? progress.later_epochs : progress.epochs);
  const what = JSON.stringify([rows, last]);
  if (what === drawn) return;
  drawn = what;
  const column = (name) => rows.map((row) => row[name] ?? null);
  const scores = Object.keys(rows.at(-1) ?? {}).filter((name) => !NOT_SCORES.has(name)).slice(0, 4);
  $("#charts").replaceChildren(...(rows.length ? [
    lines("Loss", [{ name: "training", values: column("train_loss"), kind: 1 }, { name: "held out", values: column("valid_loss"), kind: 2 }], last, { head }),
    lines("Scores on held-out images", scores.map((name, place) => ({ name: name.replaceAll("_", " "), values: column(name), kind: place + 1 })), last, { to: 1, head }),
  ] : []));
}

async function begin(what) {
  markField();
  $("#notes").replaceChildren();
  try {
    draw(await api("/api/train/start", what));
  } catch (error) {
    if (error.details?.field) return markField(error.details.field, error.message);
    if (error.code === "interrupted-fit") note("An interrupted training waits: resume it or discard it, above.", true);
    else throw error;
  }
  return watch();
}

/** What the form asks for. */
function asked() {
  const isAgain = $('#how [value="again"]').checked;
  const options = values();
  if (!isAgain) return { options };
  for (const name of OF_EXPORT) delete options[name];
  return { options, again: $("#from").value, strict: $("#strict").checked };
}

/** How many images train, are held out and wait: "44 images to train, 12 held out; 12 wait for a label". */
function counts(parts) {
  const { train = 0, valid = 0, test = 0, apart = 0, unlabelled = 0 } = parts;
  const others = [[valid, "held out"], [test, "for the test"], [apart, "set apart"]].filter(([count]) => count);
  const waits = unlabelled ? `; ${unlabelled.toLocaleString("en")} ${unlabelled === 1 ? "waits" : "wait"} for a label` : "";
  return [`${plural(train, "image")} to train`, ...others.map(([count, what]) => `${count.toLocaleString("en")} ${what}`)].join(", ") + waits;
}

/** Say beside the button why nothing can be trained. */
function drawReason() {
  const reason = form.fault ?? (form.images ? "" : "There are no images.");
  const canLabel = reason && form.parts.unlabelled && document.querySelector('nav a[href="/review"]');
  $("#fault").hidden = !reason;
  $("#fault").replaceChildren(reason, ...(canLabel ? [" ", el("a", { href: "/review" }, `${plural(form.parts.unlabelled, "image")} without a label: label them in Review`)] : []));
}

function drawHow() {
  const isAgain = $('#how [value="again"]').checked;
  $("#from-label").hidden = !isAgain;
  $("#strict-label").hidden = !isAgain || !form.changed;
  for (const name of OF_EXPORT) {
    const field = $(`#field-${name}`);
    if (field) field.closest(".field").hidden = isAgain;
  }
  const size = $("#field-size");
  const recipe = form.fields.find(({ name }) => name === "size")?.default;
  if (size) size.placeholder = (isAgain && form.sizes[$("#from").value]) || recipe;
}

const discard = () => confirm("Discard what the interrupted training learnt?") && begin({ discard: true, ...asked() });

async function stop() {
  draw(await api("/api/train/stop", {}));
}

let watching = false;
async function watch() {
  if (watching) return;
  watching = true;
  await repeat(async () => {
    const now = await api("/api/train");
    draw(now);
    const ended = ["running", "stopping", "elsewhere"].includes(state) && ["idle", "interrupted"].includes(now.state);
    state = now.state;
    if (ended) {
      if (now.outcome?.state === "finished" || now.state === "idle") await history();
      if (now.outcome?.state === "finished") {
        note("The training is finished; the export is ready.");
        watchModel();
      }
      if (now.state === "interrupted") $("#resume")?.focus();
    }
    return !["idle", "interrupted"].includes(state);
  }, WATCH);
  watching = false;
}

// The result of the last training is of an export that is no longer the current one.
document.addEventListener("restored", () => last && draw({ ...last, outcome: null }));

async function history() {
  await repeat(async () => {
    const found = await api("/api/train/exports");
    drawExports(found);
    hasEarlier = found.exports.length > 1;
    if (last) draw(last);
    return found.exports.some((one) => one.is_waiting);
  }, 3000);
}

$("#form").addEventListener("submit", (event) => {
  event.preventDefault();
  told(() => begin(asked()))();
});

told(async () => {
  form = await api("/api/train/form");
  drawForm($("#fields"), form.fields);
  drawReason();
  $("#form-title").textContent = form.images ? `A new training: ${counts(form.parts)}` : "A new training";
  $("#how").hidden = !form.exports.length;
  $("#how-text").textContent = form.corrections ? `With ${plural(form.corrections, "correction")} and what is new.` : "With labels that are new or corrected.";
  $("#from").replaceChildren(...form.exports.map((name) => el("option", { value: name, selected: name === form.current }, name === form.current ? `${name} (current)` : name)));
  $('#how [value="again"]').checked = form.exports.length > 0 && form.changed > 0;
  drawHow();
  told(history)();
  await watch();
})();

$("#how").addEventListener("change", drawHow);
