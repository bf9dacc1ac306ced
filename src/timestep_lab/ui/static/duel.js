// The component of ui/duel.py: one message, two answers side by side, a vote, and then the names.

import { data, h, perFrame, put } from "./shared/dom.js";
import { count } from "./shared/format.js";
import { icon } from "./shared/icons.js";
import { mount } from "./shared/mount.js";
import { asking } from "./chat/asking.js";
import { composer } from "./chat/composer.js";
import { duelRound } from "./duel/round.js";

const NEAR_END = 24;

function render(context) {
  const view = mount(context, "duel");
  const { root, link } = view;
  root.classList.add("tl-chat");
  let state = null;
  const rounds = new Map();
  const growing = new Set();

  const { notices, problem, ask, tell } = asking(link);

  const title = h("strong", { class: "tl-clip" });
  const tally = h("span", { class: "tl-soft tl-num tl-duel-tally", role: "status" });
  const log = h("div", { class: "tl-chat-log", role: "log", "aria-live": "off", tabindex: "0", "aria-label": "Duel" });
  const inner = h("div", { class: "tl-chat-inner" });
  log.append(inner);
  const write = composer("duel", {
    newest: () => [...rounds.keys()].at(-1) ?? null,
    send(text, attachments) { pinned = true; return link.call("send", { text, attachments }); },
    stop: () => tell("stop"),
    attach: async (file) => (await link.call("attach", { name: file.name, mime_type: file.type }, [await file.arrayBuffer()])).value,
    problem,
  });
  // Questions of a data set, if the duel has one: a click sends the next one; other questions can be written at any time.
  const more = h("button", { type: "button", class: "tl-button", onclick: async () => {
    const { text, left } = await ask("question");
    state.left = left;
    pinned = true;
    write.say(text);
    drawQuestion();
  } });
  const question = h("div", { class: "tl-duel-question", hidden: true }, more);
  const main = h("div", { class: "tl-chat-main" }, h("header", { class: "tl-chat-head" }, icon("path"), title, tally), notices, h("div", { class: "tl-chat-scroll" }, log), question, write.element);
  root.append(main);
  write.dropTarget(main);

  let pinned = true;
  const follow = () => { if (pinned) log.scrollTop = log.scrollHeight; };
  log.addEventListener("scroll", () => { pinned = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END; }, { passive: true });
  const sizes = new ResizeObserver(follow);
  sizes.observe(inner);
  const grow = perFrame(() => { for (const markdown of growing) markdown.flush(); growing.clear(); });

  function traceLink(run) {
    if (!run.trace_id) return null;
    if (state.trace_base) return h("a", { class: "tl-chat-trace", href: `${state.trace_base}${run.trace_id}` }, "trace", icon("path"));
    return h("button", { type: "button", class: "tl-quiet tl-chat-trace", onclick: () => tell("trace", { trace_id: run.trace_id }) }, "trace", icon("path"));
  }
  const on = {
    decide: (round, side, item, decision, message, always, answer) => ask("decide", { round_id: round, side, run_id: item.data.run_id, call_id: item.data.call_id, decision, message, always, answer }),
    vote: (round, outcome) => ask("vote", { round_id: round, outcome }).then(() => write.focus()),
    traceLink,
  };

  let isBusy = false;
  function busy(now) {
    isBusy = now;
    write.busy(now, false);
    drawQuestion();
  }
  function drawHead() {
    put(title, state.candidates.map((name, n) => [n ? " against " : "", data(name)]), state.blind ? ", blind" : "");
    put(tally, state.votes ? [state.tally.map(([name, wins], n) => [n ? " · " : "", data(name), ` ${wins}`]), ` of ${count(state.votes, "vote")}`] : "");
  }
  function drawQuestion() {
    question.hidden = !state.left;
    more.disabled = isBusy;
    put(more, icon("list"), h("span", {}, `Ask the next of ${count(state.left, "question")}`));
  }
  function drawEmpty() {
    root.classList.toggle("tl-is-empty", rounds.size === 0);
    if (rounds.size) { inner.querySelector(".tl-chat-start")?.remove(); return; }
    put(inner, h("div", { class: "tl-chat-start" }, h("h2", {}, "Ask both models"),
      h("p", { class: "tl-soft" }, state.blind ? "Two answers appear side by side, without names. Vote to see the names." : "Two answers appear side by side. Your votes are counted."),
      state.left ? null : h("div", { class: "tl-chat-examples" }, state.examples.map((text) => h("button", { type: "button", class: "tl-button", onclick: () => { pinned = true; write.say(text); } }, text)))));
  }
  function show(round) {
    const known = rounds.get(round.id);
    if (known) { known.update(round); return; }
    inner.querySelector(".tl-chat-start")?.remove();
    const made = duelRound(round, on);
    rounds.set(round.id, made);
    inner.append(made.element);
    root.classList.remove("tl-is-empty");
  }

  link.on("snap", (next) => {
    state = next;
    rounds.clear();
    put(inner);
    next.rounds.forEach(show);
    drawHead();
    drawEmpty();
    write.at(null);
    write.settle(next.rounds.at(-1) ?? null);
    busy(next.busy);
    pinned = true;
    follow();
  });
  link.on("round", ({ round }) => { show(round); follow(); });
  link.on("item", ({ round, side, item }) => rounds.get(round)?.item(side, item));
  link.on("delta", ({ round, side, id, delta }) => { const markdown = rounds.get(round)?.delta(side, id, delta); if (markdown) { growing.add(markdown); grow(); } });
  link.on("problem", ({ round, side, message }) => rounds.get(round)?.problem(side, message));
  link.on("busy", ({ value }) => busy(value));
  link.on("connection", ({ isLost }) => write.connected(!isLost));
  link.on("tally", ({ kind, ...now }) => { Object.assign(state, now); drawHead(); });
  root.addEventListener("keydown", (event) => {
    const last = [...rounds.values()].at(-1);
    if (event.ctrlKey || event.metaKey || event.altKey || !last?.key(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
  });

  view.onClose(() => { sizes.disconnect(); grow.cancel(); });
  link.open();
  return view.close;
}

export default { render };
