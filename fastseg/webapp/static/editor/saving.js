// Saving: soon after each stroke, one request at a time, again and again until the server has it.
//
// States, told to `tell(state, detail)`: "saved", "waiting" (a stroke is not sent yet), "saving",
// "offline" (kept in the browser, is sent again), "conflict" (somebody else saved meanwhile; waits
// for `overwrite` or for the image to be opened again), "refused" (the server says why).

const SOON = 350; // ms after a stroke
const LATEST = 1000; // ms after the first stroke that was not sent
const AGAIN = [1000, 2000, 4000, 8000, 15000]; // ms between tries

export class Saver {
  /**
   * `send(record)` posts a record and returns {base, version}; it throws errors with `status`, 0
   * for no answer. `pending` keeps records, `read()` returns the current {bytes or class, seconds, by}.
   */
  constructor({ send, pending, read, tell }) {
    Object.assign(this, { send, pending, read, tell });
    this.close();
    window.addEventListener("online", () => this.retry());
  }

  close() {
    clearTimeout(this.timer);
    this.image = null;
    this.record = null; // what is being sent; the same bytes until the server has answered
    this.isDirty = false;
    this.since = null;
    this.tries = 0;
    this.state = "saved";
    this.isKept = true;
  }

  /** Begin with an image: `base` is what the server said of its label. */
  open(image, base) {
    this.close();
    Object.assign(this, { image, base, amend: false, action: "corrected" });
  }

  get isSaved() {
    return !this.isDirty && !this.record;
  }

  /** The label changed: keep it in the browser now, send it soon. */
  async changed(action = "corrected") {
    const { image } = this;
    if (!image) return;
    this.isDirty = true;
    this.action = action;
    const now = performance.now();
    this.since ??= now;
    clearTimeout(this.timer);
    if (this.state !== "conflict") {
      this.#state(this.state === "offline" ? "offline" : "waiting");
      const wait = Math.max(0, Math.min(SOON, this.since + LATEST - now));
      this.timer = setTimeout(() => this.flush(), wait);
    }
    // not within the event of the stroke: 12 megapixels take some 20 ms
    await new Promise((done) => setTimeout(done));
    if (this.image === image && this.isDirty) await this.#keep(this.#taken());
  }

  #taken() {
    const { image, base, amend, action } = this;
    return { image, base, amend, action, ...this.read() };
  }

  async #keep(record) {
    try {
      await this.pending.keep(record);
      this.isKept = true;
    } catch {
      // no room in the browser: the page and the next request still have the strokes
      this.isKept = false;
      this.tell(this.state, "this browser cannot keep strokes; leave the page open until saved");
    }
  }

  #state(state, detail = null) {
    this.state = state;
    this.tell(state, detail);
  }

  /** Send what is not saved yet. Resolves to whether the server has everything. */
  flush() {
    clearTimeout(this.timer);
    this.flushing ??= this.#all().finally(() => (this.flushing = null));
    return this.flushing;
  }

  async #all() {
    while (this.image && !this.isSaved && this.state !== "conflict") {
      if (!(await this.#once())) return false;
    }
    return this.isSaved;
  }

  async #once() {
    const { image } = this;
    if (!this.record) {
      this.record = this.#taken();
      this.isDirty = false;
      this.since = null;
    }
    this.#state("saving");
    const { record } = this;
    let answer;
    try {
      answer = await this.send(record);
    } catch (error) {
      if (this.image === image) this.#failed(error);
      return false;
    }
    if (this.image !== image) return false;
    this.record = null;
    this.tries = 0;
    Object.assign(this, { base: answer.base, amend: true });
    if (this.isDirty) {
      await this.#keep(this.#taken());
    } else {
      await this.pending.removeOf(image).catch(() => {});
      if (this.image === image && !this.isDirty) this.#state("saved", answer);
    }
    return true;
  }

  #failed(error) {
    // 401: the server was started again; the page may go on after its new address was opened
    const isRefused = error.status >= 400 && error.status < 500 && error.status !== 401; // 507: a full disk may be freed
    if (isRefused) {
      // not sent again as it is: the next stroke or a choice of the person decides
      this.record = null;
      this.isDirty = true;
      this.#state(error.status === 409 ? "conflict" : "refused", error);
      return;
    }
    this.#state("offline", error);
    const wait = AGAIN[Math.min(this.tries++, AGAIN.length - 1)];
    this.timer = setTimeout(() => this.flush(), wait);
  }

  /** Try now what waits after a failure. */
  retry() {
    if (this.state === "offline") this.flush();
  }

  /** After a conflict: save over the newer version, whose `base` the server told. */
  async overwrite(base) {
    Object.assign(this, { base, amend: false, state: "waiting", isDirty: true });
    return this.flush();
  }

  /** After a conflict: leave the strokes that were not saved. */
  async discard() {
    const { image } = this;
    this.close();
    await this.pending.removeOf(image).catch(() => {});
  }
}
