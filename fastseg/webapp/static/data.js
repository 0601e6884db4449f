// The page Data: a grid of images with filters, and one image at a time.

import { $, api, el, plural, repeat, swatch, told } from "./app.js";
import { Grid } from "./grid.js";

const PART = { train: "training", valid: "held out", test: "test", apart: "set apart", unlabelled: "unlabelled", audit: "drawn for the audit", predicted: "not drawn" };
const filters = $("#filters");
const look = $("#look");
let task;
let part = "";
let place = 0; // of the image that is looked at

const grid = new Grid($("#grid"), { address, draw: tile, width: 160, height: 190 });

function address(from, count) {
  const asked = new URLSearchParams({ from, count, part });
  for (const [name, value] of new FormData(filters)) if (value) asked.set(name, value);
  return `/api/data/images?${asked}`;
}

const thumbnail = (id) => `/api/images/${id}/thumbnail?labels=${$("#labels")?.checked ? 1 : 0}`;

function tile(image, index) {
  const badges = el("span", { class: "badges" });
  if (!part && !["train", "predicted"].includes(image.part)) badges.append(el("span", { class: "badge part" }, PART[image.part]));
  if (image.faults) badges.append(el("span", { class: "badge bad" }, image.faults.length === 1 ? image.faults[0].kind : plural(image.faults.length, "fault")));
  if (image.suspect) badges.append(el("span", { class: "badge bad" }, "label?"));
  return el("button", { type: "button", class: "tile", title: image.name, onclick: told(() => open(index)) },
    el("span", { class: "frame" }, el("img", { src: thumbnail(image.id), alt: "", loading: "lazy", decoding: "async" }), badges),
    el("span", { class: "name" }, image.name.split("/").pop()));
}

async function open(index) {
  const image = await grid.fetch(index);
  if (!image) return;
  place = index;
  $("#look-name").textContent = image.name;
  $("#before").disabled = index === 0;
  $("#after").disabled = index >= grid.total - 1;
  $("#picture").src = `/api/images/${image.id}/picture`;
  $("#picture").alt = image.name;
  const mask = $("#mask");
  mask.hidden = !task.has_masks;
  if (task.has_masks) mask.src = `/api/images/${image.id}/overlay`;
  if (!look.open) look.showModal();
  const known = await api(`/api/images/${image.id}`);
  if (place !== index) return;
  $("#facts").replaceChildren(...facts(known));
}

function facts(image) {
  const shown = [el("p", {}, el("span", { class: "badge" }, PART[image.part]), image.group ? ` group ${image.group}` : "")];
  if (image.label) shown.push(el("p", {}, el("b", {}, image.label)));
  if (task.has_masks && image.classes?.length)
    shown.push(el("ul", { class: "legend", "aria-label": "Classes in its label" }, ...image.classes
      .filter((code) => code !== task.background)
      .map((code) => el("li", { class: "row" }, swatch(task.classes[code].colour), task.classes[code].name))));
  if (!image.has_label) shown.push(el("p", {}, "It has no label yet."));
  if (image.suspect)
    shown.push(el("h3", {}, "Its label may be wrong"), el("p", {}, `Labelled ${image.suspect.labelled}, looks like ${image.suspect.predicted}.`));
  if (image.faults)
    shown.push(el("h3", {}, plural(image.faults.length, "fault")), el("ul", {}, ...image.faults.map((fault) =>
      el("li", {}, el("b", {}, fault.kind), `: ${fault.text}`, fault.stops ? " (a training refuses it)" : ""))));
  if (document.querySelector('nav a[href="/review"]'))
    shown.push(el("p", {}, el("a", { class: "button", href: `/edit/${image.id}`, onclick: () => keep(place) }, "Edit the label")));
  return shown;
}

function options(select, values, first) {
  const before = select.value;
  select.replaceChildren(el("option", { value: "" }, first), ...values.map(([value, text]) => el("option", { value }, text)));
  select.value = before;
}

