// What the editor asks the server. All errors are `ServerError`, with HTTP's status, 0 for none.

import { decode } from "./runs.js";

const PATIENCE = 30_000; // ms until a request counts as lost; the model may take longer, see ask

export class ServerError extends Error {
  constructor(message, status, code, details = {}) {
    super(message);
    Object.assign(this, { status, code, details });
  }
}

async function request(path, options = {}, patience = PATIENCE) {
  let answer;
  try {
    answer = await fetch(path, { ...options, signal: AbortSignal.timeout(patience) });
  } catch {
    throw new ServerError("the server does not answer", 0, "no-answer");
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  const error = body.error ?? { code: "internal", message: `the server says ${answer.status}` };
  throw new ServerError(error.message, answer.status, error.code, body);
}

async function json(path, options, patience) {
  return (await request(path, options, patience)).json();
}

function posted(value) {
  return {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(value),
  };
}

/** Return what the page needs to know of an image. */
export function stateOf(id) {
  return json(`/api/editor/${id}`);
}

/** Return the image as the task shows it: 8 bits, three channels, upright. */
export async function pictureOf(id) {
  const answer = await request(`/api/editor/${id}/picture`, {}, 4 * PATIENCE);
  return createImageBitmap(await answer.blob(), {
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
}

/** Return the codes of a label: "current", "prediction", or the number of a version. */
export async function labelOf(id, which) {
  const answer = await request(`/api/editor/${id}/label?which=${which}`, {}, 4 * PATIENCE);
  return { ...decode(await answer.arrayBuffer()), ...origins(answer) };
}

/** Return the class of an image, {label, base, origin}, or that of a version. */
export async function classOf(id, which = "current") {
  const answer = await request(`/api/editor/${id}/label?which=${which}`, {}, 4 * PATIENCE);
  return { label: await answer.json(), ...origins(answer) };
}

function origins({ headers }) {
  return {
    base: headers.get("X-Label-Base"),
    origin: headers.get("X-Label-Origin"),
    fault: decodeURIComponent(headers.get("X-Label-Fault") ?? ""),
  };
}

/** Save codes or a class. Returns {base, version}; `record` is one of `Saver`. */
export function save(record) {
  const { image, base, amend, action, seconds, bytes, by } = record;
  const query = new URLSearchParams({ base, amend: amend ? 1 : 0, action, seconds, by });
  if (record.class !== undefined) query.set("class", record.class);
  const options = { method: "POST", body: bytes };
  return json(`/api/editor/${image}/label?${query}`, options, 4 * PATIENCE);
}

/** Take the label of an image away that had none before its first correction. */
export function withdraw(id, base, by) {
  return json(`/api/editor/${id}/withdraw`, posted({ base, by }));
}

/** Ask the model for the region at a point, {point: [x, y]}, or in a box, {box: [...]}. */
export function propose(id, where) {
  return json(`/api/editor/${id}/propose`, posted(where), 8 * PATIENCE);
}

/** Return the queue of images to review; `isFresh` looks at the folder again. */
export function queue(order, kind, isFresh) {
  return json(`/api/review/queue?order=${order}&kind=${kind}&fresh=${Number(isFresh)}`, {}, 4 * PATIENCE);
}
