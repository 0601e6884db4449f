// The desk: one image with its labels, the tools, and the settings that the tools share.
//
// It knows no buttons. It tells what changed by events: "setting", "state" (undo, compare,
// proposal), "say" (detail: a text for people who do not see the canvas), "edited".

import { UNLABELLED, Labels } from "./labels.js";
import { Layer, table } from "./layer.js";
import { Proposal } from "./proposal.js";
import { makeTools } from "./tools.js";
import { View } from "./view.js";

export const SIZES = [1, 300]; // px, smallest and largest brush
export const NO_MODEL = "there is no model to ask: train one on the page Train";
const NAMES = { previous: "earlier label to compare with" };
const TIMES = 500; // durations of strokes that are kept for measuring

export class Desk extends EventTarget {
  constructor(stage, base, marks) {
    super();
    this.view = new View(stage, base, marks);
    this.view.drawMarks = (context) => this.#marks(context);
    this.tools = makeTools(this);
    this.tool = this.tools.brush;
    Object.assign(this, { code: 1, cleared: 0, canClear: true, canAsk: true, size: 12, tolerance: 24 });
    Object.assign(this, { snap: false, byPressure: false });
    this.times = []; // ms from the start of an event to the drawn pixels, of the last strokes
    this.close();
  }

  close() {
    this.tool?.cancel();
    this.labels = null;
    this.cursor = null;
    this.hasKeyCursor = false;
    this.proposal = null;
    this.shown = "labels"; // or "prediction", "previous"
    this.others = new Map(); // what can be compared: name -> {codes, layer}
    this.view.layer = null;
  }

  get isReady() {
    return this.labels !== null;
  }

  /** Show an image: `classes` is [{code, name, colour, clear}]. */
  open({ picture, classes, background, codes, width, height }) {
    this.close();
    this.classes = classes;
    this.picture = picture;
    this.rgba = null;
    // what is erased becomes background, or unlabelled where the task's masks can say so
    this.canClear = background !== null || classes.some(({ code }) => code === UNLABELLED);
    this.cleared = background ?? UNLABELLED;
    const known = classes.some(({ code }) => code === this.code);
    if (!known || this.code === background) {
      this.code = classes.find(({ code }) => code !== background).code;
    }
    this.labels = new Labels(width, height, codes);
    this.layer = new Layer(width, height, table(classes));
    this.layer.paint(codes);
    this.view.layer = this.layer;
    this.view.show(picture, width, height);
    this.#tell("setting");
    this.#tell("state");
  }

