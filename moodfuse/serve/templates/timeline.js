// The emotion over time as curves under a video: a playhead that moves with it, and a place to click that seeks.
"use strict";
const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

const Curves = (() => {
  const space = "http://www.w3.org/2000/svg";
  const shape = (name, attributes, className) => {
    const element = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (className) element.setAttribute("class", className);
    return element;
  };
  // Neighbours are far apart in colour; behind the first four, lines are dashed too.
  const colours = [0, 5, 2, 3, 7, 1, 4, 6];
  const style = (number) => `c${colours[number % 8]} d${Math.floor(number / 4) % 4}`;
  const margin = { left: 44, right: 12, top: 46, bottom: 24 };
  const height = 270;

  // Times of a window's row, its middle; before the first and behind the last one a curve goes on level.
  const middles = (line) => line.starts_s.map((start, row) => (start + line.ends_s[row]) / 2);

  // The window whose middle is nearest to a time.
  const nearest = (line, time) => {
    let best = 0;
    middles(line).forEach((middle, row, all) => {
      if (Math.abs(middle - time) < Math.abs(all[best] - time)) best = row;
    });
    return best;
  };

  const ticks = (duration, width) => {
    const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600];
    const step = steps.find((item) => (item / duration) * width >= 56) || 3600;
    return Array.from({ length: Math.floor(duration / step) + 1 }, (_, number) => number * step);
  };

  // Runs of windows that could be read, as [[first, last], …].
  const runs = (line) => line.labels.reduce((found, label, row) => {
    if (label === null) return found;
    const last = found[found.length - 1];
    if (last && last[1] === row - 1) last[1] = row;
    else found.push([row, row]);
    return found;
  }, []);

  class Curves {
    constructor(place, line, classes) {
      Object.assign(this, { place, line, classes, time: 0 });
      this.duration = Math.max(line.duration_s, line.ends_s[line.ends_s.length - 1] || 0, 0.001);
      this.middles = middles(line);
      place.setAttribute("aria-valuemax", this.duration.toFixed(1));
      this.draw();
    }

    get inner() { return Math.max(60, this.place.clientWidth - margin.left - margin.right); }
    x(time) { return margin.left + (time / this.duration) * this.inner; }
    y(share) { return margin.top + (1 - share) * (height - margin.top - margin.bottom); }

    // The span of time in which a window is the nearest.
    span(row) {
      const from = row ? (this.middles[row - 1] + this.middles[row]) / 2 : 0;
      const to = row + 1 < this.middles.length ? (this.middles[row] + this.middles[row + 1]) / 2 : this.duration;
      return [from, to];
    }

    draw() {
      const width = this.inner + margin.left + margin.right;
      const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, height, "aria-hidden": "true" });
      for (const share of [0, 0.25, 0.5, 0.75, 1]) {
        svg.append(shape("line", { x1: margin.left, x2: margin.left + this.inner, y1: this.y(share), y2: this.y(share) }, "grid"));
        if (share % 0.5 === 0) svg.append(this.text(margin.left - 6, this.y(share) + 4, percent(share), "end"));
      }
      for (const time of ticks(this.duration, this.inner)) {
        svg.append(shape("line", { x1: this.x(time), x2: this.x(time), y1: this.y(0), y2: this.y(0) + 4 }, "frame"));
        svg.append(this.text(this.x(time), height - 5, clock(time), this.x(time) > width - 24 ? "end" : "middle"));
      }
      this.ribbon(svg);
      for (const run of runs(this.line)) this.classes.forEach((label, number) => svg.append(this.curve(label, number, run)));
      this.playhead = shape("g", {});
      this.playhead.append(
        shape("line", { x1: 0, x2: 0, y1: 8, y2: this.y(0) }, "playhead"),
        shape("path", { d: "M -6 2 h 12 l -6 9 z" }, "head"),
      );
      svg.append(this.playhead);
      this.place.replaceChildren(svg);
      this.move(this.time);
    }

    text(x, y, words, anchor) {
      const element = shape("text", { x, y, "text-anchor": anchor }, "tick");
      element.textContent = words;
      return element;
    }

    // Above the curves, the most probable label of each moment, by name where there is room.
    ribbon(svg) {
      const { labels } = this.line;
      let first = 0;
      labels.forEach((label, row) => {
        if (row + 1 < labels.length && labels[row + 1] === label) return;
        const x = this.x(this.span(first)[0]);
        const wide = Math.max(0, this.x(this.span(row)[1]) - x);
        first = row + 1;
        if (label === null) {
          svg.append(shape("rect", { x, width: wide, y: this.y(1), height: this.y(0) - this.y(1) }, "gap"));
          return;
        }
        svg.append(shape("rect", { x, width: wide, y: margin.top - 14, height: 8 }, `top ${style(this.classes.indexOf(label))}`));
        if (wide > 6.6 * label.length + 4) svg.append(this.text(x + wide / 2, margin.top - 19, label, "middle"));
      });
    }

    curve(label, number, [first, last]) {
      const shares = this.line.probabilities[label];
      const points = [];
      const begin = this.span(first)[0];
      const end = this.span(last)[1];
      points.push([begin, shares[first]]);
      for (let row = first; row <= last; row += 1) points.push([this.middles[row], shares[row]]);
      points.push([end, shares[last]]);
      const path = points.map(([time, share]) => `${this.x(time).toFixed(1)} ${this.y(share).toFixed(1)}`).join(" L ");
      return shape("path", { d: `M ${path}` }, `curve ${style(number)}`);
    }

    // Shows a time: the playhead, and what stands there in words.
    move(time) {
      this.time = Math.min(Math.max(0, time), this.duration);
      this.playhead.setAttribute("transform", `translate(${this.x(this.time).toFixed(1)} 0)`);
      const row = nearest(this.line, this.time);
      const label = this.line.labels[row];
      this.words = label === null
        ? `${clock(this.time)}: this part could not be read`
        : `${clock(this.time)}: ${label}, ${percent(this.line.probabilities[label][row])}`;
      this.place.setAttribute("aria-valuenow", this.time.toFixed(1));
      this.place.setAttribute("aria-valuetext", this.words);
      return row;
    }

    timeAt(clientX) {
      const box = this.place.getBoundingClientRect();
      return Math.min(Math.max(0, ((clientX - box.left - margin.left) / this.inner) * this.duration), this.duration);
    }

    // The sample of a curve's line for the legend.
    static swatch(number) {
      const svg = shape("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" }, "swatch");
      svg.append(shape("line", { x1: 0, x2: 26, y1: 5, y2: 5 }, `curve ${style(number)}`));
      return svg;
    }
  }
  return Curves;
})();
