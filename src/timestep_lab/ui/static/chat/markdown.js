// Markdown to DOM, block by block. While text streams in only the last, unfinished block is parsed again.

import { h, put, safeText, copy } from "../shared/dom.js";
import { icon } from "../shared/icons.js";

const SAFE_LINK = /^(https?:\/\/|mailto:)/i;
const IMAGE = /!\[([^\]\n]*)\]\(([^()\s]+(?:\([^()\s]*\))?)\)/;
const INLINE = /(`+)([\s\S]*?[^`])\1(?!`)|\*\*([^\s*](?:[\s\S]*?[^\s*])?)\*\*|(?<![\w*])\*([^\s*](?:[^*]*?[^\s*])?)\*(?![\w*])|(?<!\w)_([^\s_](?:[^_]*?[^\s_])?)_(?!\w)|~~([^~]+)~~|\[([^\]\n]+)\]\(([^()\s]+(?:\([^()\s]*\))?)\)|<(https?:\/\/[^\s<>]+)>|(https?:\/\/[^\s<>()]+[^\s<>().,;:!?'"])/;

/** Grows with `push(delta)`; `flush()` brings the element up to date. */
export class Markdown {
  constructor(element) {
    this.element = element;
    this.set("");
  }

  set(text) {
    this.text = text;
    this.done = 0;
    this.tail = null;
    this.level = 1;
    put(this.element);
    this.flush();
  }

  push(delta) {
    this.text += delta;
  }

  flush() {
    for (;;) {
      const rest = this.text.slice(this.done);
      if (!rest) return;
      const end = endOfBlock(rest);
      const node = block(end < 0 ? rest : rest.slice(0, end));
      if (this.tail) this.tail.replaceWith(node);
      else this.element.append(node);
      this.tail = end < 0 ? node : null;
      const level = leveled(node, this.level);
      if (end < 0) return;
      this.level = level;
      this.done += end;
    }
  }
}

/** Headings under a page's own: none skips a level, whatever a model writes. Gives the last one's. */
function leveled(node, before) {
  let last = before;
  for (const heading of [node, ...(node.querySelectorAll?.("h3, h4, h5, h6") ?? [])]) {
    if (!heading.matches?.("h3, h4, h5, h6")) continue;
    last = Math.min(Number(heading.localName[1]), last + 1);
    heading.setAttribute("aria-level", last);
  }
  return last;
}

/** Index after the first block of `text`, or -1 while it may still grow. */
function endOfBlock(text) {
  const fence = /^(\s*\n)*( {0,3})(`{3,}|~{3,})[^\n]*(\n|$)/.exec(text);
  if (fence) {
    const closing = new RegExp(`^ {0,3}${fence[3][0]}{${fence[3].length},}[ \\t]*(\\n|$)`, "m");
    const body = text.slice(fence[0].length);
    const found = closing.exec(body);
    return found && found[0].endsWith("\n") ? fence[0].length + found.index + found[0].length : -1;
  }
  const gap = /\n[ \t]*\n+/.exec(text.replace(/^\s*\n/, (blank) => " ".repeat(blank.length)));
  if (!gap) return -1;
  const end = gap.index + gap[0].length;
  // A list goes on over an empty line when what follows is indented or another item; wait until that is known.
  if (isItem(text)) {
    const after = text.slice(end);
    if (!after) return -1;
    if (/^( {2,}|\t)/.test(after) || isItem(after)) {
      const more = endOfBlock(after);
      return more < 0 ? -1 : end + more;
    }
  }
  return end;
}

const isItem = (text) => /^\s*([-*+]|\d{1,9}[.)])\s/.test(text);

