// Mouse, pen and fingers. One finger or button paints, two fingers zoom and move, the wheel zooms.

const WHEEL = 0.0016; // zoom by e^(WHEEL * delta): a notch of a mouse wheel is about 17 %

/** Send the pointers over `surface` (the canvas on top) to the desk. Returns nothing. */
export function listen(surface, desk) {
  const fingers = new Map(); // pointerId -> {x, y} of touches
  let active = null; // the pointer that paints: {id, pans, x, y}
  let seesPen = false; // once a pen was there, fingers only move the image: palms do not paint

  const pointOf = (event) => {
    const [x, y] = desk.view.toImage(event.clientX, event.clientY);
    const pressure = event.pointerType === "pen" ? event.pressure : null;
    return { x, y, pressure, alt: event.altKey, shift: event.shiftKey };
  };
  const middle = () => {
    const [one, other] = fingers.values();
    return {
      x: (one.x + other.x) / 2,
      y: (one.y + other.y) / 2,
      apart: Math.max(1, Math.hypot(one.x - other.x, one.y - other.y)),
    };
  };

  surface.addEventListener("pointerdown", (event) => {
    if (!desk.isReady) return;
    event.preventDefault();
    surface.focus({ preventScroll: true });
    surface.setPointerCapture(event.pointerId);
    if (event.pointerType === "pen") seesPen = true;
    if (event.pointerType === "touch") {
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (fingers.size > 1) {
        if (active && !active.pans) desk.tool.cancel();
        active = null;
        return;
      }
    }
    if (active) return;
    const pans =
      event.button > 0 ||
      desk.tool.name === "hand" ||
      (event.pointerType === "touch" && seesPen);
    active = { id: event.pointerId, pans, x: event.clientX, y: event.clientY };
    desk.place(pointOf(event), false);
    if (!pans && desk.mayEdit()) desk.timed(() => desk.tool.down(pointOf(event)));
  });

  surface.addEventListener("pointermove", (event) => {
    if (!desk.isReady) return;
    if (fingers.has(event.pointerId) && fingers.size === 2) {
      const before = middle();
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      const after = middle();
      desk.view.pan(after.x - before.x, after.y - before.y);
      desk.view.zoom(after.apart / before.apart, after.x, after.y);
      desk.touched();
      return;
    }
    if (fingers.has(event.pointerId)) {
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    }
    if (active && active.id !== event.pointerId) return;
    desk.place(pointOf(event), false);
    if (active?.pans) {
      desk.view.pan(event.clientX - active.x, event.clientY - active.y);
      Object.assign(active, { x: event.clientX, y: event.clientY });
      desk.touched();
    } else if (active) {
      const steps = event.getCoalescedEvents?.() ?? [];
      desk.timed(() => {
        for (const step of steps.length ? steps : [event]) desk.tool.move(pointOf(step));
      });
    } else {
      desk.tool.move(pointOf(event));
    }
  });

  const end = (event) => {
    fingers.delete(event.pointerId);
    if (active?.id !== event.pointerId) return;
    const { pans } = active;
    active = null;
    if (pans) return;
    if (event.type === "pointercancel") desk.tool.cancel();
    else desk.timed(() => desk.tool.up(pointOf(event)));
  };
  surface.addEventListener("pointerup", end);
  surface.addEventListener("pointercancel", end);
  surface.addEventListener("pointerleave", () => {
    if (!active && !desk.hasKeyCursor) desk.place(null, false);
  });
  surface.addEventListener("contextmenu", (event) => event.preventDefault());
  surface.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      if (!desk.isReady) return;
      const unit = event.deltaMode ? 16 : 1; // lines or pixels
      if (event.shiftKey) desk.view.pan(-(event.deltaX + event.deltaY) * unit, 0);
      else desk.view.zoom(Math.exp(-event.deltaY * unit * WHEEL), event.clientX, event.clientY);
    },
    { passive: false },
  );
}
