// Cells that run in the browser. Python starts with the first one, not before.
const about = document.getElementById("live");
const REASONS = {
  "needs-processes":
    "Not run in the browser: it starts processes or threads, and WebAssembly has none.",
  plot: "Not run in the browser: it draws with Matplotlib, which is not fetched for it.",
};

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** Python in a worker. One that is stopped is gone: the next one begins anew. */
class Python {
  constructor(onProgress) {
    this.worker = new Worker(new URL("./live-worker.js", import.meta.url), {
      type: "module",
    });
    this.stopped = new Promise((_, reject) => (this.reject = reject));
    this.stopped.catch(() => {});
    this.onProgress = onProgress;
    this.worker.onmessage = ({ data }) => this.receive(data);
    this.worker.onerror = (event) => this.stop(event.message || "it did not start");
    this.ready = this.ask({ type: "start", page: about.dataset.page });
  }

  ask(message, output) {
    this.output = output;
    const answer = new Promise((resolve) => (this.resolve = resolve));
    this.worker.postMessage(message);
    return Promise.race([answer, this.stopped]);
  }

  receive(data) {
    if (data.type === "progress") this.onProgress(data.loaded);
    else if (data.type === "text") this.output?.text(data.stream, data.text);
    else if (data.type === "html") this.output?.html(data.html);
    else if (data.type === "broken") this.stop(data.message.trim().split("\n").at(-1));
    else this.resolve(data.held);
  }

  stop(reason) {
    this.worker.terminate();
    this.reject(new Error(reason));
  }
}

/** What a cell has put out, in the form that the page gives to built output. */
class Output {
  constructor(box) {
    this.box = box;
    this.parts = make("div");
    this.waiting = "";
  }

  /** Put it in the place of what is there; the page does not jump meanwhile. */
  show() {
    this.box.style.minHeight = `${this.box.offsetHeight}px`;
    this.box.replaceChildren(this.parts);
  }

  text(stream, text) {
    if (this.stream !== stream) this.flush();
    this.stream = stream;
    this.waiting += text;
    this.frame ??= requestAnimationFrame(() => this.flush());
  }

  html(markup) {
    this.flush();
    this.pre = null;
    this.parts.append(make("div", { className: "output text_html", innerHTML: markup }));
  }

  flush() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    if (!this.waiting) return;
    if (!this.pre || this.pre.dataset.stream !== this.stream) {
      this.pre = make("pre");
      this.pre.dataset.stream = this.stream;
      const inner = make("div", { className: "highlight" }, this.pre);
      this.parts.append(make("div", { className: `output ${this.stream}` }, inner));
    }
    this.pre.append(this.waiting);
    this.waiting = "";
  }

  end() {
    this.flush();
    this.box.style.minHeight = "";
    for (const pre of this.parts.querySelectorAll("pre"))
      if (pre.scrollWidth > pre.clientWidth + 1) pre.tabIndex = 0;
  }
}

class Cell {
  constructor(box, number) {
    Object.assign(this, { box, number, ran: null });
    this.input = box.querySelector(".cell_input");
    this.code = this.input.querySelector("div.highlight");
    this.built = this.code.querySelector("pre").textContent.replace(/\n$/, "");
    this.tags = [...box.classList]
      .filter((name) => name.startsWith("tag_"))
      .map((name) => name.slice(4));
    this.note = make("span", { className: "live-note", id: `live-note-${number}` });
    this.bar = make("div", { className: "live-bar" }, this.note);
    this.input.append(this.bar);
    const reason = this.tags.find((tag) => tag in REASONS);
    this.runs = !reason;
    if (reason) this.note.textContent = REASONS[reason];
    else this.addButtons();
  }

