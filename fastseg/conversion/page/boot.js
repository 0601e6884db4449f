// Starts the page and its worker. A page from a file can import no other files, and its worker no
// addresses of the page: each makes blob addresses of the modules for itself.
function linked(sources) {
  const addresses = {};
  for (const [name, source] of sources) {
    const whole = source.replace(/(from )"[./a-z]*\/([a-z]+\.js)"/g, (all, from, other) => (addresses[other] ? `${from}"${addresses[other]}"` : all));
    addresses[name] = URL.createObjectURL(new Blob([whole], { type: "text/javascript" }));
  }
  return addresses;
}

async function begin({ data }) {
  await import(linked(data)["worker.js"]);
  postMessage("begun");
}

/** Resolve to the worker once it listens. */
function startedWorker(sources) {
  const script = `${linked}\n${begin}\naddEventListener("message", begin, { once: true });`;
  const worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  worker.postMessage(sources);
  return new Promise((done, failed) => {
    worker.addEventListener("message", () => done(worker), { once: true });
    worker.addEventListener("error", ({ message }) => failed(new Error(message ?? "this browser starts no workers from files")), { once: true });
  });
}

const sources = JSON.parse(document.getElementById("modules").textContent);
const worker = startedWorker(sources);
const { start } = await import(linked(sources)["page.js"]);
await start(worker);
