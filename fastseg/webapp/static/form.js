// The form of a training, made from the fields that the server names.

import { $, el } from "./app.js";

const ORDER = ["First", "Course", "Network and data", "Augmentation", "Run"];
let names = [];

/** Draw the fields: the first ones at once, the other groups folded. */
export function drawForm(root, fields) {
  names = fields.map((field) => field.name);
  root.replaceChildren(...ORDER.map((group) => {
    const own = el("div", { class: "fields" }, ...fields.filter((field) => field.group === group).map(draw));
    if (group === "First") return own;
    const count = el("span", { class: "set" });
    const made = el("details", { class: "group" }, el("summary", {}, `${group} `, count), own);
    made.addEventListener("input", () => {
      const set = [...made.querySelectorAll("input, select")].filter((input) => input.value).length;
      count.textContent = set ? `(${set} set)` : "";
    });
    return made;
  }));
}

function draw(field) {
  const id = `field-${field.name}`;
  const shared = { id, name: field.name, "aria-describedby": `${id}-help` };
  const usual = /^[\d.]|^(yes|no)$/.test(field.default) || field.kind === "choice" ? field.default : field.default;
  let input;
  if (field.kind === "choice")
    input = el("select", shared, el("option", { value: "" }, `recipe: ${usual}`.replace("recipe: auto", "auto")), ...field.choices
      .filter((choice) => choice !== "auto").map((choice) => el("option", { value: choice }, choice)));
  else if (field.kind === "number")
    input = el("input", { ...shared, type: "number", min: field.min, max: field.max, step: field.step, placeholder: usual, inputmode: field.step === 1 ? "numeric" : "decimal" });
  else input = el("input", { ...shared, type: "text", placeholder: usual, autocomplete: "off", spellcheck: "false", list: field.suggested?.length ? `${id}-list` : null });
  const list = field.suggested?.length ? el("datalist", { id: `${id}-list` }, ...field.suggested.map((value) => el("option", { value }))) : null;
  const example = field.example ? ` Such as ${field.example}.` : "";
  return el("div", { class: "field" },
    el("label", { for: id }, NAMES[field.name] ?? field.label, field.unit ? ` (${field.unit})` : ""),
    input, list, el("small", { id: `${id}-help` }, field.help + example));
}

const NAMES = { bs: "batch size", lr: "learning rate", opt: "optimizer", arch: "backbone", ema: "average of weights" };

/** Return the values that were given, by name. */
export function values() {
  const found = {};
  for (const name of names) {
    const value = $(`#field-${name}`).value.trim();
    if (value) found[name] = value;
  }
  return found;
}

/** Mark a field as wrong, with the reason; without a name, mark none. */
export function markField(name, reason) {
  for (const input of document.querySelectorAll("#fields [aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    input.parentElement.querySelector(".wrong")?.remove();
  }
  const input = name && $(`#field-${name}`);
  if (!input) return;
  input.closest("details")?.setAttribute("open", "");
  input.setAttribute("aria-invalid", "true");
  input.after(el("small", { class: "wrong", role: "alert" }, reason));
  input.focus();
}
