// What all pages share: requests, messages, elements.

/** An error that the server told: `code` is stable, the message is for people. */
export class AppError extends Error {
  constructor(code, message, details = {}) {
    super(message);
    this.code = code;
    this.details = details;
  }
}

/** Ask the server; with `body` (an object: JSON, or a Blob: a file) it is a change. */
export async function api(path, body, options = {}) {
  const asked = { ...options, headers: { Accept: "application/json", ...options.headers } };
  if (body !== undefined) {
    asked.method = "POST";
    const isFile = body instanceof Blob || body instanceof ArrayBuffer;
    asked.headers["Content-Type"] = isFile ? "application/octet-stream" : "application/json";
    asked.body = isFile ? body : JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, asked);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new AppError("no-server", "The server does not answer. Is fastseg app still running?");
  }
  if (response.ok) return response.json();
  const { error, ...details } = await response.json().catch(() => ({}));
  throw new AppError(error?.code ?? "internal", error?.message ?? response.statusText, details);
}

/** Return an element: el("a", { href, class: "x", onclick }, "text", child). */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const $ = (selector, root = document) => root.querySelector(selector);

/** Show a message in the corner; errors stay until they are closed. */
export function note(text, isError = false) {
  for (const same of document.querySelectorAll("#notes > .note")) if ($("span", same).textContent === text) same.remove();
  const close = el("button", { type: "button", "aria-label": "Close" }, "\u00d7");
  const made = el("div", { class: "note", role: isError ? "alert" : undefined }, el("span", {}, text), close);
  close.addEventListener("click", () => made.remove());
  $("#notes").append(made);
  if (!isError) setTimeout(() => made.remove(), 5000);
  return made;
}

/** Run a function of an event; what it throws becomes a message. */
export const told = (work) => async (...given) => {
  try {
    return await work(...given);
  } catch (error) {
    if (error.name !== "AbortError") note(error.message, true);
    if (!(error instanceof AppError)) throw error;
    return undefined;
  }
};

/** Call `work` until it returns false, with a pause of `ms` between; slower in a hidden tab. */
export async function repeat(work, ms) {
  for (;;) {
    let goesOn = true;
    try {
      goesOn = await work();
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
    }
    if (goesOn === false) return;
    await new Promise((done) => setTimeout(done, document.hidden ? 5 * ms : ms));
  }
}

/** Return an element of a class's colour. */
export function swatch(colour) {
  const made = el("span", { class: "swatch", "aria-hidden": "true" });
  made.style.background = colour;
  return made;
}

/** Return seconds as "1 h 5 min", "3 min" or "12 s". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export const figure = (value, digits = 3) =>
  value === null || value === undefined || Number.isNaN(value) ? "absent" : value.toFixed(digits);

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** Say in the header whether the model is loaded. */
export async function watchModel() {
  const shown = $("#model");
  if (!shown) return;
  await repeat(async () => {
    const model = await api("/api/model");
    shown.replaceChildren(
      ...(model.state === "loading" ? [el("span", { class: "spin", "aria-hidden": "true" }), " loading the model"]
        : model.state === "ready" ? [`model ${model.export}`]
        : [model.text ?? "the model failed to load"]),
    );
    shown.title = model.error ?? "";
    return model.state === "loading";
  }, 1000);
}

watchModel();
