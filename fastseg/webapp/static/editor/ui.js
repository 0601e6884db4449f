// The controls around the image: they change the desk, and show what it tells.

import { $, el, swatch } from "../app.js";
import { NO_MODEL, SIZES } from "./desk.js";
import { CURSOR_KEYS, canvasKeys, isTyping, listenToCursor, nameOf } from "./keys.js";
import { listen } from "./pointer.js";

const MISSING = { prediction: "No export predicts this image", previous: "There is no earlier version of this label" }; // why these are disabled

const QUIET = 400; // ms without movement after which the cursor's place is told

const percent = (share) => `${Math.round(share * 100)} %`;
// The slider of sizes: fine for small brushes, coarse for large ones
const sizeOf = (place) => Math.round(SIZES[0] * (SIZES[1] / SIZES[0]) ** (place / 100));
const placeOf = (size) => 100 * (Math.log(size / SIZES[0]) / Math.log(SIZES[1] / SIZES[0]));

export class Ui {
  /** `extra` are the page's own keys, rows as in `canvasKeys`. */
  constructor(root, desk, classes, extra) {
    Object.assign(this, { root, desk, classes });
    this.keys = [...canvasKeys(desk, this), ...extra];
    this.#controls();
    this.#events();
    this.#chooseClass();
    this.showSettings();
    this.showState();
    listen($("#marks", root), desk);
    listenToCursor($("#marks", root), desk);
    listenToKeys(this.keys, (digit) => this.classByDigit(digit));
  }

  #on(selector, kind, work) {
    for (const found of this.root.querySelectorAll(selector)) {
      found.addEventListener(kind, (event) => work(found, event));
    }
  }

  #controls() {
    const { desk } = this;
    this.#on("[data-tool]", "click", (button) => desk.setTool(button.dataset.tool));
    this.#on("[data-show]", "click", (button) => {
      const { show } = button.dataset;
      desk.show(desk.shown === show ? "labels" : show);
    });
    this.#on("#size", "input", (input) => desk.set({ size: sizeOf(Number(input.value)) }));
    this.#on("#tolerance", "input", (input) => desk.set({ tolerance: Number(input.value) }));
    this.#on("#opacity", "input", (input) => desk.set({ opacity: Number(input.value) / 100 }));
    this.#on("#snap", "change", (input) => desk.set({ snap: input.checked }));
    this.#on("#pressure", "change", (input) => desk.set({ byPressure: input.checked }));
    const doings = {
      undo: () => desk.undo(),
      redo: () => desk.redo(),
      "zoom-in": () => desk.view.zoom(1.5),
      "zoom-out": () => desk.view.zoom(1 / 1.5),
      fit: () => desk.view.fit(),
      take: () => desk.take(desk.shown),
      "accept-proposal": () => desk.accept(),
      "reject-proposal": () => desk.reject(),
      "polygon-fill": () => desk.tool.finish?.(false),
      "polygon-clear": () => desk.tool.finish?.(true),
      "polygon-ring": () => desk.tool.next?.(),
      "polygon-back": () => desk.tool.back?.(),
    };
    for (const [name, work] of Object.entries(doings)) {
      this.#on(`[data-do="${name}"]`, "click", () => {
        if (!desk.isReady) return;
        work();
        $("#marks", this.root).focus({ preventScroll: true });
      });
    }
  }

  #events() {
    const { desk } = this;
    desk.addEventListener("setting", () => this.showSettings());
    desk.addEventListener("state", () => this.showState());
    desk.addEventListener("cursor", () => this.#showPlace());
    desk.addEventListener("say", ({ detail }) => {
      clearTimeout(this.telling); // the place would be read over what was done
      $("#told", this.root).textContent = detail;
    });
    desk.view.onDraw = () => {
      $("#zoom", this.root).textContent = percent(desk.view.scale / desk.view.ratio);
      const { tool } = desk;
      $("#shape", this.root).hidden = tool.name !== "polygon" || tool.isEmpty;
    };
  }

  #chooseClass() {
    const { desk } = this;
    const group = $("#classes", this.root);
    group.replaceChildren(
      ...this.classes.map(({ code, name, hex, key }) => {
        const input = el("input", { type: "radio", name: "class", value: code });
        input.addEventListener("change", () => desk.setClass(code));
        const hint = key === null ? null : el("kbd", {}, String(key));
        return el("label", { class: "class" }, input, swatch(hex), el("span", {}, name), hint);
      }),
    );
  }

  classByDigit(digit) {
    const found = this.classes.find(({ key }) => key === digit);
    if (found) this.desk.setClass(found.code);
  }

  stepClass(by) {
    const at = this.classes.findIndex(({ code }) => code === this.desk.code);
    const count = this.classes.length;
    this.desk.setClass(this.classes[(at + by + count) % count].code);
  }

  hide(isHidden) {
    const { view } = this.desk;
    if (isHidden) this.before ??= view.opacity;
    view.opacity = isHidden ? 0 : (this.before ?? view.opacity);
    if (!isHidden) this.before = null;
    view.redraw();
  }

  showSettings() {
    const { desk, root } = this;
    for (const button of root.querySelectorAll("[data-tool]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === desk.tool.name));
      const { tool } = button.dataset;
      button.disabled = (tool === "eraser" && !desk.canClear) || (tool === "help" && !desk.canAsk);
      if (tool === "eraser") button.title = desk.canClear ? "Eraser (E)" : "Eraser: this task has no background to erase to";
      if (tool === "help") button.title = desk.canAsk ? "Ask model (M)" : `Ask model: ${NO_MODEL}`;
    }
    for (const label of root.querySelectorAll("[data-for]")) {
      label.hidden = !label.dataset.for.split(" ").includes(desk.tool.name);
    }
    for (const input of root.querySelectorAll("#classes input")) {
      input.checked = Number(input.value) === desk.code && desk.tool.name !== "eraser";
    }
    const texts = {
      size: [placeOf(desk.size), `${desk.size} px`],
      tolerance: [desk.tolerance, String(desk.tolerance)],
      opacity: [desk.view.opacity * 100, percent(desk.view.opacity)],
    };
    for (const [name, [value, text]] of Object.entries(texts)) {
      $(`#${name}`, root).value = value;
      $(`#${name}`, root).setAttribute("aria-valuetext", text);
      $(`#${name}-text`, root).textContent = text;
    }
    $("#snap", root).checked = desk.snap;
    $("#pressure", root).checked = desk.byPressure;
    $("#marks", root).dataset.using = desk.tool.name;
  }

  showState() {
    const { desk, root } = this;
    const history = desk.labels?.history;
    $('[data-do="undo"]', root).disabled = !history?.done.length;
    $('[data-do="redo"]', root).disabled = !history?.undone.length;
    for (const button of root.querySelectorAll("[data-show]")) {
      button.disabled = !desk.others.has(button.dataset.show);
      button.title = button.disabled ? MISSING[button.dataset.show] : "";
      button.setAttribute("aria-pressed", String(desk.shown === button.dataset.show));
    }
    const shown = $("#shown", root);
    shown.hidden = desk.shown === "labels";
    shown.textContent = desk.shown === "previous" ? "before" : desk.shown;
    $('[data-do="take"]', root).hidden = desk.shown === "labels";
    $("#proposal", root).hidden = !desk.proposal;
    if (desk.proposal) {
      const names = desk.proposal.parts.map(({ code }) => desk.classOf(code).name);
      $("#proposal-text", root).textContent = names.join(", ");
    }
  }

  #showPlace() {
    const { desk, root } = this;
    $("#place", root).textContent = desk.cursor ? desk.describePlace() : "";
    clearTimeout(this.telling);
    if (desk.hasKeyCursor) this.telling = setTimeout(() => desk.say(desk.describePlace()), QUIET);
  }
}

