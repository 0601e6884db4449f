// The page of one image: /edit/ID.

import { $ } from "./app.js";
import { Canvas } from "./editor/canvas.js";
import { Choice } from "./editor/choice.js";
import { Session } from "./editor/session.js";
import { keysDialog } from "./editor/ui.js";

const root = $("#editor");
const settings = JSON.parse(root.dataset.settings);
let showKeys = () => {};
$("#stage").append($("#notes"));
const keys = [["?", "these keys", () => showKeys()]];
const face = settings.masks ? new Canvas(root, settings, keys) : new Choice(root, settings, keys);
const session = new Session(face, settings);
showKeys = keysDialog(settings.masks ? face.ui.keys : keys, settings.masks);
$('[data-do="keys"]').addEventListener("click", showKeys);

session.addEventListener("opened", () => {
  document.title = `${session.about.name} - fastseg`;
  $("#of").textContent = session.about.name;
});
await session.open(location.pathname.split("/").pop());
root.dataset.ready = session.about?.name ?? "none";
await session.sendLeft();
