"use strict";
(() => {
  document.documentElement.classList.add("script");
  const element = (name, css, text) => {
    const made = document.createElement(name);
    if (css) made.className = css;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  /* Saving: a figure's drawing with the colours it has now, or its numbers. */
  const save = (name, kind, text) => {
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([text], { type: kind }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const escaped = (text) => text.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
  const STYLES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "font-size", "font-family", "font-weight", "text-anchor"];
  const inked = (svg) => {
    const copy = svg.cloneNode(true);
    const from = svg.querySelectorAll("*"), to = copy.querySelectorAll("*");
    from.forEach((one, place) => {
      const found = getComputedStyle(one);
      for (const name of STYLES) to[place].setAttribute(name, found.getPropertyValue(name));
    });
    return copy;
  };
  const part = (svg, box, origin) => {
    const copy = inked(svg);
    const size = { x: box.left - origin.left, y: box.top - origin.top, width: box.width, height: box.height };
    for (const name in size) copy.setAttribute(name, size[name].toFixed(1));
    return new XMLSerializer().serializeToString(copy);
  };
  const words = (node, origin) => {
    const range = document.createRange(), parts = [];
    const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode;
      if (!text.data.trim() || text.parentElement.closest("svg")) continue;
      /* A text of several lines is drawn line by line, as it is broken on the screen. */
      let start = 0, last = null;
      for (let end = 1; end <= text.length; end++) {
        range.setStart(text, end - 1); range.setEnd(text, end);
        const box = range.getBoundingClientRect();
        if (last && box.top > last.bottom - 2 && box.height) { parts.push([text, start, end - 1, last]); start = end - 1; }
        if (box.height) last = box;
      }
      if (last) parts.push([text, start, text.length, last]);
    }
    return parts.map(([text, start, end]) => {
      range.setStart(text, start); range.setEnd(text, end);
      const box = range.getBoundingClientRect(), found = getComputedStyle(text.parentElement);
      const x = (box.left - origin.left).toFixed(1), y = (box.bottom - origin.top - box.height * 0.24).toFixed(1);
      return `<text x="${x}" y="${y}" fill="${found.color}" font-size="${found.fontSize}" font-weight="${found.fontWeight}" font-family="sans-serif">${escaped(text.data.slice(start, end).trim())}</text>`;
    }).join("");
  };
  const drawing = (figure) => {
    const drawn = [...figure.querySelectorAll(".drawn")];
    const boxes = drawn.map((one) => one.getBoundingClientRect());
    const origin = { left: Math.min(...boxes.map((box) => box.left)), top: Math.min(...boxes.map((box) => box.top)) };
    const width = Math.max(...boxes.map((box) => box.right)) - origin.left, height = Math.max(...boxes.map((box) => box.bottom)) - origin.top;
    const shapes = [`<rect width="100%" height="100%" fill="${getComputedStyle(document.body).backgroundColor}"/>`];
    for (const one of drawn) {
      if (one.tagName === "svg") {
        const title = one.closest(".chart")?.querySelector("h4");
        shapes.push(part(one, one.getBoundingClientRect(), origin));
        if (title && drawn.length > 1) shapes.push(words(title, origin));
        continue;
      }
      for (const cell of one.querySelectorAll("td,th")) {
        const box = cell.getBoundingClientRect();
        shapes.push(`<rect x="${(box.left - origin.left).toFixed(1)}" y="${(box.top - origin.top).toFixed(1)}" width="${box.width.toFixed(1)}" height="${box.height.toFixed(1)}" fill="${getComputedStyle(cell).backgroundColor}"/>`);
        shapes.push(words(cell, origin));
        for (const svg of cell.querySelectorAll("svg")) shapes.push(part(svg, svg.getBoundingClientRect(), origin));
      }
    }
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${width.toFixed(0)}" height="${height.toFixed(0)}" viewBox="0 -20 ${width.toFixed(0)} ${(height + 20).toFixed(0)}">${shapes.join("")}</svg>`;
  };
  const csv = (figure) => {
    const numbers = JSON.parse(figure.querySelector("script.numbers").textContent);
    const field = (value) => value === null ? "" : /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
    return [numbers.columns, ...numbers.rows].map((row) => row.map(field).join(",") + "\r\n").join("");
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-save]");
    if (!button) return;
    const figure = button.closest("figure");
    if (button.dataset.save === "svg") save(`${figure.id}.svg`, "image/svg+xml", drawing(figure));
    else save(`${figure.id}.csv`, "text/csv", csv(figure));
  });

  /* Pairs to read. */
  const STEP = 20;
  const browse = (box) => {
    const pairs = JSON.parse(box.querySelector("script.data").textContent), form = box.querySelector("form");
    const list = box.querySelector(".pairs"), count = box.querySelector(".count"), more = box.querySelector(".more");
    let many = STEP;
    for (const name of ["attribute", "user", "context"]) {
      const select = form.elements[name];
      const values = [...new Set(pairs.map((pair) => pair[name]))].sort((a, b) => (a === null) - (b === null) || (a < b ? -1 : a > b ? 1 : 0));
      if (values.length === 1 && values[0] === null) { select.closest("label").hidden = true; select.closest("label").style.display = "none"; continue; }
      values.forEach((value) => {
        const option = element("option", "", value === null ? "none" : value);
        option.value = value === null ? "" : `=${value}`;
        select.append(option);
      });
    }
    const side = (pair, which) => {
      const block = element("div"), text = element("p", "long", pair[which]);
      text.dir = "auto";
      if (pair[which].length > 1200) { text.tabIndex = 0; text.setAttribute("role", "region"); text.setAttribute("aria-label", which + " response"); }
      block.append(element("h5", "", which), text);
      return block;
    };
    const article = (pair) => {
      const made = element("article", "pair"), two = element("div", "two"), prompt = element("p", "prompt long", pair.prompt);
      prompt.dir = "auto";
      if (pair.prompt.length > 1200) { prompt.tabIndex = 0; prompt.setAttribute("role", "region"); prompt.setAttribute("aria-label", "prompt"); }
      const about = [pair.attribute, pair.user === null ? null : `person ${pair.user}`, pair.context].filter((text) => text !== null);
      const meta = element("p", "meta", about.join(" · "));
      meta.dir = "auto";
      two.append(side(pair, "chosen"), side(pair, "rejected"));
      const sign = (value) => (value > 0 ? "+" : "") + value.toFixed(2);
      const heads = pair.m.map((margin, head) => `head ${head}: ${sign(margin)}${pair.w ? ` (weight ${pair.w[head].toFixed(2)})` : ""}`);
      made.append(meta, prompt, two, element("p", "meta", `P(chosen) ${pair.p.toFixed(2)}, heads ${pair.spread.toFixed(2)} apart; margins: ${heads.join(", ")}`));
      return made;
    };
    const show = () => {
      const chosen = Object.fromEntries(["attribute", "user", "context", "head", "order", "words"].map((name) => [name, form.elements[name].value]));
      const words = chosen.words.trim().toLowerCase();
      const kept = pairs.filter((pair) => ["attribute", "user", "context"].every((name) => chosen[name] === "*" || (pair[name] === null ? chosen[name] === "" : chosen[name] === `=${pair[name]}`))
        && (chosen.head === "*" || pair.m[Number(chosen.head)] < 0)
        && (!words || `${pair.prompt}\n${pair.chosen}\n${pair.rejected}`.toLowerCase().includes(words)));
      const head = chosen.head === "*" ? null : Number(chosen.head);
      const key = head !== null ? (pair) => pair.m[head] : chosen.order === "wrong" ? (pair) => pair.p : (pair) => -pair.spread;
      kept.sort((a, b) => key(a) - key(b));
      list.replaceChildren(...kept.slice(0, many).map(article));
      more.hidden = kept.length <= many;
      count.textContent = `${kept.length} of ${pairs.length} pairs, ${Math.min(many, kept.length)} shown`;
    };
    form.addEventListener("input", () => { many = STEP; show(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", () => { many += STEP; show(); });
    show();
  };
  document.querySelectorAll(".browser").forEach(browse);
})();
