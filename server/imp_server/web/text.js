// Text to nodes: fenced code, headings, lists, `code`, **bold**. Everything else is shown as it was written, and nothing
// is ever taken for markup.

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function paint(body, text) {
  const nodes = [];
  const fence = /^ {0,3}(`{3,}|~{3,})([^\n`]*)$/;
  let plain = [];
  const flush = () => {
    nodes.push(...prose(plain.join("\n")));
    plain = [];
  };
  const lines = text.split("\n");
  for (let i = 0; i < lines.length; i++) {
    const open = fence.exec(lines[i]);
    if (!open) {
      plain.push(lines[i]);
      continue;
    }
    flush();
    const code = [];
    while (++i < lines.length && !(lines[i].trim().startsWith(open[1]) && /^[`~]+\s*$/.test(lines[i].trim()))) code.push(lines[i]);
    nodes.push(codeBlock(open[2].trim(), code.join("\n")));
  }
  flush();
  body.replaceChildren(...nodes);
}

function prose(text) {
  const nodes = [];
  for (const block of text.split(/\n{2,}/)) {
    const trimmed = block.replace(/^\n+|\s+$/g, "");
    if (!trimmed) continue;
    const lines = trimmed.split("\n");
    const heading = /^#{1,6}\s+(.*)$/.exec(lines[0]);
    if (heading) {
      nodes.push(element("h3", {}, ...inline(heading[1])));
      lines.shift();
    }
    const bullet = /^\s*[-*+]\s+/;
    const number = /^\s*\d+[.)]\s+/;
    const mark = [bullet, number].find((each) => lines.length && lines.every((line) => each.test(line)));
    if (mark) {
      const items = lines.map((line) => element("li", {}, ...inline(line.replace(mark, ""))));
      const list = element(mark === bullet ? "ul" : "ol", {}, ...items);
      if (mark === number) list.start = parseInt(lines[0], 10);
      nodes.push(list);
    } else if (lines.length) {
      nodes.push(element("p", {}, ...inline(lines.join("\n"))));
    }
  }
  return nodes;
}

function inline(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).map((part) => {
    if (part.length > 2 && part.startsWith("`")) return element("code", { textContent: part.slice(1, -1) });
    if (part.length > 4 && part.startsWith("**")) return element("strong", { textContent: part.slice(2, -2) });
    return part;
  });
}

function codeBlock(language, code) {
  const caption = element("figcaption", {}, element("span", { textContent: language || "text" }), copier(() => code));
  return element("figure", { className: "code" }, caption, element("pre", { tabIndex: 0 }, element("code", { textContent: code })));
}

export function copier(text) {
  const button = element("button", { className: "quiet", type: "button", textContent: "Copy" });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed here";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}
