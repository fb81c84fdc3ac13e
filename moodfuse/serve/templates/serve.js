// The page: choose or drop a video, send it, show what the model says.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const make = (name, text, className) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  const video = at("video");
  const megabytes = (bytes) => {
    const size = bytes / 2 ** 20;
    return `${size < 10 ? size.toPrecision(2) : Math.round(size)} MB`;
  };
  const best = (shares) => Object.entries(shares).reduce((a, b) => (b[1] > a[1] ? b : a));

  let request = null;
  let curves = null;
  let waiting = 0;
  let address = "";

  const complain = (...sentences) => {
    at("problem").replaceChildren(...sentences.map((words) => make("p", words)));
    at("problem").hidden = false;
  };
  const show = (id, shown) => { at(id).hidden = !shown; };

  // Seconds that the browser finds the file to last; NaN where it cannot play it, or does not say it soon.
  const load = (file) => new Promise((resolve) => {
    if (address) URL.revokeObjectURL(address);
    address = URL.createObjectURL(file);
    show("video", true);
    show("unplayable", false);
    const answer = () => resolve(Number.isFinite(video.duration) ? video.duration : NaN);
    video.onloadedmetadata = answer;
    video.onerror = () => {
      show("video", false);
      show("unplayable", true);
      resolve(NaN);
    };
    setTimeout(answer, 3000);
    video.src = address;
  });

  const stop = () => {
    clearInterval(waiting);
    show("going", false);
    request = null;
  };

  // Why the timeline is left out, or "".
  const tooLong = (seconds) => {
    if (seconds > data.timelineSeconds) {
      return `The video lasts ${clock(seconds)}, a timeline at most ${clock(data.timelineSeconds)}; only its label was asked for.`;
    }
    return "";
  };

  // A hop that makes no more windows than are taken.
  const widened = (seconds, hop) => Math.max(hop, Math.ceil((10 * Math.max(0, seconds - 30)) / (data.timelineWindows - 1)) / 10);

  const send = (file, seconds) => {
    const going = new XMLHttpRequest();
    request = going;
    const hop = widened(seconds || 0, Number(at("hop").value) || 5);
    const left = at("timeline").checked ? tooLong(seconds) : "";
    const timeline = at("timeline").checked && !left;
    const body = new FormData();
    body.append("file", file);
    going.open("POST", timeline ? `/predict?timeline=true&hop=${hop}` : "/predict");
    going.upload.onprogress = (event) => {
      at("progress").value = event.loaded / event.total;
      at("status").textContent = `Sending ${file.name}: ${percent(event.loaded / event.total)} of ${megabytes(file.size)}`;
    };
    going.upload.onload = () => {
      at("progress").removeAttribute("value");
      const since = Date.now();
      at("status").textContent = `Labelling ${file.name} …`;
      waiting = setInterval(() => {
        at("status").textContent = `Labelling ${file.name} … ${Math.round((Date.now() - since) / 1000)} s`;
      }, 5000);
    };
    going.onload = () => {
      stop();
      let answer = null;
      try { answer = JSON.parse(going.responseText); } catch { /* told below */ }
      if (going.status === 200 && answer) tell(answer, left);
      else if (answer && answer.error) refuse(answer.error, going.status);
      else complain("The service gave no answer that this page can read. Look into its log.");
    };
    going.onerror = () => {
      stop();
      complain("The connection broke before there was an answer. Is the service still running? Then try again.");
    };
    going.send(body);
  };

  const refuse = (error, status) => {
    const detail = error.detail.charAt(0).toUpperCase() + error.detail.slice(1);
    complain(status === 422 ? "This file cannot be labelled." : status === 429 ? "Too much is going on." : "The service refused this file.", `${detail}.`);
  };

  const start = async (file) => {
    if (request) request.abort();
    stop();
    show("problem", false);
    show("answer", false);
    if (file.size > data.uploadBytes) {
      complain(`${file.name} is too large: ${megabytes(file.size)}, at most ${megabytes(data.uploadBytes)} are taken. Cut or compress the video.`);
      return;
    }
    if (!at("hop").checkValidity()) {
      complain("The time between two windows is not a number of seconds that can be used. Correct it, then choose the video again.");
      at("hop").focus();
      return;
    }
    at("progress").value = 0;
    at("status").textContent = `Reading ${file.name}`;
    show("going", true);
    const token = {};
    start.last = token;
    const seconds = await load(file);
    if (start.last === token) send(file, seconds);
  };

  const tell = (answer, left) => {
    show("answer", true);
    const claim = at("claim");
    if (answer.uncertain) {
      claim.replaceChildren(make("span", "Uncertain", "maybe"), `: most probably ${answer.label} (${percent(answer.confidence)})`);
    } else {
      claim.replaceChildren(`${answer.label} (${percent(answer.confidence)})`);
    }
    const right = Math.round(10 * answer.confidence);
    at("meaning").textContent = `About ${right} of 10 predictions with this probability are expected to be correct${answer.uncertain ? "; do not rely on it." : "."}`;
    const { start_s: from, end_s: to } = answer.window;
    const notes = [`${answer.file}, labelled from ${clock(from)} to ${clock(to)}.`];
    if (answer.missing) notes.push(`It has no ${answer.missing}; the model used mean values instead.`);
    if (left) notes.push(left);
    at("notes").textContent = notes.join(" ");
    tellLabels(answer);
    tellReasons(answer);
    tellTime(answer.timeline);
    claim.focus({ preventScroll: true });
    claim.scrollIntoView({ block: "start" });
  };

  const tellLabels = (answer) => {
    const rows = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]).map(([label, share], number) => {
      const row = make("tr", undefined, number ? "" : "first");
      const name = make("th", label);
      name.scope = "row";
      const bar = make("td");
      const track = make("span", undefined, "track");
      const fill = make("span");
      fill.style.width = `${100 * share}%`;
      track.append(fill);
      bar.append(track);
      bar.setAttribute("aria-hidden", "true");
      row.append(name, make("td", percent(share), "n"), bar);
      return row;
    });
    at("labels").tBodies[0].replaceChildren(...rows);
    at("labels-caption").textContent = "The probabilities sum to 100 %.";
  };

  const tellReasons = (answer) => {
    const alone = Object.keys(answer.sources).length === 1;
    at("reasons").replaceChildren(...Object.entries(answer.sources).map(([source, prediction]) => {
      const item = make("li");
      item.append(make("strong", source));
      if (prediction.own) {
        const [label, share] = best(prediction.own);
        item.append(make("span", `From this source alone: ${label} (${percent(share)}). `));
      } else {
        item.append(make("span", `The file has no ${answer.missing || "audio or video"} for this source. `));
      }
      if (!alone) item.append(effect(answer, prediction.without));
      return item;
    }));
  };

  // What leaving a source out does to the answer.
  const effect = (answer, without) => {
    const [label, share] = best(without);
    if (label !== answer.label) return make("span", `Without it: ${label} (${percent(share)}).`, "turns");
    const change = Math.round(100 * answer.confidence) - Math.round(100 * without[answer.label]);
    if (!change) return make("span", "Without it: no change.");
    return make("span", `Without it: ${label} (${percent(share)}), so it ${change > 0 ? "adds" : "removes"} ${Math.abs(change)} points.`);
  };

  // The windows of a timeline as columns, null where one could not be read.
  const asColumns = ({ hop_s, duration_s, windows }) => ({
    hop_s,
    duration_s,
    starts_s: windows.map((row) => row.window.start_s),
    ends_s: windows.map((row) => row.window.end_s),
    labels: windows.map((row) => row.label ?? null),
    probabilities: Object.fromEntries(data.classes.map((label) => [label, windows.map((row) => row.probabilities?.[label] ?? null)])),
    errors: windows.map((row) => row.error).filter(Boolean),
  });

  const tellTime = (timeline) => {
    const line = timeline && timeline.windows.length ? asColumns(timeline) : null;
    show("over-time", Boolean(line));
    curves = null;
    if (!line) return;
    curves = new Curves(at("curves"), line, data.classes);
    at("legend").replaceChildren(...data.classes.map((label, number) => {
      const item = make("li");
      item.append(Curves.swatch(number), label, make("b"));
      return item;
    }));
    const wide = line.ends_s[0] - line.starts_s[0];
    const unread = line.errors.length ? ` ${line.errors.length} of ${line.starts_s.length} windows could not be read and are grey: ${line.errors[0].detail}.` : "";
    at("over-time-caption").textContent = `Each point is the prediction for the ${Math.round(wide)} s around it. The bar on top is the most probable label. Click, or use the arrow keys, to go to a time.${unread}`;
    move(video.currentTime || 0);
  };

  const move = (time) => {
    const row = curves.move(time);
    at("now").textContent = curves.words;
    data.classes.forEach((label, number) => {
      const share = curves.line.probabilities[label][row];
      at("legend").children[number].querySelector("b").textContent = share === null ? "" : percent(share);
    });
  };

  // To a time, with the video where there is one.
  const seek = (time) => {
    const to = Math.min(Math.max(0, time), curves.duration);
    if (!video.hidden && Number.isFinite(video.duration)) video.currentTime = Math.min(to, video.duration);
    move(to);
  };

  const follow = () => {
    if (curves && !video.seeking) move(video.currentTime);
    if (!video.paused && !video.ended) requestAnimationFrame(follow);
  };
  for (const event of ["play", "timeupdate", "seeked"]) video.addEventListener(event, follow);

  const place = at("curves");
  place.addEventListener("pointerdown", (event) => {
    if (!curves || event.button) return;
    place.setPointerCapture(event.pointerId);
    seek(curves.timeAt(event.clientX));
  });
  place.addEventListener("pointermove", (event) => {
    if (curves && place.hasPointerCapture(event.pointerId)) seek(curves.timeAt(event.clientX));
  });
  place.addEventListener("keydown", (event) => {
    if (!curves) return;
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -6, PageUp: 6 }[event.key];
    if (step) seek(curves.time + step * curves.line.hop_s);
    else if (event.key === "Home") seek(0);
    else if (event.key === "End") seek(curves.duration);
    else if (event.key === " " && !video.hidden) video.paused ? video.play() : video.pause();
    else return;
    event.preventDefault();
  });
  new ResizeObserver(() => { if (curves) curves.draw(); }).observe(place);

  at("ask").addEventListener("submit", (event) => event.preventDefault());
  at("file").addEventListener("change", () => {
    const [file] = at("file").files;
    if (file) start(file);
    at("file").value = "";
  });
  at("cancel").addEventListener("click", () => {
    start.last = null;
    if (request) request.abort();
    stop();
    at("file").focus();
  });
  const drop = at("drop");
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) start(file);
  });
})();
