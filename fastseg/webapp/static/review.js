// The queue: one image after the other, by expected error. Keys: accept, next, skip, back.

import { $, duration, el, note, plural } from "./app.js";
import { Canvas } from "./editor/canvas.js";
import { Choice } from "./editor/choice.js";
import { finish } from "./editor/keys.js";
import * as server from "./editor/server.js";
import { Session } from "./editor/session.js";
import { keysDialog } from "./editor/ui.js";

const AGAIN = 3000; // ms until the queue is asked again while the model still looks at the images
const LAST = 9; // images of this visit whose median is the pace
const CALM = 300; // ms after another image came, in which no key accepts it: it was meant for the last
const PARTS = { valid: "held out", train: "training", audit: "drawn for the audit", predicted: "not drawn" };
const WAITING = { polygon: "no polygon is begun", help: "the model proposes nothing yet" }; // tools with an Enter of their own

class Review {
  constructor() {
    this.root = $("#editor");
    const settings = JSON.parse(this.root.dataset.settings);
    let showKeys = () => {};
    const keys = [
      ["a", "accept: the label is right; next image", () => this.#isCalm() && this.accept()],
      ["Enter", "accept; with Polygon and Ask model, it only fills or takes", () => this.enter()],
      ["n", "next image; strokes are saved", () => this.next()],
      ["k", "skip: look at it later", () => this.skip()],
      ["u", "back: undo what was decided last, also a skip", () => this.back()],
      ["?", "these keys", () => showKeys()],
    ];
    this.face = settings.masks ? new Canvas(this.root, settings, keys) : new Choice(this.root, settings, keys);
    this.session = new Session(this.face, settings);
    showKeys = keysDialog(settings.masks ? this.face.ui.keys : keys, settings.masks);
    $('[data-do="keys"]').addEventListener("click", showKeys);
    for (const name of ["accept", "next", "skip", "back"]) {
      $(`[data-do="${name}"]`).addEventListener("click", () => this[name]());
    }
    $("#others")?.addEventListener("click", () => this.#open(this.queue[0] ?? null).catch((error) => note(error.message, true)));
    for (const select of [$("#order"), $("#kind")]) if (select) this.#keep(select);
    this.session.addEventListener("opened", () => this.#show());
    Object.assign(this, { queue: [], skipped: [], trail: [], paces: [], count: 0, isBusy: false });
  }

  /** Keep what is chosen for a reload of this tab; another choice is another queue. */
  #keep(select) {
    const name = `fastseg-review-${select.id}`, kept = sessionStorage.getItem(name);
    if ([...select.options].some(({ value }) => value === kept)) select.value = kept;
    select.addEventListener("change", () => {
      sessionStorage.setItem(name, select.value);
      this.#reorder();
    });
  }

  /** Ask for the queue and open its first image. */
  async start() {
    await this.#ask();
    if (!this.current || !this.trail.length) await this.#open(this.queue[0] ?? null);
  }

  /** Another order, or other images: go to the first one; what is painted on this one is saved. */
  #reorder() {
    return this.#alone(async () => {
      if (this.current && !(await this.session.finish())) return this.#notSaved();
      if (this.current && this.session.isEdited) this.#done(this.current, "correction");
      this.current = null;
      await this.#ask();
      await this.#open(this.queue[0] ?? null);
    });
  }

  async #ask(isFresh = true) {
    const answer = await server.queue($("#order").value, $("#kind")?.value ?? "", isFresh);
    if (!this.answer) this.count = answer.reviewed; // also what was reviewed in earlier visits
    const seen = new Set([...this.skipped, ...this.#finished()].map(({ id }) => id));
    this.queue = answer.images.filter(({ id }) => !seen.has(id));
    // one that is painted on, or that Back opened, is reviewed for the server, but not done here
    // what the model has found out of it since
    if (this.current) this.current = this.queue.find(({ id }) => id === this.current.id) ?? this.current;
    const { current } = this;
    const isListed = !current || seen.has(current.id) || this.queue.some(({ id }) => id === current.id);
    if (!isListed) this.queue.unshift(current);
    Object.assign(this, { answer });
    this.pace ??= answer.pace;
    this.#show();
    if (answer.fault) note(answer.fault, true);
    clearTimeout(this.asking);
    const { pass, advice } = answer;
    if (advice?.error) note(advice.error, true);
    this.#tellApart(answer);
    const isComing = (pass && !pass.is_done) || (advice && !advice.is_done) || !answer.apart_is_done;
    if (isComing) this.asking = setTimeout(() => this.#ask(false).catch(() => {}), AGAIN);
  }

  /** How many images there are of each kind, and once, which are left out and why. */
  #tellApart({ counts, apart, apart_count: count, apart_is_done: isDone }) {
    if (!$("#kind")) return;
    const numbers = { "": counts.new + counts.labelled, ...counts };
    for (const option of $("#kind").options) {
      option.textContent = `${option.textContent.replace(/ \(.*/, "")} (${numbers[option.value].toLocaleString("en")})`;
    }
    if (!isDone || !count || this.apart === count) return;
    this.apart = count;
    const [{ name, why }] = apart;
    note(`${count === 1 ? "1 image is" : `${count.toLocaleString("en")} images are`} left out, since they would never train: ${name} ${why}.`);
  }

  /** One step at a time: what is pressed meanwhile does not count. */
  #alone(work) {
    if (this.isBusy) return this.work;
    this.isBusy = true;
    this.work = work()
      .catch((error) => note(error.message, true))
      .finally(() => (this.isBusy = false));
    return this.work;
  }

  /** Decide on the current image; `work` returns whether to go on to the next one. */
  #decide(work) {
    return this.#alone(async () => {
      const { current } = this;
      if (current && (await work(current))) await this.#open(this.#after(current));
    });
  }

  #after(current) {
    this.queue = this.queue.filter(({ id }) => id !== current.id);
    const isAudit = (image) => image.is_audit;
    if (!this.queue.some(isAudit) && this.skipped.some(isAudit)) {
      this.queue.unshift(...this.skipped.filter(isAudit));
      this.skipped = this.skipped.filter((image) => !isAudit(image));
      note("The skipped images of the audit come again.");
    }
    if (!this.queue.length && this.skipped.length) {
      this.queue = this.skipped;
      this.skipped = [];
      note("The skipped images come again.");
    }
    return this.queue[0] ?? null;
  }

  /** The images that count as done, in the order of the decisions. */
  #finished() {
    return this.trail.filter(({ what }) => what !== "skip").map(({ image }) => image);
  }

  #left(image) {
    this.skipped.push(image);
    this.trail.push({ image, what: "skip" });
  }

  #done(image, what) {
    this.count++;
    this.paces.push(this.session.clock.seconds);
    const last = this.paces.slice(-LAST).sort((a, b) => a - b);
    this.pace = last[last.length >> 1];
    this.trail.push({ image, what });
  }

  accept() {
    return this.#decide(async (current) => {
      const action = current.is_audit ? "audited" : "accepted";
      if (!(await this.session.finish(action))) return this.#notSaved();
      this.#done(current, this.session.isEdited ? "correction" : "acceptance");
      return true;
    });
  }

  #isCalm() {
    return performance.now() - (this.since ?? 0) >= CALM;
  }

  enter() {
    const { desk } = this.face;
    if (desk?.isReady && finish(desk, {})) return;
    const nothing = WAITING[desk?.tool.name];
    if (nothing) {
      desk.say(`nothing to take: ${nothing}`);
      note(`Nothing to take: ${nothing}. A accepts the image.`);
    } else if (this.#isCalm()) {
      this.accept();
    }
  }

  next() {
    return this.#decide(async (current) => {
      if (!(await this.session.finish())) return this.#notSaved();
      if (this.session.isEdited) this.#done(current, "correction");
      else this.#left(current);
      return true;
    });
  }

  skip() {
    return this.#decide(async (current) => {
      if (!(await this.session.finish())) return this.#notSaved();
      this.#left(current);
      return true;
    });
  }

  #notSaved() {
    note("This image is not saved yet; it stays here until it is.", true);
    return false;
  }

  /** Undo the last decision: its image is open again, with the label from before the visit. */
  back() {
    const undo = async () => {
      if (!this.trail.length) return;
      if (this.current && !(await this.session.finish())) return this.#notSaved();
      const { image, what } = this.trail.pop();
      const others = (list) => list.filter(({ id }) => id !== image.id);
      this.queue = [image, ...others(this.queue)];
      this.skipped = others(this.skipped);
      if (what !== "skip") this.count--;
      await this.#open(image);
      if (what !== "skip") await this.#reopen(what);
      note(`Undone: the ${what} of ${image.name}.`);
    };
    // one after the other, also right after a decision that is not finished
    this.backs = (this.backs ?? Promise.resolve()).then(() => this.work).then(() => this.#alone(undo));
    return this.backs;
  }

  /** Put the image back into the queue, with the label from before, or without one. */
  async #reopen(what) {
    const { versions, was_labelled: wasLabelled } = this.session.about;
    const last = versions[versions.length - 1];
    if (!last) return; // it was not saved
    if (!wasLabelled) return this.session.withdraw();
    if (what === "correction") await this.face.takeVersion(this.session.id, last.version - 1);
    await this.session.saver.changed("reopened");
  }

  /** The images of the audit that are left, and how many there are: null without an audit. */
  #audit() {
    const total = this.answer?.audit?.total;
    return total ? { total, left: [...this.queue, ...this.skipped].filter(({ is_audit: is }) => is).length } : null;
  }

  /** Say that the audit is complete, once; then the other images may be looked at. */
  #tellAudit() {
    const { total, command, sentences } = this.answer.audit;
    this.isTold = true;
    $("#audited-text").textContent = sentences.length
      ? `All ${total} drawn images were looked at, and the certificate is written:`
      : `All ${total} drawn images were looked at. For the certificate, run this in the terminal, in the folder where you began:`;
    $("#audited-command").parentElement.hidden = sentences.length > 0;
    $("#audited-command").textContent = command;
    $("#certificate").replaceChildren(...sentences.map((text) => el("li", {}, text)));
    $("#others").hidden = !this.queue.length;
    $("#audited").hidden = false;
    $("#audited-title").focus();
  }

  async #open(image) {
    const audit = this.#audit();
    const isEnd = audit?.left === 0 && !this.isTold;
    if (isEnd) image = null;
    if ($("#audited")) $("#audited").hidden = true;
    this.current = image;
    delete this.root.dataset.ready;
    const hasImage = image !== null;
    this.root.hidden = !hasImage;
    $("#finished").hidden = hasImage || isEnd;
    if (!hasImage) document.body.append($("#notes")); // the stage is hidden, with what is in it
    else if ($("#notes").parentElement !== $("#stage")) $("#stage").append($("#notes"));
    this.#show();
    if (hasImage) {
      await this.session.open(image.id);
      $("#marks")?.focus({ preventScroll: true });
    } else if (isEnd) {
      this.#tellAudit();
    } else {
      const { fault, reviewed, pass } = this.answer;
      const kind = $("#kind")?.value;
      $("#finished-text").textContent = fault
        ? fault
        : pass && !pass.is_done
          ? "The model still looks at the images."
          : `${plural(Math.max(reviewed, this.count), "image")} reviewed, none left${kind ? " of these; choose all under Images for the others" : ""}.`;
      $("#finished h2").textContent = fault ? "No images" : kind ? `No ${kind} image left` : "All reviewed";
      this.#ask(false).catch(() => {}); // the counts as they are now
    }
    this.since = performance.now();
    const ready = () => this.current?.id === image?.id && (this.root.dataset.ready = image?.name ?? "none");
    setTimeout(ready, hasImage ? CALM : 0); // from then on, all keys count
  }

  #show() {
    if (!this.answer) return;
    const left = this.queue.length + this.skipped.length + this.answer.left - Math.min(this.answer.left, this.answer.images.length);
    const total = this.count + left;
    const audit = this.#audit();
    const isAudit = audit && (this.current ? this.current.is_audit : !audit.left);
    $("#counter").textContent = isAudit ? `Audit ${Math.min(audit.total, audit.total - audit.left + 1)} of ${audit.total}` : `${this.count} of ${total}`;
    const { pass } = this.answer;
    const { advice } = this.answer;
    const looks =
      pass && !pass.is_done
        ? `model has seen ${pass.done} of ${pass.total}`
        : advice && !advice.is_done
          ? "looking for what to label next"
          : "";
    $("#left").textContent = [this.current && this.pace ? `about ${duration((isAudit ? audit.left : left) * this.pace)} left` : "", looks].filter(Boolean).join(", ");
    for (const name of ["accept", "next", "skip"]) $(`[data-do="${name}"]`).disabled = !this.current;
    $('[data-do="back"]').disabled = !this.trail.length;
    if (!this.current) return $("#current").replaceChildren();
    const { name, part, expected_error: error, needs_review: needs } = this.current;
    const parts = [];
    if (error !== null) parts.push(`expected error ${error.toFixed(2)}${needs ? ", needs review" : ""}`);
    if (!this.current.is_audit) parts.push(PARTS[part] ?? part);
    if (this.current.is_audit) parts.push("correct all that is wrong");
    if (this.current.reason) parts.push(this.current.reason);
    // what is cut where it is narrow is the name, which the tooltip and the editor's foot have, too
    $("#current").title = [name, ...parts].join(" \u00b7 ");
    $("#current").replaceChildren(el("span", { class: "facts-of" }, parts.join(" \u00b7 ")), el("span", { class: "name" }, name));
  }
}

const review = new Review();
await review.start();
await review.session.sendLeft();
