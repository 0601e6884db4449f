// The face of a task with masks: the desk, its controls, and what the model proposes.

import { $, note } from "../app.js";
import { Desk } from "./desk.js";
import { decode, encode } from "./runs.js";
import * as server from "./server.js";
import { Ui } from "./ui.js";

const UNLABELLED = { code: 255, name: "unlabelled", hex: "#808080", colour: [128, 128, 128], key: null };

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** Return the classes as tools need them: keys 1 to 9 are the foreground, 0 is the background. */
function classesOf({ classes, background, unlabelled }) {
  let next = 1;
  const found = classes.map(({ code, name, colour }) => {
    const isClear = code === background;
    const key = isClear ? 0 : next <= 9 ? next++ : null;
    return { code, name, hex: colour, colour: rgb(colour), clear: isClear, key };
  });
  found.sort((a, b) => a.clear - b.clear);
  return unlabelled ? [...found, UNLABELLED] : found;
}

export class Canvas extends EventTarget {
  constructor(root, settings, keys = []) {
    super();
    Object.assign(this, { root, settings, classes: classesOf(settings) });
    this.desk = new Desk($("#stage", root), $("#base", root), $("#marks", root));
    this.ui = new Ui(root, this.desk, this.classes, keys);
    root.desk = this.desk; // for measurements of the time of strokes
    for (const kind of ["edited", "touched"]) {
      this.desk.addEventListener(kind, () => this.dispatchEvent(new Event(kind)));
    }
    this.desk.addEventListener("edited", () => this.#isEdited());
    this.desk.addEventListener("refused", ({ detail }) => note(detail));
    this.desk.addEventListener("ask", ({ detail }) => this.#ask(detail));
  }

  /** Whether a stroke is under way. */
  get isBusy() {
    return Boolean(this.desk.labels?.isEditing);
  }

  close() {
    this.id = null;
    this.desk.close();
    this.ui.showState();
  }

  async load(id) {
    const [picture, label] = await Promise.all([server.pictureOf(id), server.labelOf(id, "current")]);
    return { picture, ...label };
  }

  open(id, { picture, codes, width, height }) {
    const { classes, settings } = this;
    this.id = id;
    this.opened = codes.slice(); // as it was, to compare with
    this.desk.open({ picture, classes, background: settings.background, codes, width, height });
    $("#about", this.root).textContent = `${width} \u00d7 ${height} px`;
  }

  read() {
    const { codes, width, height } = this.desk.labels;
    return { bytes: encode(codes, width, height) };
  }

  /** Take strokes that were kept in the browser, as one step. */
  restore({ bytes }) {
    const { labels } = this.desk;
    const { codes, width, height } = decode(bytes);
    if (width !== labels.width || height !== labels.height) return;
    labels.begin();
    labels.replace(codes);
    labels.commit("Strokes from before");
    this.desk.changed({ x: 0, y: 0, width, height });
    this.#isEdited();
  }

  #isEdited() {
    if (this.opened) this.desk.others.set("previous", { codes: this.opened });
    this.opened = null;
    this.ui.showState();
  }

  /** Load what can be compared: the prediction, and the version before. */
  async loadOthers(id, { versions, has_model: hasModel, was_labelled: wasLabelled }) {
    if (!hasModel && this.desk.tool.name === "help") this.desk.setTool("brush");
    this.desk.set({ canAsk: hasModel });
    const newest = versions.length ? versions[versions.length - 1].version : 0;
    const wanted = [];
    if (hasModel) wanted.push(["prediction", "prediction"]);
    if (newest && wasLabelled) wanted.push(["previous", newest - 1]);
    for (const [name, which] of wanted) {
      const found = await server.labelOf(id, which).catch(() => null); // there may be none
      if (this.id !== id) return;
      if (found && !this.desk.others.has(name)) this.desk.others.set(name, found);
      this.ui.showState();
    }
  }

  async showVersion(id, version) {
    const name = `version ${version}`;
    if (this.desk.shown === name) return this.desk.show("labels");
    try {
      const found = await server.labelOf(id, version);
      if (this.id !== id) return;
      this.desk.others.set(name, found);
      this.desk.show(name);
    } catch (error) {
      note(error.message, true);
    }
  }

  /** Make an earlier version the label again. */
  async takeVersion(id, version) {
    const { codes } = await server.labelOf(id, version);
    const { labels } = this.desk;
    const isSame = codes.every((code, at) => code === labels.codes[at]);
    this.desk.others.set("restored", { codes });
    this.desk.take("restored");
    this.desk.others.delete("restored");
    return { isSame };
  }

  async #ask(where) {
    const { id, desk } = this;
    const loading = $("#loading", this.root);
    $("#loading-text", this.root).textContent = "the model looks closer";
    loading.hidden = false;
    try {
      const { parts } = await server.propose(id, where);
      if (this.id === id) desk.proposed(parts);
    } catch (error) {
      note(error.message, true);
    } finally {
      loading.hidden = true;
    }
  }
}
