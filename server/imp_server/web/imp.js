// The chat page. What the model says reaches the page as text nodes only, never as markup.

import { copier, element, paint } from "./text.js";

const $ = (id) => document.getElementById(id);
const SAMPLING = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "max_tokens"];
const STORE = "imp.chat";

const stored = read(STORE);
const state = {
  messages: Array.isArray(stored.messages) ? stored.messages : [], // {role, content, thought?, note?}
  settings: typeof stored.settings === "object" && stored.settings ? stored.settings : {},
  theme: stored.theme,
  model: "",
  limit: 0,
  used: stored.used || 0,
  abort: null,
};

function read(name) {
  try {
    return JSON.parse(localStorage.getItem(name)) || {};
  } catch {
    return {};
  }
}

function save() {
  const { messages, settings, theme, used } = state;
  try {
    localStorage.setItem(STORE, JSON.stringify({ messages, settings, theme, used }));
  } catch {
    // A full or forbidden store costs the memory of the page, not the conversation.
  }
}

// One message of the conversation.

function show(message) {
  const body = element("div", { className: "body" });
  const item = element("li", { className: message.role }, element("span", { className: "hidden", textContent: message.role === "user" ? "You:" : "Model:" }));
  const thought = element("details", { className: "thought", hidden: true }, element("summary", { textContent: "Thinking" }), element("p"));
  const note = element("div", { className: "note", hidden: true });
  if (message.role === "assistant") item.append(thought);
  item.append(body);
  if (message.role === "assistant") item.append(note);
  $("log").append(item);

  const view = {
    item,
    draw() {
      paint(body, message.content);
      thought.hidden = !message.thought;
      thought.lastChild.textContent = message.thought || "";
    },
    live(on) {
      item.classList.toggle("live", on);
      note.hidden = on || message.role === "user";
      if (note.hidden) return;
      note.replaceChildren(copier(() => message.content));
      if (item === $("log").lastChild) {
        const again = element("button", { className: "quiet", type: "button", textContent: "Try again" });
        again.addEventListener("click", retry);
        note.append(again);
      }
      if (message.note) note.append(element("span", { textContent: message.note }));
    },
  };
  view.draw();
  view.live(false);
  return view;
}

