// Seconds of active work: pauses between actions count only up to a limit.

const PAUSE = 15; // seconds; who looks longer without an action is doing something else

export class Clock {
  constructor(now = () => performance.now() / 1000) {
    this.now = now;
    this.restart();
  }

  restart(seconds = 0) {
    this.worked = seconds;
    this.last = this.now();
  }

  /** Something was done: count the time since the last action, at most PAUSE. */
  touch() {
    const now = this.now();
    this.worked += Math.min(PAUSE, now - this.last);
    this.last = now;
  }

  get seconds() {
    return Math.round(this.worked * 10) / 10;
  }
}