  addButtons() {
    const button = (text, action) => {
      const made = make("button", { type: "button", textContent: text });
      made.setAttribute("aria-label", `${text} cell ${this.number}`);
      made.addEventListener("click", action);
      return made;
    };
    this.run = button("Run", () => (this.busy ? stop() : runTo(this)));
    this.edit = button("Edit", () => this.startEditing());
    this.back = button("Restore", () => this.restore());
    this.run.className = "live-run";
    this.back.hidden = true;
    this.bar.prepend(this.run, this.edit, this.back);
    this.out = this.box.querySelector(".cell_output");
    if (!this.out) {
      this.out = make("div", { className: "cell_output docutils container" });
      const folded = this.box.querySelector("details.above-input");
      (folded && !this.tags.includes("hide-cell") ? folded : this.input).after(this.out);
    }
    this.builtOutput = [...this.out.childNodes];
  }

  get source() {
    return this.area ? this.area.value : this.built;
  }

  get isEdited() {
    return this.source !== this.built;
  }

  setState(state, note) {
    this.box.dataset.live = state;
    this.busy = state === "running";
    this.run.textContent = this.busy ? "Stop" : "Run";
    this.run.setAttribute("aria-label", `${this.run.textContent} cell ${this.number}`);
    this.note.replaceChildren(...[note].flat());
    if (state !== "built") this.back.hidden = false;
  }

  startEditing() {
    this.area = make("textarea", {
      className: "live-code",
      value: this.built,
      spellcheck: false,
      wrap: "off",
      autocapitalize: "off",
      autocomplete: "off",
    });
    this.area.setAttribute("aria-label", `Code of cell ${this.number}`);
    this.area.setAttribute("aria-describedby", "live-keys");
    this.area.addEventListener("keydown", (event) => this.onKey(event));
    this.area.addEventListener("input", () => this.fit());
    this.code.hidden = true;
    this.code.after(this.area);
    this.fit();
    this.edit.hidden = true;
    this.back.hidden = false;
    this.area.focus();
    this.area.setSelectionRange(0, 0);
  }

  fit() {
    this.area.rows = this.area.value.split("\n").length;
  }

  onKey(event) {
    const area = this.area;
    const type = (text) => {
      event.preventDefault();
      document.execCommand("insertText", false, text); // keeps undo, unlike `value =`
    };
    const leaving = this.leaving;
    this.leaving = event.key === "Escape" || (leaving && event.key === "Shift");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey || event.shiftKey)) {
      event.preventDefault();
      if (!this.busy) runTo(this);
    } else if (event.key === "Enter" && !event.isComposing) {
      const start = area.value.lastIndexOf("\n", area.selectionStart - 1) + 1;
      const line = area.value.slice(start, area.selectionStart);
      type("\n" + line.match(/^ */)[0] + (line.trimEnd().endsWith(":") ? "    " : ""));
    } else if (event.key === "Tab" && !leaving) {
      this.indent(event, type);
    }
  }

  /** Tab: to the next stop, or all the selected lines; Shift+Tab: back. */
  indent(event, type) {
    const area = this.area;
    const { selectionStart: from, selectionEnd: to, value } = area;
    const start = value.lastIndexOf("\n", from - 1) + 1;
    if (from === to && !event.shiftKey) return type(" ".repeat(4 - ((from - start) % 4)));
    const lines = value.slice(start, to).split("\n");
    const moved = lines.map((line) =>
      event.shiftKey ? line.replace(/^ {1,4}/, "") : line && `    ${line}`,
    );
    area.setSelectionRange(start, to);
    type(moved.join("\n"));
    const end = start + moved.join("\n").length;
    area.setSelectionRange(from === to ? end : start, end);
  }

  restore() {
    const hadFocus = this.bar.contains(document.activeElement);
    this.area?.remove();
    this.area = null;
    this.code.hidden = this.edit.hidden = false;
    this.out.replaceChildren(...this.builtOutput);
    this.setState("built", "");
    this.back.hidden = true;
    if (hadFocus) this.edit.focus();
  }
}

const boxes = [...document.querySelectorAll("div.cell")];
const cells = boxes.map((box, index) => new Cell(box, index + 1));
const live = cells.filter((cell) => cell.runs);