/** Obey keys anywhere on the page, unless they belong to what has the focus. */
export function listenToKeys(keys, digit) {
  const found = new Map(keys.map((row) => [row[0], row]));
  const everywhere = () => localStorage.getItem("fastseg-keys") !== "image";
  const held = new Set();
  window.addEventListener("keydown", (event) => {
    if (event.altKey || event.defaultPrevented || isTyping(event)) return;
    const name = nameOf(event);
    const isFree = name.startsWith("Ctrl+") || everywhere() || event.target.id === "marks";
    if (!isFree) return;
    if (/^[0-9]$/.test(name)) return digit(Number(name));
    const row = found.get(name);
    if (!row) return;
    event.preventDefault();
    if (row[3]) {
      if (held.has(name)) return;
      held.add(name);
      row[2](true);
    } else {
      row[2]();
    }
  });
  const release = (name) => {
    if (held.delete(name)) found.get(name)[2](false);
  };
  window.addEventListener("keyup", (event) => release(nameOf(event).replace("Ctrl+", "")));
  window.addEventListener("blur", () => [...held].forEach(release));
}

/** Fill the help dialog, and return a function that opens it. */
export function keysDialog(keys, hasImage) {
  const dialog = $("#keys");
  const rows = [...keys, ...(hasImage ? CURSOR_KEYS : []), ["0-9", "choose a class"]];
  $("#keys-list").replaceChildren(
    ...rows.map(([key, what]) =>
      el("p", {}, el("kbd", {}, key.length === 1 ? key.toUpperCase() : key.replace("+z", "+Z").replace("+y", "+Y")), el("span", {}, what)),
    ),
  );
  const single = $("#single");
  single.checked = localStorage.getItem("fastseg-keys") !== "image";
  single.addEventListener("change", () => {
    localStorage.setItem("fastseg-keys", single.checked ? "everywhere" : "image");
  });
  return () => dialog.showModal();
}