  #tell(name, detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  say(text) {
    this.#tell("say", text);
  }

  /** Say, for all to see, why something is not done. */
  refuse(text) {
    this.say(text);
    this.#tell("refused", text[0].toUpperCase() + text.slice(1));
  }

  /** Somebody works: counts the active seconds. */
  touched() {
    this.#tell("touched");
  }

  // What tools use

  sizeFor(pressure) {
    if (!this.byPressure || pressure === null || pressure === undefined) return this.size;
    return Math.max(1, Math.round(this.size * Math.min(1, 0.25 + pressure)));
  }

  /** Return the picture's bytes, RGBA. */
  pixels() {
    if (!this.rgba) {
      const { width, height } = this.labels;
      const canvas = new OffscreenCanvas(width, height);
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(this.picture, 0, 0, width, height);
      this.rgba = context.getImageData(0, 0, width, height).data;
    }
    return this.rgba;
  }

  /** A rectangle of the labels changed: draw it. */
  changed(rect) {
    if (!rect) return;
    this.layer.paint(this.labels.codes, rect);
    this.view.refresh(rect);
  }

  /** End an edit as a step with a name. */
  apply(name) {
    const changed = this.labels.commit(name);
    this.touched();
    if (!changed) return;
    this.say(`${name}: ${changed} px changed`);
    this.#tell("edited", name);
    this.#tell("state");
  }

  /** Do a part of a stroke, draw it, and keep how long that took. */
  timed(work) {
    const start = performance.now();
    work();
    if (this.view.frame) this.view.draw();
    this.times.push(performance.now() - start);
    if (this.times.length > TIMES) this.times.shift();
    this.touched();
  }

  mayEdit() {
    if (this.shown === "labels") return true;
    this.refuse(`this is the ${this.shown}; go back to the labels to change them`);
    return false;
  }

  /** The pointer or the keyboard's cursor is at a place in image px; null: nowhere. */
  place(point, byKey) {
    this.cursor = point;
    this.hasKeyCursor = byKey;
    this.view.refresh(null);
    this.#tell("cursor");
  }

  /** Return the cursor's place and the class there as a text. */
  describePlace() {
    const [x, y] = [Math.floor(this.cursor.x), Math.floor(this.cursor.y)];
    const { width, height } = this.labels;
    if (x < 0 || y < 0 || x >= width || y >= height) return "";
    return `${x}, ${y}: ${this.classOf(this.labels.at(x, y))?.name ?? "unlabelled"}`;
  }

  #marks(context) {
    this.proposal?.draw(context, this.view);
    this.tool.marks(context);
  }

  // Settings

  setTool(name) {
    if (!this.tools[name] || this.tool.name === name) return;
    if (name === "eraser" && !this.canClear) {
      return this.refuse("this task has no background: paint another class instead");
    }
    if (name === "help" && !this.canAsk) return this.refuse(NO_MODEL);
    this.tool.cancel();
    this.tool = this.tools[name];
    this.view.refresh(null);
    this.say(this.tool.title);
    this.#tell("setting");
  }

  setClass(code) {
    const found = this.classOf(code);
    if (!found) return;
    this.code = code;
    this.say(`class ${found.name}`);
    if (this.tool.name === "eraser") this.setTool("brush");
    if (this.proposal?.parts.length === 1) {
      this.proposal.parts[0].code = code;
      this.proposal.recolour((each) => this.classOf(each).colour);
      this.view.refresh(null);
    }
    this.#tell("setting");
  }

  classOf(code) {
    return this.classes?.find((each) => each.code === code);
  }

  /** Change settings: size, tolerance, opacity (0 to 1), snap, byPressure, canAsk. */
  set(values) {
    if (values.size !== undefined) {
      values.size = Math.min(SIZES[1], Math.max(SIZES[0], Math.round(values.size)));
    }
    if (values.opacity !== undefined) {
      this.view.opacity = Math.min(1, Math.max(0, values.opacity));
      this.view.redraw();
    }
    const { opacity: _, ...own } = values;
    Object.assign(this, own);
    this.view.refresh(null);
    this.#tell("setting");
  }

  // Steps

  undo() {
    this.#step(this.labels?.undo(), "undone");
  }

  redo() {
    this.#step(this.labels?.redo(), "done again");
  }

  #step(step, word) {
    if (step === undefined) return;
    this.touched();
    if (!step) return this.say(`nothing can be ${word}`);
    this.changed(step.rect);
    this.say(`${step.name} ${word}`);
    this.#tell("edited", step.name);
    this.#tell("state");
  }

  // Comparing

  /** Show another label instead of the current one: "prediction", "previous", or "labels". */
  show(name) {
    const other = this.others.get(name);
    if (name !== "labels" && !other) return this.refuse(`there is no ${NAMES[name] ?? name}`);
    if (this.labels.isEditing) this.tool.cancel();
    this.shown = name;
    if (other && !other.layer) {
      const { width, height } = this.labels;
      other.layer = new Layer(width, height, this.layer.words);
      other.layer.paint(other.codes);
    }
    this.view.layer = other?.layer ?? this.layer;
    this.view.redraw();
    this.say(name === "labels" ? "your labels" : `the ${name}`);
    this.#tell("state");
  }

  /** Take what is shown for comparison as the label. */
  take(name) {
    const other = this.others.get(name);
    if (!other) return this.refuse(`there is no ${NAMES[name] ?? name}`);
    const { width, height } = this.labels;
    this.show("labels");
    this.labels.begin();
    this.labels.replace(other.codes);
    this.changed({ x: 0, y: 0, width, height });
    this.apply(`the ${name} taken`);
  }

  // The model's help

  /** Ask for a region; the page answers the event with `proposed`. */
  ask(where) {
    if (this.mayEdit()) this.#tell("ask", { ...where, code: this.code });
  }

  proposed(parts) {
    const { width, height } = this.labels;
    const colours = (code) => this.classOf(code).colour;
    this.proposal = parts.length ? new Proposal(parts, colours, width, height) : null;
    this.view.refresh(null);
    this.#tell("state");
    if (!this.proposal) return this.refuse("the model finds nothing here: paint it, or draw a box around it");
    const names = parts.map(({ code }) => this.classOf(code).name).join(", ");
    this.say(`proposed: ${names}, ${this.proposal.pixels} px; Enter takes it, Escape leaves it`);
  }

  accept() {
    if (!this.proposal) return false;
    const { parts } = this.proposal;
    this.proposal = null;
    this.labels.begin();
    for (const { code, runs } of parts) this.changed(this.labels.paint(runs, code));
    this.apply("Proposal taken");
    this.view.refresh(null);
    this.#tell("state");
    return true;
  }

  reject() {
    if (!this.proposal) return false;
    this.proposal = null;
    this.say("proposal left");
    this.view.refresh(null);
    this.#tell("state");
    return true;
  }
}
