// Requests to the service. A key is kept for this tab only.

const KEY = "llamavae-key";

function headers() {
  const key = sessionStorage.getItem(KEY);
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

/** The key of the service is missing or wrong. */
export class KeyError extends Error {}

export function keepKey(key) {
  sessionStorage.setItem(KEY, key);
}

async function request(path, body, signal) {
  const options = { headers: headers(), signal };
  if (body !== undefined) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  const response = await fetch(path, options);
  if (response.ok) return response;
  let message = `the service answered with status ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // not from this service
  }
  throw response.status === 401 ? new KeyError(message) : new Error(message);
}

/** The answer to a request as an object. */
export async function ask(path, body, signal) {
  return (await request(path, body, signal)).json();
}

/** Calls `each` with every server-sent event of the answer. */
export async function listen(path, body, signal, each) {
  const reader = (await request(path, body, signal)).body
    .pipeThrough(new TextDecoderStream())
    .getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const found = JSON.parse(data);
      if (found.error) throw new Error(found.error.message);
      each(found);
    }
  }
}

/** Numbers from base64. */
export function unpack(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Kind(bytes.buffer);
}