const status = make("p", { className: "live-status" });
status.setAttribute("role", "status");
const progress = make("progress", { max: Number(about.dataset.bytes), hidden: true });
progress.setAttribute("aria-label", "Python loaded");
const stopButton = make("button", { type: "button", textContent: "Stop", hidden: true });
const resetButton = make("button", { type: "button", textContent: "Reset the page" });
const panel = make("section", { className: "live-panel", hidden: true });
panel.setAttribute("aria-label", "Python in this browser");
panel.append(status, progress, stopButton, resetButton);
const keys = make("p", {
  id: "live-keys",
  hidden: true,
  textContent: "Control and Enter run. Tab indents; Escape, then Tab, leaves the editor.",
});
(document.querySelector(".bd-article") ?? document.body).append(panel, keys);
stopButton.addEventListener("click", () => stop());
resetButton.addEventListener("click", reset);

let python = null;

function setBusy(busy) {
  panel.hidden = false;
  stopButton.hidden = !busy;
  for (const cell of live) {
    cell.edit.disabled = cell.back.disabled = busy;
    cell.run.disabled = busy && !cell.busy;
  }
}

async function startPython() {
  status.textContent = `Loading CPython ${about.dataset.python} …`;
  progress.hidden = false;
  progress.value = 0;
  python ??= new Python((loaded) => (progress.value = loaded));
  try {
    await python.ready;
  } finally {
    progress.hidden = true;
  }
}

/** Run a cell, and before it those above that have not run in their present form. */
async function runTo(cell) {
  if (live.some((each) => each.busy)) return;
  const above = live.filter((each) => each.number < cell.number);
  const first = above.filter((each) => each.ran !== each.source);
  cell.setState("running", "");
  setBusy(true);
  let current = cell;
  try {
    await startPython();
    for (const [index, each] of [...first, cell].entries()) {
      current = each;
      const which = first.length
        ? `cell ${each.number}, ${index + 1} of ${first.length + 1}`
        : `cell ${each.number}`;
      status.textContent = `Running ${which} …`;
      if (each !== cell)
        cell.note.textContent = `first the ${first.length} above: ${index + 1} …`;
      if (!(await runOne(each, each === cell || each.isEdited))) break;
    }
    finish(cell, current, first.length);
  } catch (error) {
    forget();
    cell.setState("stopped", "stopped; the next run begins anew");
    status.textContent = `Python has ended: ${error.message}.`;
  }
  setBusy(false);
}

/** True if it held. What it puts out is shown where asked, and where it fails. */
async function runOne(cell, shown) {
  const { number, source, tags } = cell;
  const output = new Output(cell.out);
  if (shown) output.show();
  try {
    const held = await python.ask({ type: "run", number, source, tags }, output);
    if (!held && !shown) output.show();
    cell.ran = held ? source : null;
    if (!held) cell.setState("failed", "it raised");
    else cell.setState("done", shown ? "" : "ran");
    return held;
  } finally {
    output.end();
  }
}

function finish(cell, last, count) {
  const version = `CPython ${about.dataset.python} in this browser`;
  status.textContent = `${version}: ready.`;
  if (last !== cell) {
    const link = make("a", { href: `#live-note-${last.number}` });
    link.textContent = `cell ${last.number}`;
    link.addEventListener("click", () => {
      const folded = last.box.querySelector("details");
      if (folded) folded.open = true;
    });
    cell.setState("skipped", ["not run: ", link, ", above, raised"]);
  } else if (cell.box.dataset.live === "done") {
    const before = count ? `after the ${count} above` : "";
    cell.setState("done", ["ran", before].join(" "));
  }
}

/** The state of a Python that is gone is nobody's. */
function forget() {
  python = null;
  for (const each of live) {
    each.ran = null;
    if (each.box.dataset.live === "done") each.setState("stale", "");
  }
}

function stop(reason = "stopped") {
  python?.stop(reason);
}

function reset() {
  stop("reset");
  setTimeout(() => {
    forget();
    for (const each of live) each.restore();
    setBusy(false);
    panel.hidden = true;
    live[0]?.run.focus({ preventScroll: true });
  });
}
