// Strokes that the server does not have yet, kept in IndexedDB: they survive a closed or killed
// browser and a server that is away. One record for each image and each open page.

const NAME = "fastseg-strokes";
const STORE = "strokes";
const OLD = 60_000; // ms; without Web Locks, a record of this age belongs to no open page

function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "key" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export class Pending {
  /** `project` tells data folders apart that were served at the same address. */
  constructor(project) {
    this.project = project;
    // randomUUID needs https away from this machine; getRandomValues does not
    this.page = Array.from(crypto.getRandomValues(new Uint32Array(3)), String).join("-");
    this.database = opened().catch(() => null); // private windows may have none
    navigator.locks?.request(this.#lock(this.page), () => new Promise(() => {}));
  }

  #lock(page) {
    return `fastseg-page-${page}`;
  }

  async #run(mode, work) {
    const database = await this.database;
    if (!database) return null;
    return new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode, { durability: "strict" });
      const request = work(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = () => reject(transaction.error);
      transaction.onabort = () => reject(transaction.error);
    });
  }

  /** Keep a record {image, base, action, seconds, bytes, ...} until `remove`. */
  async keep(record) {
    const key = `${this.project}/${this.page}/${record.image}`;
    const whole = { ...record, key, project: this.project, page: this.page, when: Date.now() };
    await this.#run("readwrite", (store) => store.put(whole));
    return key;
  }

  async remove(key) {
    await this.#run("readwrite", (store) => store.delete(key));
  }

  async removeOf(image) {
    await this.remove(`${this.project}/${this.page}/${image}`);
  }

  /** Return the records of pages that are gone, the oldest first. */
  async left() {
    const all = (await this.#run("readonly", (store) => store.getAll())) ?? [];
    const held = await navigator.locks?.query();
    const open = new Set(held?.held.map((lock) => lock.name));
    const isLeft = (record) =>
      record.project === this.project &&
      record.page !== this.page &&
      (held ? !open.has(this.#lock(record.page)) : Date.now() - record.when > OLD);
    return all.filter(isLeft).sort((a, b) => a.when - b.when);
  }
}
