// One page's work: opens images, saves what changes, asks who, tells of conflicts.
//
// `face` shows the label and gives it: `Canvas` for masks, `Choice` for classes. Both have
// `open(id, opened)`, `close()`, `read()` -> {bytes} or {class}, and tell "edited" and "touched".

import { $, el, note } from "../app.js";
import { Clock } from "./clock.js";
import { Pending } from "./pending.js";
import { Saver } from "./saving.js";
import * as server from "./server.js";

const NAME = "fastseg-name";
const TEXTS = {
  saved: "Saved",
  waiting: "Not saved yet",
  saving: "Saving",
  offline: "Not saved: the server does not answer. Your strokes are kept here and sent again.",
  conflict: "Not saved: changed meanwhile",
  refused: "Not saved",
};

const ACTIONS = { predicted: "prediction taken as label", withdrawn: "label taken back" }; // where the log's own word is too short
const CALM = 1500; // ms without work after which a question may come: never in a stroke

let asking = null; // the open question, so that two callers get one answer
let isAsked = false; // who leaves it empty is not asked again by this page

/** Return the name that this browser knows: by a cookie at any port, which storage is not. */
function knownName() {
  const cookie = document.cookie.split("; ").find((one) => one.startsWith(`${NAME}=`));
  return localStorage.getItem(NAME) || decodeURIComponent(cookie?.slice(NAME.length + 1) ?? "");
}

/** Return the name of the person, asked for once. */
export function askName(again = false) {
  const name = knownName();
  if ((name || isAsked) && !again) return Promise.resolve(name);
  asking ??= askedName(name).finally(() => (asking = null));
  return asking;
}

async function askedName(before) {
  const dialog = $("#ask-name");
  const input = $("#name");
  input.value = before;
  dialog.showModal();
  input.select();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  isAsked = true;
  const name = input.value.trim() || before;
  if (name) {
    localStorage.setItem(NAME, name);
    document.cookie = `${NAME}=${encodeURIComponent(name)}; path=/; max-age=31536000; samesite=strict`;
  }
  $("#who").textContent = name || "Your name";
  return name;
}

export class Session extends EventTarget {
  constructor(face, settings) {
    super();
    Object.assign(this, { face, settings });
    this.clock = new Clock();
    this.touched = -CALM;
    this.pending = new Pending(settings.project);
    this.saver = new Saver({
      send: async (record) => server.save({ ...record, by: record.by || (await this.#who()) }),
      pending: this.pending,
      read: () => ({ ...face.read(), seconds: this.clock.seconds, by: this.name }),
      tell: (state, detail) => this.#saved(state, detail),
    });
    face.addEventListener("touched", () => {
      this.clock.touch();
      this.touched = performance.now();
    });
    face.addEventListener("edited", () => this.#edited());
    $("#who").textContent = this.name || "Your name";
    $('[data-do="name"]').addEventListener("click", () => askName(true));
    window.addEventListener("beforeunload", (event) => {
      const waits = ["offline", "refused"].includes(this.saver.state);
      if (!this.saver.isSaved && (waits || !this.saver.isKept)) event.preventDefault();
    });
    document.addEventListener("visibilitychange", () => document.hidden && this.saver.flush());
  }

  /** Return the person's name, asked for once: between two strokes, not in one. */
  async #who() {
    const isBusy = () => this.face.isBusy || performance.now() - this.touched < CALM;
    while (!this.name && !isAsked && isBusy()) await new Promise((done) => setTimeout(done, 100));
    return askName();
  }

  get name() {
    return knownName();
  }

  #edited() {
    this.isEdited = true;
    this.saver.changed();
    if (this.saver.state === "conflict") this.#conflict(this.conflict);
  }

  /** Open an image. Returns whether it is open; the reason why not is shown. */
  async open(id) {
    this.id = id;
    this.isEdited = false;
    this.face.close();
    this.saver.close();
    this.#loading("loading the image");
    try {
      const [about, opened] = await Promise.all([server.stateOf(id), this.face.load(id)]);
      if (this.id !== id) return false;
      Object.assign(this, { about, opened });
      this.face.open(id, opened);
      this.saver.open(id, opened.base);
      this.clock.restart();
      this.#saved("saved", null);
      this.#versions();
      if (opened.fault) note(`${opened.fault} What you paint replaces it.`, true);
      await this.#recover(id);
      this.face.loadOthers?.(id, this.about);
      this.dispatchEvent(new Event("opened"));
      if (!this.name) askName(); // before the first stroke, not over it
      return true;
    } catch (error) {
      if (!(error instanceof server.ServerError)) throw error;
      note(error.message, true);
      return false;
    } finally {
      this.#loading(null);
    }
  }

  #loading(text) {
    $("#loading").hidden = !text;
    if (text) $("#loading-text").textContent = text;
  }

  #saved(state, detail) {
    const shown = $("#save");
    const why = state === "refused" ? `: ${detail.message}` : "";
    const version = state === "saved" && detail?.version ? ` as version ${detail.version}` : "";
    const isNew = state === "saved" && !this.isEdited && !version;
    const origin = { prediction: "Proposed by the model, not saved", empty: "No label yet" };
    shown.textContent = isNew
      ? (origin[this.opened?.origin] ?? "")
      : `${TEXTS[state] ?? state}${version}${why}`;
    if (detail?.status === 401) {
      shown.textContent =
        "Not saved: the server was started again. Open the address that it printed; your strokes are kept here and sent again.";
    }
    if (detail?.status === 507) {
      shown.textContent = `Not saved: ${detail.message}. Your strokes are kept here and sent again.`;
    }
    shown.dataset.state = state;
    if (detail?.version) shown.dataset.version = detail.version;
    if (state === "saved" && detail?.version) this.#refreshed();
    if (state === "conflict") this.#conflict(detail);
    this.dispatchEvent(new CustomEvent("saving", { detail: state }));
  }