function showAll() {
  $("log").replaceChildren();
  state.messages.forEach(show);
  refresh();
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

function refresh() {
  const busy = state.abort !== null;
  $("empty").hidden = state.messages.length > 0;
  $("log").hidden = !state.messages.length;
  $("log").setAttribute("aria-busy", busy);
  $("send").hidden = busy;
  $("stop").hidden = !busy;
  $("send").disabled = !$("prompt").value.trim();
  $("clear").disabled = !state.messages.length;
  $("context").hidden = !state.limit;
  if (state.limit) {
    const meter = $("meter");
    Object.assign(meter, { max: state.limit, high: state.limit * 0.85, optimum: 0, value: state.used });
    $("used").textContent = `${state.used} / ${state.limit}`;
    meter.title = `${state.used} of ${state.limit} tokens of context`;
  }
}

function complain(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

// The server.

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem("imp.key");
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  throw new Refused(response.status, answer?.error?.message || `the server answered ${response.status}`);
}

async function connect() {
  const say = (text, look) => {
    $("model").textContent = text;
    $("dot").className = `dot ${look}`;
  };
  try {
    const { data } = await (await ask("v1/models")).json();
    state.model = data[0].id;
    state.limit = data[0].max_model_len || 0;
    say(state.model, "ready");
    document.title = `${state.model} · imp`;
    refresh();
  } catch (error) {
    if (error.status === 401) {
      say("API key needed", "failed");
      unlock();
      return;
    }
    say(error.status === 503 ? "loading the model …" : error.status ? error.message : "no connection", error.status === 503 ? "" : "failed");
    setTimeout(connect, 1500);
  }
}

async function* events(response) {
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function request() {
  const { system } = state.settings;
  const history = state.messages.map(({ role, content }) => ({ role, content }));
  const body = {
    model: state.model || undefined,
    messages: system ? [{ role: "system", content: system }, ...history] : history,
    stream: true,
    stream_options: { include_usage: true },
  };
  for (const name of SAMPLING) if (Number.isFinite(state.settings[name])) body[name] = state.settings[name];
  return body;
}

async function answer() {
  complain("");
  const body = JSON.stringify(request());
  const message = { role: "assistant", content: "" };
  const abort = (state.abort = new AbortController());
  state.messages.push(message);
  for (const item of $("log").children) item.querySelector(".note button + button")?.remove();
  const view = show(message);
  view.live(true);
  refresh();
  $("scroll").scrollTop = $("scroll").scrollHeight;

  const asked = performance.now();
  let first = 0;
  let last = 0;
  let pieces = 0;
  let usage = null;
  let reason = "";
  let frame = 0;
  const speed = (tokens) => (last > first && tokens > 1 ? `${((tokens - 1) / ((last - first) / 1000)).toFixed(1)} tok/s` : "");
  const draw = () => {
    frame = 0;
    const pane = $("scroll");
    const below = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 60;
    view.draw();
    if (below) pane.scrollTop = pane.scrollHeight;
    $("speed").className = "";
    $("speed").textContent = [`${pieces} tokens`, speed(pieces)].filter(Boolean).join(" · ");
  };

  try {
    const response = await ask("v1/chat/completions", { method: "POST", body, signal: abort.signal });
    for await (const chunk of events(response)) {
      if (chunk.error) throw new Refused(0, chunk.error.message);
      usage = chunk.usage || usage;
      const choice = chunk.choices[0];
      if (!choice) continue;
      reason = choice.finish_reason || reason;
      const thought = choice.delta.reasoning_content || "";
      const text = choice.delta.content || "";
      if (!thought && !text) continue;
      last = performance.now();
      first ||= last;
      pieces += 1;
      message.content += text;
      if (thought) message.thought = (message.thought || "") + thought;
      frame ||= requestAnimationFrame(draw);
    }
  } catch (error) {
    if (error.name === "AbortError") reason = "stopped";
    else {
      reason = "failed";
      if (error.status === 401) unlock();
      complain(error.status === undefined ? "The connection was lost." : error.message);
    }
  }
  cancelAnimationFrame(frame);
  state.abort = null;
  const tokens = usage?.completion_tokens ?? pieces;
  if (usage) state.used = usage.prompt_tokens + usage.completion_tokens;
  else state.used += pieces;
  if (!message.content && !message.thought && reason === "failed") {
    state.messages.pop();
    view.item.remove();
    const question = state.messages.pop(); // back into the field, so that it can be sent again
    $("log").lastChild?.remove();
    if (question && !$("prompt").value) $("prompt").value = question.content;
  } else {
    const wait = first ? `first after ${((first - asked) / 1000).toFixed(2)} s` : "";
    const why = { length: "reached the limit", stopped: "stopped", failed: "broke off" }[reason];
    message.note = [`${tokens} tokens`, speed(tokens), wait, why].filter(Boolean).join(" · ");
    draw();
    view.live(false);
  }
  hint();
  save();
  refresh();
}

function hint() {
  $("speed").className = "hint";
  $("speed").textContent = "Enter sends, Shift+Enter begins a line, Esc stops";
}

function retry() {
  if (state.abort) return;
  state.messages.pop();
  showAll();
  answer();
}

function submit() {
  const text = $("prompt").value.trim();
  if (!text || state.abort) return;
  const message = { role: "user", content: text };
  state.messages.push(message);
  show(message);
  $("prompt").value = "";
  save();
  answer();
}

// Settings.

const form = $("settings").querySelector("form");

function openSettings() {
  form.elements.system.value = state.settings.system || "";
  for (const name of SAMPLING) form.elements[name].value = state.settings[name] ?? "";
  form.elements.key.value = sessionStorage.getItem("imp.key") || "";
  if (!$("settings").open) $("settings").showModal();
}

function unlock() {
  openSettings();
  form.elements.key.focus();
}

$("settings").addEventListener("close", () => {
  state.settings = { system: form.elements.system.value.trim() };
  for (const name of SAMPLING) {
    const field = form.elements[name];
    if (field.value !== "" && field.validity.valid) state.settings[name] = field.valueAsNumber;
  }
  const key = form.elements.key.value.trim();
  const changed = key !== (sessionStorage.getItem("imp.key") || "");
  sessionStorage.setItem("imp.key", key);
  save();
  if (changed) connect();
  $("prompt").focus();
});
$("defaults").addEventListener("click", () => ["system", ...SAMPLING].forEach((name) => (form.elements[name].value = "")));
$("tune").addEventListener("click", openSettings);

// Keys and buttons.

function applyTheme() {
  if (state.theme) document.documentElement.dataset.theme = state.theme;
}

$("theme").addEventListener("click", () => {
  const dark = state.theme ? state.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  state.theme = dark ? "light" : "dark";
  applyTheme();
  save();
});
$("clear").addEventListener("click", () => {
  state.abort?.abort();
  Object.assign(state, { messages: [], used: 0 });
  complain("");
  showAll();
  save();
  $("prompt").focus();
});
$("stop").addEventListener("click", () => state.abort?.abort());
$("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("prompt").addEventListener("input", refresh);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.abort && !$("settings").open) state.abort.abort();
});

applyTheme();
hint();
showAll();
connect();
