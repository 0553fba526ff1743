// Terminal colours as classes: a small parser; whatever else an escape sequence asks for is left out.

const SEQUENCE = /\x1b(?:\[([0-?]*)[ -/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])/g;
const CONTROL = /[\x00-\x08\x0b-\x1f\x7f]/g;

/** A line's text as nodes. `state` is carried from line to line: what is switched on. */
export function ansiNodes(text, state) {
  const nodes = [];
  let last = 0;
  SEQUENCE.lastIndex = 0;
  for (let match = SEQUENCE.exec(text); match; match = SEQUENCE.exec(text)) {
    add(nodes, text.slice(last, match.index), state);
    last = match.index + match[0].length;
    if (match[2] === "m") select(match[1], state);
  }
  add(nodes, text.slice(last), state);
  return nodes;
}

function add(nodes, text, state) {
  if (!text) return;
  const clean = text.replace(CONTROL, (one) => String.fromCharCode(one === "\x7f" ? 0x2421 : 0x2400 + one.charCodeAt(0)));
  const classes = [...state.on].map((code) => `a${code}`);
  if (state.front !== null) classes.push(`f${state.front}`);
  if (state.back !== null) classes.push(`b${state.back}`);
  if (!classes.length) { nodes.push(clean); return; }
  const span = document.createElement("span");
  span.className = classes.join(" ");
  span.textContent = clean;
  nodes.push(span);
}

export function plainState() { return { on: new Set(), front: null, back: null }; }

function select(parameters, state) {
  const codes = parameters.split(/[;:]/).map(Number);
  for (let place = 0; place < codes.length; place++) {
    const code = codes[place];
    if (code === 0) { state.on.clear(); state.front = state.back = null; }
    else if ([1, 2, 3, 4, 7, 9].includes(code)) state.on.add(code);
    else if (code === 22) { state.on.delete(1); state.on.delete(2); }
    else if ([23, 24, 27, 29].includes(code)) state.on.delete(code - 20);
    else if (code >= 30 && code <= 37) state.front = code - 30;
    else if (code >= 90 && code <= 97) state.front = code - 90;
    else if (code === 39) state.front = null;
    else if (code >= 40 && code <= 47) state.back = code - 40;
    else if (code >= 100 && code <= 107) state.back = code - 100;
    else if (code === 49) state.back = null;
    else if (code === 38 || code === 48) {
      const long = codes[place + 1] === 2;
      const near = long ? nearest(codes.slice(place + 2, place + 5)) : indexed(codes[place + 2]);
      if (code === 38) state.front = near; else state.back = near;
      place += long ? 4 : 2;
    }
  }
}

function indexed(number) {
  if (number < 16) return number % 8;
  if (number >= 232) return number > 243 ? 7 : 0;
  const cube = number - 16;
  return nearest([Math.floor(cube / 36) * 51, (Math.floor(cube / 6) % 6) * 51, (cube % 6) * 51]);
}

function nearest([red = 0, green = 0, blue = 0]) {
  const high = Math.max(red, green, blue) / 2;
  return high < 24 ? 0 : (red > high ? 1 : 0) + (green > high ? 2 : 0) + (blue > high ? 4 : 0);
}
