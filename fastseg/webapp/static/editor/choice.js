// The face of a task without masks: the photograph, and one class to choose by key.

import { $, el, swatch } from "../app.js";
import * as server from "./server.js";
import { listenToKeys } from "./ui.js";

export class Choice extends EventTarget {
  constructor(root, { classes }, keys = []) {
    super();
    this.root = root;
    this.classes = classes;
    this.chosen = null;
    // There is no background: the keys are 1 for the first class, 2 for the second one
    $("#classes", root).replaceChildren(
      ...classes.map(({ code, name, colour }) => {
        const input = el("input", { type: "radio", name: "class", value: code });
        input.addEventListener("change", () => this.choose(code));
        const hint = code < 9 ? el("kbd", {}, String(code + 1)) : null;
        return el("label", { class: "class" }, input, swatch(colour), el("span", {}, name), hint);
      }),
    );
    listenToKeys(keys, (digit) => digit && digit <= classes.length && this.choose(digit - 1));
  }

  choose(code) {
    if (this.id === null) return;
    const isSame = this.chosen === code;
    this.chosen = code;
    this.#show();
    this.#say(isSame ? `${this.#name()} already: A accepts it` : this.#name());
    this.dispatchEvent(new Event("touched"));
    if (!isSame) this.dispatchEvent(new Event("edited"));
  }

  #name() {
    return this.classes.find(({ code }) => code === this.chosen)?.name;
  }

  /** Show over the image what a key or a click chose. */
  #say(text) {
    const shown = $("#chosen", this.root);
    shown.hidden = !text;
    shown.textContent = text ?? "";
    shown.classList.remove("new");
    void shown.offsetWidth; // begins the animation again
    shown.classList.add("new");
  }

  #show() {
    for (const input of this.root.querySelectorAll("#classes input")) {
      input.checked = Number(input.value) === this.chosen;
    }
  }

  close() {
    this.id = null;
    $("#photo", this.root).removeAttribute("src");
  }

  /** Make the class of an earlier version the label again. */
  async takeVersion(id, version) {
    this.choose((await server.classOf(id, version)).label);
  }

  load(id) {
    return server.classOf(id);
  }

  /** Show an image and its class; `address` is the image's, by default the server's. */
  open(id, { label, address = `/api/images/${id}/picture` }) {
    this.id = id;
    this.chosen = label;
    this.#show();
    this.#say(label === null ? "no class yet: press its key" : null);
    $("#photo", this.root).src = address;
    $("#photo", this.root).alt = "the image to classify";
  }

  read() {
    return { class: this.chosen };
  }

  restore(record) {
    this.chosen = record.class;
    this.#show();
  }
}