async function summarise() {
  const found = await api("/api/data");
  const { check } = found;
  const faulty = Object.values(check.kinds).reduce((sum, count) => sum + count, 0);
  const checked = check.state === "checking" ? "; checking them" : check.state === "failed" ? `; the check failed: ${check.error}`
    : faulty ? `; ${plural(faulty, "file")} with faults${check.stops ? ", some of which a training refuses" : ""}` : "; no faults found";
  const { audit } = found;
  $("#audit").hidden = !audit;
  if (audit) {
    const rest = audit.done < audit.total ? ["Look at the drawn ones on the page ", el("a", { href: "/review" }, "Review"), "."] : ["The audit is complete: see the page ", el("a", { href: "/review" }, "Review"), "."];
    $("#audit").replaceChildren(el("b", {}, `Audit of labels that export ${audit.export} made: ${audit.done} of ${audit.total} drawn images are looked at. `), ...rest);
  }
  $("#summary").textContent = found.images ? `${plural(found.images, "image")} in ${found.folder}${checked}.` : "";
  $("#fault").hidden = !found.fault;
  $("#fault").textContent = found.fault ?? "";
  filters.hidden = !found.images;
  drawParts(found);
  const classes = $("#class");
  classes.disabled = !found.classes;
  options(classes, (found.classes ?? []).map((count, code) => [code, `${task.classes[code].name} (${count})`]), found.classes ? "any" : "being counted");
  const kinds = Object.entries(check.kinds);
  options($("#kind"), [...(kinds.length ? [["any", `any fault (${faulty})`]] : []), ...kinds.map(([kind, count]) => [kind, `${kind} (${count})`])], "any or none");
  $("#suspects").hidden = !found.suspects;
  const others = $("#others");
  others.hidden = !check.general.length;
  const isFault = (one) => one.kind !== "unlabelled image"; // folders of images that wait for a label
  const count = check.general.filter(isFault).length;
  $("summary", others).textContent = count ? plural(count, "fault of no single image", "faults of no single image") : "Images without a label";
  $("ul", others).replaceChildren(...check.general.map((fault) => el("li", {}, el("b", {}, fault.kind), ` ${fault.file}: ${fault.text}`)));
  return check.state;
}

function drawParts(found) {
  const all = [["", "all", found.images], ...Object.entries(found.parts).map(([name, count]) => [name, PART[name], count])];
  $("#parts").replaceChildren(...all.map(([name, title, count]) =>
    el("button", { type: "button", "aria-pressed": String(part === name), onclick: told(async () => {
      part = name;
      drawParts(found);
      $(`#parts [aria-pressed="true"]`).focus();
      await reload();
    }) }, title, el("span", { class: "quiet number" }, count.toLocaleString("en")))));
}

const KEPT = "fastseg-data"; // what was looked at: the editor leads back to it

/** Keep the filters and the image in the dialog; null: none. */
function keep(image) {
  sessionStorage.setItem(KEPT, JSON.stringify({ part, filters: Object.fromEntries(new FormData(filters)), image }));
}

/** Return to the filters and the image from which the editor was opened. Returns its place, or null. */
function returned() {
  const isBack = performance.getEntriesByType("navigation")[0]?.type === "back_forward";
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
  if (!kept || !(isBack || new URL(document.referrer || location.href).pathname.startsWith("/edit/"))) return null;
  part = kept.part;
  for (const [name, value] of Object.entries(kept.filters)) {
    const input = filters.elements[name];
    if (input?.type === "checkbox") input.checked = true;
    else if (input) input.value = value;
  }
  return kept.image;
}

async function reload() {
  await grid.reload();
  $("#empty").hidden = grid.total > 0 || filters.hidden;
  $("#empty").textContent = "No image matches. Choose fewer filters.";
}

filters.addEventListener("submit", (event) => event.preventDefault());
let typing;
filters.addEventListener("input", (event) => {
  if (event.target.id === "labels") return;
  clearTimeout(typing);
  typing = setTimeout(told(reload), event.target.type === "search" ? 250 : 0);
});
$("#labels")?.addEventListener("change", told(reload));
$("#opacity")?.addEventListener("input", (event) => document.documentElement.style.setProperty("--opacity", event.target.value / 100));
$("#close").addEventListener("click", () => look.close());
look.addEventListener("close", () => grid.focus(place));
look.addEventListener("click", (event) => event.target === look && look.close());
const step = (by) => told(() => open(place + by))();
$("#before").addEventListener("click", () => step(-1));
$("#after").addEventListener("click", () => step(1));
look.addEventListener("keydown", (event) => {
  if (event.target.type === "range") return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});

told(async () => {
  task = await api("/api/task");
  let state = await summarise();
  const from = returned();
  if (from !== null) drawParts(await api("/api/data"));
  await reload();
  if (from !== null && from < grid.total) await open(from);
  await repeat(async () => {
    if (state !== "checking") return false;
    state = await summarise();
    if (state !== "checking") await reload(); // now with the faults
    return true;
  }, 1000);
})();
