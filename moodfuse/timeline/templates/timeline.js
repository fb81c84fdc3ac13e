// Adds the playhead, seeking on the curves, the values at a time, and highlighting of one curve.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [video, plot, playhead, pointer, tip, when, span, topLabel, labels] = [
    "video", "plot", "playhead", "pointer", "tip", "when", "span", "top-label", "labels",
  ].map((id) => document.getElementById(id));
  const area = plot.querySelector(".area");
  const items = [...labels.children];
  const make = (name, text, className) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  for (const hidden of document.querySelectorAll(".hint[hidden]")) hidden.hidden = false;

  const clock = (value, tenths) => {
    const parts = Math.floor(10 * value + 1e-6), whole = Math.floor(parts / 10), pad = (part) => String(part).padStart(2, "0");
    const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    const text = hours ? `${hours}:${pad(minutes)}:${pad(rest)}` : `${minutes}:${pad(rest)}`;
    return tenths && parts % 10 ? `${text}.${parts % 10}` : text;
  };
  const probability = (row, label) => (data.rows[row][label] / 1000).toFixed(2);

  // The window with the nearest middle that contains a time.
  const windowAt = (value) => {
    let low = 0, high = data.starts.length - 1;
    const middle = (row) => (data.starts[row] + data.ends[row]) / 2;
    while (low < high) {
      const half = (low + high) >> 1;
      if (value > (middle(half) + middle(half + 1)) / 2) low = half + 1;
      else high = half;
    }
    return data.starts[low] - 1e-6 <= value && value <= data.ends[low] + 0.05 ? low : -1;
  };
  const words = (row) => {
    if (row < 0) return "no window here";
    if (!data.rows[row]) return "could not be read";
    const label = data.top[row];
    return `${data.classes[label]} ${probability(row, label)}${data.uncertain[row] ? ", uncertain" : ""}`;
  };
  const windowWords = (row) => (row < 0 ? "\u00a0" : `window ${clock(data.starts[row], true)} to ${clock(data.ends[row], true)}`);

  // The time shown: that of the video, or the requested one if it cannot be played.
  let at = 0, shown = -2, wanted = null;
  const broken = () => video.error !== null;
  const read = (row) => {
    if (row === shown) return;
    shown = row;
    span.textContent = windowWords(row);
    topLabel.textContent = words(row);
    items.forEach((item, label) => {
      const known = row >= 0 && data.rows[row];
      item.querySelector(".value").textContent = known ? probability(row, label) : "–";
      item.querySelector(".meter span").style.width = known ? `${data.rows[row][label] / 10}%` : "0";
      item.classList.toggle("first", Boolean(known) && label === data.top[row]);
    });
  };
  const show = () => {
    const share = Math.min(1, Math.max(0, at / data.end)), row = windowAt(at), time = clock(at);
    playhead.style.left = `${100 * share}%`;
    playhead.style.setProperty("--at", share);
    if (when.textContent !== `At ${time}`) {
      when.textContent = `At ${time}`;
      playhead.firstElementChild.textContent = time;
    }
    read(row);
    const text = `${time}, ${words(row)}`;
    if (plot.getAttribute("aria-valuetext") !== text) {
      plot.setAttribute("aria-valuetext", text);
      plot.setAttribute("aria-valuenow", at.toFixed(1));
    }
  };
  const seek = (value) => {
    at = Math.min(data.end, Math.max(0, value));
    if (!broken()) {
      if (video.seeking) wanted = at;
      else video.currentTime = at;
    }
    show();
  };
  const follow = () => {
    if (broken() || wanted !== null) return;
    at = video.currentTime;
    show();
  };
  const frame = () => {
    follow();
    if (!video.paused && !video.ended) requestAnimationFrame(frame);
  };
  const complain = () => {
    document.getElementById("broken").hidden = !broken();
    video.controls = !broken(); // a poster needs none
  };
  video.addEventListener("play", () => requestAnimationFrame(frame));
  for (const name of ["timeupdate", "seeking", "loadedmetadata"]) video.addEventListener(name, follow);
  video.addEventListener("seeked", () => {
    const next = wanted;
    wanted = null;
    if (next === null) follow();
    else seek(next);
  });
  video.addEventListener("error", complain);
  complain();

  // The curves as a slider, by mouse, finger and keys.
  plot.setAttribute("aria-label", `Time in the video. ${plot.getAttribute("aria-label")}`);
  plot.setAttribute("role", "slider");
  plot.setAttribute("aria-valuemin", "0");
  plot.setAttribute("aria-valuemax", data.end.toFixed(1));
  plot.tabIndex = 0;
  playhead.hidden = false;
  for (const run of plot.querySelectorAll("[title]")) run.removeAttribute("title"); // the numbers of a moment say more
  const moment = (event) => {
    const box = area.getBoundingClientRect();
    return (Math.min(1, Math.max(0, (event.clientX - box.left) / box.width))) * data.end;
  };
  const leave = () => {
    pointer.hidden = tip.hidden = true;
  };
  let dragging = false;
  plot.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    dragging = true;
    plot.setPointerCapture(event.pointerId);
    if (event.pointerType !== "touch") seek(moment(event)); // a finger may be about to scroll the page
  });
  plot.addEventListener("pointermove", (event) => {
    if (dragging) seek(moment(event));
    if (event.pointerType !== "touch") hover(moment(event));
  });
  plot.addEventListener("pointerup", (event) => {
    if (dragging) seek(moment(event));
    dragging = false;
  });
  plot.addEventListener("pointercancel", () => {
    dragging = false;
    leave();
  });
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const moves = {
      ArrowRight: at + data.step, ArrowUp: at + data.step, ArrowLeft: at - data.step, ArrowDown: at - data.step,
      PageUp: at + data.leap, PageDown: at - data.leap, Home: 0, End: data.end,
    };
    if (event.key in moves) seek(moves[event.key]);
    else if (event.key === " " && !broken()) video.paused ? video.play().catch(complain) : video.pause();
    else return;
    event.preventDefault();
  });

  // The numbers of the moment under the mouse, the most probable first.
  const limit = 8;
  const hover = (value) => {
    const row = windowAt(value), share = value / data.end;
    pointer.style.left = tip.style.left = `${100 * share}%`;
    tip.classList.toggle("before", share > 0.5);
    pointer.hidden = tip.hidden = false;
    const text = make("p", clock(value));
    if (row >= 0 && data.rows[row] && data.uncertain[row]) text.textContent += ", uncertain";
    if (row < 0 || !data.rows[row]) text.textContent += `, ${words(row)}`;
    tip.replaceChildren(text, make("p", windowWords(row), "facts"));
    if (row < 0 || !data.rows[row]) return;
    const list = make("ul");
    const order = data.rows[row].map((_, label) => label).sort((a, b) => (b === data.top[row]) - (a === data.top[row]) || data.rows[row][b] - data.rows[row][a]);
    for (const label of order.slice(0, limit)) {
      const item = make("li");
      item.append(items[label].querySelector(".swatch").cloneNode(true), make("span", data.classes[label], "name"), make("span", probability(row, label), "value"));
      list.append(item);
    }
    tip.append(list);
    if (order.length > limit) tip.append(make("p", `and ${order.length - limit} less probable`, "facts"));
  };

  // Names as buttons that leave only their curves strong.
  const curves = plot.querySelector(".lines");
  const pick = () => {
    const picked = new Set();
    items.forEach((item, label) => item.querySelector("button").getAttribute("aria-pressed") === "true" && picked.add(String(label)));
    curves.classList.toggle("picking", picked.size > 0);
    for (const line of curves.querySelectorAll(".line")) line.classList.toggle("picked", picked.has(line.dataset.label));
  };
  for (const item of items) {
    const name = item.querySelector(".name"), button = make("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.append(...name.childNodes);
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      pick();
    });
    name.append(button);
  }
  follow();
  show();
})();