  async #refreshed() {
    const { id } = this;
    const about = await server.stateOf(id).catch(() => null);
    if (!about || this.id !== id) return;
    this.about = about;
    this.#versions();
  }

  /** Let the person decide between two labels; asked again with the next stroke if left open. */
  async #conflict(error) {
    this.conflict = error;
    const { by, when, base } = error.details;
    const at = when ? ` at ${new Date(when).toLocaleTimeString()}` : "";
    const who = by && by === this.name ? "You, on another page," : by || "Somebody";
    $("#conflict-text").textContent =
      `${who} saved this image${at}, after you opened it. Your strokes are still here, but not ` +
      "saved. Loading the newer label drops them; saving yours over it keeps the newer one as a version.";
    const dialog = $("#conflict");
    dialog.returnValue = "";
    if (!dialog.open) dialog.showModal();
    await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
    if (dialog.returnValue === "over") await this.saver.overwrite(base);
    else if (dialog.returnValue === "load") await this.reload();
  }

  /** Open the image again, without the strokes that are not saved. */
  async reload() {
    await this.saver.discard();
    return this.open(this.id);
  }

  /** Take the label away, of an image that had none before, and open the image again. */
  async withdraw() {
    await server.withdraw(this.id, this.saver.base, this.name);
    return this.open(this.id);
  }

  /** Give back strokes that a closed or killed page could not save. */
  async #recover(id) {
    for (const record of await this.pending.left().catch(() => [])) {
      if (record.image !== id) continue;
      this.face.restore(record);
      this.clock.restart(record.seconds);
      this.saver.base = record.base; // an older one: the server says so, and the person decides
      this.saver.amend = record.amend;
      note(`Strokes of ${new Date(record.when).toLocaleTimeString()} that were not saved are back.`);
      await this.saver.changed(record.action);
      await this.pending.remove(record.key);
    }
  }

  /** Send strokes of other images that a closed page could not save. */
  async sendLeft() {
    for (const record of await this.pending.left().catch(() => [])) {
      try {
        await server.save(record);
        await this.pending.remove(record.key);
      } catch (error) {
        if (error.status !== 409) continue;
        const link = el("a", { href: `/edit/${record.image}` }, "look");
        note("Strokes that were not saved wait: their image was changed meanwhile. ").append(link);
      }
    }
  }

  /**
   * Save what is left; with `action`, also if nothing was painted. Resolves to success. The server
   * names what was painted by its final difference: strokes that were undone are no correction.
   */
  async finish(action = null) {
    const wasEdited = this.isEdited;
    if (action && wasEdited && !(await this.#settled())) return false;
    if (action && wasEdited === this.isEdited) {
      this.clock.touch();
      await this.saver.changed(action);
    }
    return this.#settled();
  }

  async #settled() {
    if (this.saver.state === "conflict") await this.#conflict(this.conflict);
    return this.saver.flush();
  }

  #versions() {
    const rows = [...this.about.versions].reverse();
    const list = $("#versions");
    list.replaceChildren(
      ...rows.map(({ version, action, by, when }) => {
        const time = new Date(when).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
        const show = el("button", { type: "button" }, "Show");
        show.addEventListener("click", () => this.face.showVersion?.(this.id, version));
        const canShow = this.face.showVersion && action !== "withdrawn"; // a version without a label
        const text = `${version}: ${ACTIONS[action] ?? action}${by ? ` by ${by}` : ""}, ${time}`;
        return el("li", {}, el("span", {}, text), canShow ? show : null);
      }),
    );
    if (!rows.length) list.append(el("li", {}, "none yet: this is the label as it was"));
  }
}
