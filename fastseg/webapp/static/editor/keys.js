// The keys: one table, from which the help dialog is made and keys are obeyed.

const SHIFTED = 10; // px that Shift moves the cursor
const SCREEN = 4; // css px that an arrow key moves the cursor at least

// Controls that not every page has: without them, their keys do nothing.
const NEEDS = { m: '[data-tool="help"]', x: '[data-show="previous"]' };

/** Return the keys of the canvas: rows of [key, what it does, function, held?]. */
export function canvasKeys(desk, ui) {
  const tool = (name) => () => desk.setTool(name);
  const size = (factor, step) => () => {
    if (desk.tool.name === "fill") desk.set({ tolerance: clamp(desk.tolerance + step * 4, 0, 255) });
    else desk.set({ size: factor > 1 ? Math.max(desk.size + 1, desk.size * factor) : Math.min(desk.size - 1, desk.size * factor) });
  };
  const hold = (name) => (isDown) => {
    if (isDown) desk.show(name);
    else if (desk.shown === name) desk.show("labels");
  };
  return [
    ["b", "brush", tool("brush")],
    ["e", "eraser", tool("eraser")],
    ["p", "polygon", tool("polygon")],
    ["f", "fill within edges", tool("fill")],
    ["m", "ask the model: click, or draw a box", tool("help")],
    ["v", "move the image (also: right button, two fingers)", tool("hand")],
    ["[", "smaller brush, or less tolerance", size(1 / 1.25, -1)],
    ["]", "larger brush, or more tolerance", size(1.25, 1)],
    ["s", "snap to image edges, on or off", () => desk.set({ snap: !desk.snap })],
    [",", "class before", () => ui.stepClass(-1)],
    [".", "class after", () => ui.stepClass(1)],
    ["c", "show the prediction while held", hold("prediction"), true],
    ["x", "show how it was before, while held", hold("previous"), true],
    ["t", "take the prediction, or what is shown, as the label", () => desk.isReady && desk.take(desk.shown === "labels" ? "prediction" : desk.shown)],
    ["h", "hide the labels while held", (isDown) => ui.hide(isDown), true],
    ["o", "more opacity, from 100 % back to 0", () => desk.set({ opacity: desk.view.opacity >= 1 ? 0 : desk.view.opacity + 0.1 })],
    ["+", "zoom in (also: wheel, pinch)", () => zoom(desk, 1.5)],
    ["-", "zoom out", () => zoom(desk, 1 / 1.5)],
    ["Home", "whole image", () => desk.view.fit()],
    ["Ctrl+z", "undo", () => desk.undo()],
    ["Ctrl+y", "do again (also: Ctrl+Shift+Z)", () => desk.redo()],
  ].filter(([key]) => !NEEDS[key] || ui.root.querySelector(NEEDS[key]));
}

function zoom(desk, factor) {
  if (desk.cursor) {
    const [x, y] = desk.view.toCanvas(desk.cursor.x, desk.cursor.y);
    const box = desk.view.marks.getBoundingClientRect();
    desk.view.zoom(factor, box.left + x / desk.view.ratio, box.top + y / desk.view.ratio);
  } else {
    desk.view.zoom(factor);
  }
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** What the keys on the image itself do; they need the focus there. */
export const CURSOR_KEYS = [
  ["arrow keys", "move the cursor (Shift: 10 px)"],
  ["Space", "paint, set a point, fill, or click; hold it and move to paint a line or draw a box"],
  ["Enter", "fill the polygon (Alt: cut out, Shift: next ring, a hole), or take the proposal"],
  ["Backspace", "take the last point of the polygon back"],
  ["Esc", "leave what is under way"],
];

/** Return the name of a key press as the tables write it. */
export function nameOf(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey) {
    if (key === "z" && event.shiftKey) return "Ctrl+y";
    return `Ctrl+${key}`;
  }
  return key === "=" ? "+" : key;
}

/** Whether a key belongs to the element that has the focus: text fields, sliders, buttons. */
export function isTyping(event) {
  if (document.querySelector("dialog[open]")) return true;
  const { target } = event;
  if (target.matches?.("input[type=range], input[type=radio]")) return event.key.startsWith("Arrow") || ["Home", "End", " "].includes(event.key);
  if (target.matches?.("input[type=checkbox], button, a, summary")) return event.key === " " || event.key === "Enter";
  return Boolean(target.matches?.("input, select, textarea, [contenteditable]"));
}

/** Obey arrows, space and Enter on the image: a cursor of its own that paints. */
export function listenToCursor(surface, desk) {
  let isPainting = false;
  const point = (event) => ({ ...desk.cursor, pressure: null, byKey: true, alt: event.altKey, shift: event.shiftKey });
  const start = () => {
    const { width, height } = desk.labels;
    if (desk.cursor && desk.hasKeyCursor) return;
    const at = desk.cursor ?? { x: width / 2, y: height / 2 };
    desk.place({ x: clamp(Math.floor(at.x), 0, width - 1) + 0.5, y: clamp(Math.floor(at.y), 0, height - 1) + 0.5 }, true);
  };

  surface.addEventListener("keydown", (event) => {
    if (!desk.isReady || event.ctrlKey || event.metaKey) return;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (moves[event.key]) {
      event.preventDefault();
      start();
      const least = Math.max(1, Math.round((SCREEN * desk.view.ratio) / desk.view.scale));
      const step = event.shiftKey ? SHIFTED * least : least;
      const { width, height } = desk.labels;
      const x = clamp(desk.cursor.x + moves[event.key][0] * step, 0.5, width - 0.5);
      const y = clamp(desk.cursor.y + moves[event.key][1] * step, 0.5, height - 0.5);
      desk.place({ x, y }, true);
      desk.view.reveal(x, y);
      if (isPainting) desk.timed(() => desk.tool.move(point(event)));
    } else if (event.key === " ") {
      event.preventDefault();
      if (event.repeat || isPainting || !desk.mayEdit()) return;
      start();
      isPainting = true;
      desk.timed(() => desk.tool.down(point(event)));
    } else if (event.key === "Enter") {
      const done = finish(desk, event);
      if (done) {
        event.preventDefault();
        event.stopPropagation();
      }
    } else if (event.key === "Backspace" && desk.tool.back) {
      event.preventDefault();
      desk.tool.back();
    } else if (event.key === "Escape") {
      isPainting = false;
      if (desk.tool.cancel() || desk.reject()) event.stopPropagation();
    }
  });
  const end = (event) => {
    if (!isPainting || (event.key !== undefined && event.key !== " ")) return;
    isPainting = false;
    if (desk.isReady) desk.timed(() => desk.tool.up(point(event)));
  };
  surface.addEventListener("keyup", end);
  surface.addEventListener("blur", end);
}

/** End the polygon or take the proposal. Returns whether there was one. */
export function finish(desk, event) {
  if (desk.accept()) return true;
  const { tool } = desk;
  if (tool.name !== "polygon" || tool.isEmpty) return false;
  if (event.shiftKey) tool.next();
  else tool.finish(event.altKey);
  return true;
}
