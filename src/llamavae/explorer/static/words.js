// Texts as elements. Text is only ever inserted as text.

/** An element with attributes and children, which are elements or text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Replace the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren(...children);
}

/** Words of `text`, those that are not in a longest common subsequence with `base` marked. */
export function marked(text, base) {
  const [a, b] = [base, text].map((each) => each.split(/\s+/).filter(Boolean));
  const common = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const longer = Math.max(common[i + 1][j], common[i][j + 1]);
      common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : longer;
    }
  }
  const pieces = [];
  for (let i = 0, j = 0; j < b.length; ) {
    if (i < a.length && a[i] === b[j]) {
      pieces.push(b[j++] + " ");
      i++;
    } else if (i < a.length && common[i + 1][j] >= common[i][j + 1]) {
      i++;
    } else {
      pieces.push(make("mark", {}, b[j++]), " ");
    }
  }
  return pieces.length ? pieces : [make("i", {}, "no text")];
}