function block(source) {
  const text = source.replace(/^(\s*\n)+/, "").trimEnd();
  const fence = /^ {0,3}(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n]*\n?/.exec(text);
  if (fence) return codeBlock(text.slice(fence[0].length).replace(/\n? {0,3}(`{3,}|~{3,})[ \t]*$/, ""), fence[2]);
  const heading = /^(#{1,6})\s+([^\n]*)(?:\n([\s\S]*))?$/.exec(text);
  if (heading) {
    const title = inline(h(`h${Math.min(heading[1].length + 2, 6)}`), heading[2].replace(/\s#+$/, ""));
    return heading[3] ? h("div", {}, title, block(heading[3])) : title;
  }
  if (/^ {0,3}([-*_])( *\1){2,}$/.test(text)) return h("hr");
  if (/^ {0,3}>/.test(text)) return h("blockquote", {}, block(text.replace(/^ {0,3}> ?/gm, "")));
  if (isItem(text)) return list(text);
  if (/^[^\n]*\|[^\n]*\n *\|? *:?-+:? *(\| *:?-+:? *)*\|? *(\n|$)/.test(text)) return table(text);
  return paragraph(text);
}

/** A paragraph, and a list, quote or code fence that follows directly without an empty line. */
function paragraph(text) {
  const lines = text.split("\n");
  const at = lines.findIndex((line, n) => n > 0 && (isItem(line) || /^ {0,3}(`{3,}|#{1,6} |>)/.test(line)));
  if (at < 0) return inline(h("p"), text);
  return h("div", {}, inline(h("p"), lines.slice(0, at).join("\n")), block(lines.slice(at).join("\n")));
}

function codeBlock(code, language) {
  const button = h("button", { class: "tl-quiet tl-copy", type: "button", title: "Copy", "aria-label": "Copy code" }, icon("copy"));
  button.addEventListener("click", () => copy(code));
  return h("figure", { class: "tl-code" }, h("figcaption", {}, h("span", {}, language || "text"), button), h("pre", { tabindex: "0" }, h("code", {}, code)));
}

function list(text) {
  const first = /^(\s*)([-*+]|(\d{1,9})[.)])\s/.exec(text);
  const indent = first[1].length;
  const items = [];
  const lines = text.split("\n");
  for (const [n, line] of lines.entries()) {
    const mark = /^(\s*)([-*+]|\d{1,9}[.)])\s+/.exec(line);
    const isOwn = mark && mark[1].length <= indent;
    // Bullets after numbers, or numbers after bullets, are a list of their own.
    if (isOwn && items.length && /\d/.test(mark[2]) !== Boolean(first[3])) return h("div", {}, listOf(first, items), list(lines.slice(n).join("\n")));
    if (isOwn) items.push([line.slice(mark[0].length)]);
    else if (items.length) items.at(-1).push(line);
  }
  return listOf(first, items);
}

function listOf(first, items) {
  const start = first[3] && first[3] !== "1" ? { start: first[3] } : {};
  return h(first[3] ? "ol" : "ul", start, items.map(listItem));
}

function listItem(lines) {
  const [head, ...rest] = lines;
  const task = /^\[([ xX])\]\s+/.exec(head);
  const item = inline(h("li"), task ? head.slice(task[0].length) : head);
  if (task) item.prepend(h("input", { type: "checkbox", disabled: true, checked: task[1] !== " ", "aria-label": "task" }), " ");
  const depth = Math.min(...rest.filter((line) => line.trim()).map((line) => /^\s*/.exec(line)[0].length));
  const inner = rest.map((line) => line.slice(Number.isFinite(depth) ? depth : 0)).join("\n").trim();
  if (inner) item.append(block(inner));
  return item;
}

function table(text) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  const [head, rule, ...rows] = text.split("\n").filter((line) => line.trim());
  const sides = cells(rule).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "start"));
  const row = (tag) => (line) => h("tr", {}, cells(line).map((cell, n) => inline(h(tag, { style: { textAlign: sides[n] ?? "start" } }), cell)));
  return h("div", { class: "tl-table", tabindex: "0" }, h("table", {}, h("thead", {}, row("th")(head)), h("tbody", {}, rows.map(row("td")))));
}

/** Emphasis, code and links of one run of text, appended to `node`. */
function inline(node, text) {
  if (node.matches("p, li, h3, h4, h5, h6, th, td")) node.dir = "auto";
  const image = IMAGE.exec(text);
  if (image && text.slice(0, image.index).split("`").length % 2) {
    inline(node, text.slice(0, image.index));
    node.append(picture(image[1], image[2]));
    return inline(node, text.slice(image.index + image[0].length));
  }
  let rest = text;
  for (let found = INLINE.exec(rest); found; found = INLINE.exec(rest)) {
    plain(node, rest.slice(0, found.index));
    const [all, , code, strong, star, underscore, struck, label, target, between, bare] = found;
    if (code !== undefined) node.append(h("code", {}, code.trim()));
    else if (strong !== undefined) node.append(inline(h("strong"), strong));
    else if ((star ?? underscore) !== undefined) node.append(inline(h("em"), star ?? underscore));
    else if (struck !== undefined) node.append(inline(h("s"), struck));
    else if ((between ?? bare) !== undefined) node.append(link(between ?? bare, [between ?? bare]));
    else if (SAFE_LINK.test(target)) node.append(link(target, [...inline(h("span"), label).childNodes]));
    else plain(node, all);
    rest = rest.slice(found.index + all.length);
  }
  plain(node, rest);
  return node;
}

/** Images are not loaded: a model could leak data through their address. */
function picture(words, target) {
  const name = words || "image";
  if (!SAFE_LINK.test(target)) return h("span", { class: "tl-md-image tl-soft" }, `[${name}: an image that is not shown]`);
  return h("span", { class: "tl-md-image" }, link(target, [name]), h("small", { class: "tl-soft" }, "(image, opened elsewhere)"));
}

function link(target, children) {
  return h("a", { href: target, target: "_blank", rel: "noopener noreferrer nofollow" }, children);
}

function plain(node, text) {
  text.split(/ {2,}\n|\\\n/).forEach((line, n) => {
    if (n) node.append(h("br"));
    if (line) node.append(safeText(line));
  });
}
