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
  const px = (number) => number.toFixed(1);
  const part = (svg, origin) => {
    const copy = inked(svg), box = svg.getBoundingClientRect();
    const size = { x: box.left - origin.left, y: box.top - origin.top, width: box.width, height: box.height };
    for (const name in size) copy.setAttribute(name, px(size[name]));
    return new XMLSerializer().serializeToString(copy);
  };
  /* The lines of a text as the screen breaks it: each is its first and last letter and its box. */
  const lines = (text) => {
    const range = document.createRange(), found = [];
    const boxOf = (start, end) => { range.setStart(text, start); range.setEnd(text, end); return range.getBoundingClientRect(); };
    let start = 0, last = null;
    for (let end = 1; end <= text.length; end++) {
      const box = boxOf(end - 1, end);
      if (!box.height) continue;
      if (last && box.top > last.bottom - 2) { found.push([start, end - 1]); start = end - 1; }
      last = box;
    }
    if (last) found.push([start, text.length]);
    return found.map(([first, stop]) => [text.data.slice(first, stop).trim(), boxOf(first, stop)]);
  };
  const pen = document.createElement("canvas").getContext("2d");
  const words = (node, origin) => {
    const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT), parts = [];
    while (walker.nextNode()) {
      const text = walker.currentNode;
      if (!text.data.trim() || text.parentElement.closest("svg")) continue;
      const found = getComputedStyle(text.parentElement), rtl = found.direction === "rtl";
      const right = found.textAlign === "right" || (found.textAlign === "start" && rtl);
      const middle = found.textAlign === "center", anchor = middle ? "middle" : right === rtl ? "start" : "end";
      pen.font = found.font;
      const below = pen.measureText("x").fontBoundingBoxDescent;
      for (const [line, box] of lines(text)) {
        /* Other programs have other fonts: a text keeps the edge, or the middle, that it has on the screen. */
        const x = middle ? box.left + box.width / 2 : right ? box.right : box.left;
        const at = `x="${px(x - origin.left)}" y="${px(box.bottom - origin.top - below)}"`;
        const font = `font-size="${found.fontSize}" font-weight="${found.fontWeight}" font-family="${escaped(found.fontFamily)}"`;
        parts.push(`<text ${at} fill="${found.color}" ${font} text-anchor="${anchor}" direction="${found.direction}">${escaped(line)}</text>`);
      }
    }
    return parts.join("");
  };
  const cell = (one, origin, paper) => {
    const box = one.getBoundingClientRect(), found = getComputedStyle(one);
    const x = px(box.left - origin.left), y = px(box.top - origin.top), bottom = px(box.bottom - origin.top);
    const shapes = [];
    if (![paper, "rgba(0, 0, 0, 0)"].includes(found.backgroundColor)) shapes.push(`<rect x="${x}" y="${y}" width="${px(box.width)}" height="${px(box.height)}" fill="${found.backgroundColor}" stroke="${paper}"/>`);
    if (parseFloat(found.borderBottomWidth) && found.borderBottomColor !== paper) shapes.push(`<path d="M${x} ${bottom}h${px(box.width)}" stroke="${found.borderBottomColor}"/>`);
    return shapes.join("") + words(one, origin) + [...one.querySelectorAll("svg")].map((svg) => part(svg, origin)).join("");
  };
  const drawing = (figure) => {
    const boxes = [...figure.querySelectorAll(".scroll")].map((box) => [box, box.scrollLeft]);
    boxes.forEach(([box]) => { box.scrollLeft = 0; });
    const heading = figure.querySelector("h3"), range = document.createRange();
    range.selectNodeContents(heading);
    const named = range.getBoundingClientRect(), paper = getComputedStyle(document.body).backgroundColor;
    const drawn = [...figure.querySelectorAll(".drawn,.chart h4")], places = drawn.map((one) => one.getBoundingClientRect());
    const start = Math.min(...places.map((box) => box.left)), top = Math.min(...places.map((box) => box.top));
    const space = named.height + 8, edge = 8;
    const origin = { left: start - edge, top: top - space - edge };
    const width = Math.max(named.width, ...places.map((box) => box.right - start)) + 2 * edge;
    const height = Math.max(...places.map((box) => box.bottom)) - top + space + 2 * edge;
    const shapes = drawn.map((one) => one.tagName === "svg" ? part(one, origin)
      : one.tagName === "H4" ? words(one, origin)
      : [...one.querySelectorAll("td,th")].map((inner) => cell(inner, origin, paper)).join(""));
    boxes.forEach(([box, left]) => { box.scrollLeft = left; });
    const size = `width="${px(width)}" height="${px(height)}" viewBox="0 0 ${px(width)} ${px(height)}"`;
    const title = words(heading, { left: named.left - edge, top: named.top - edge });
    return `<svg xmlns="http://www.w3.org/2000/svg" ${size}><title>${escaped(heading.textContent)}</title><rect width="100%" height="100%" fill="${paper}"/>${title}${shapes.join("")}</svg>`;
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
  const LONG = 1200, OPTION = 120;
  /* A text that scrolls in its box must be reached by keyboard. */
  const reading = (text, css, name) => {
    const made = element("p", css, text);
    made.dir = "auto";
    if (text.length > LONG) { made.tabIndex = 0; made.setAttribute("role", "group"); made.setAttribute("aria-label", name); }
    return made;
  };
  const signed = (value) => (value > 0 ? "+" : "") + value.toFixed(2);
  const about = (pair) => {
    const heads = pair.m.map((margin, head) => `head ${head}: ${signed(margin)}${pair.w ? ` (weight ${pair.w[head].toFixed(2)})` : ""}`);
    const apart = pair.spread === null ? "" : `, heads ${pair.spread.toFixed(2)} apart`;
    return `P(chosen) ${pair.p.toFixed(2)}${apart}; ${heads.length > 1 ? "margins" : "margin"}: ${heads.join(", ")}`;
  };
  const article = (pair) => {
    const made = element("article", "pair"), two = element("div", "two");
    const whose = [pair.attribute, pair.user === null ? null : `person ${pair.user}`, pair.context].filter((text) => text !== null);
    for (const which of ["chosen", "rejected"]) {
      const side = element("div");
      side.append(element("h4", "", which), reading(pair[which], "long", `${which} response`));
      two.append(side);
    }
    if (whose.length) made.append(reading(whose.join(" · "), "meta long", "whose choice"));
    made.append(reading(pair.prompt, "prompt long", "prompt"), two, element("p", "meta", about(pair)));
    return made;
  };
  const browse = (box) => {
    const pairs = JSON.parse(box.querySelector("script.data").textContent), form = box.querySelector("form");
    const list = box.querySelector(".pairs"), count = box.querySelector(".count"), more = box.querySelector(".more");
    const several = pairs.some((pair) => pair.m.length > 1);
    let many = STEP;
    for (const name of ["attribute", "user", "context"]) {
      const select = form.elements[name];
      const values = [...new Set(pairs.map((pair) => pair[name]))].sort((a, b) => (a === null) - (b === null) || (a < b ? -1 : a > b ? 1 : 0));
      select.closest("label").hidden = values.every((value) => value === null);
      values.forEach((value) => {
        const letters = value === null ? ["none"] : [...value];
        const option = element("option", "", letters.slice(0, OPTION).join("") + (letters.length > OPTION ? "…" : ""));
        option.value = value === null ? "" : `=${value}`;
        select.append(option);
      });
    }
    const show = () => {
      const chosen = Object.fromEntries(["attribute", "user", "context", "head", "order", "words"].map((name) => [name, form.elements[name]?.value ?? "*"]));
      const words = chosen.words.trim().toLowerCase();
      const kept = pairs.filter((pair) => ["attribute", "user", "context"].every((name) => chosen[name] === "*" || (pair[name] === null ? chosen[name] === "" : chosen[name] === `=${pair[name]}`))
        && (chosen.head === "*" || pair.m[Number(chosen.head)] < 0)
        && (!words || `${pair.prompt}\n${pair.chosen}\n${pair.rejected}`.toLowerCase().includes(words)));
      const head = chosen.head === "*" ? null : Number(chosen.head);
      const key = head !== null ? (pair) => pair.m[head] : !several || chosen.order === "wrong" ? (pair) => pair.p : (pair) => -pair.spread;
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
