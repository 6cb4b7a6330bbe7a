// The stream of frames, read with fetch, as an EventSource cannot send a token. Tries again for as long as the page is
// open; what it knows of the connection is told to `onLink`, so that the page never shows old data as new.

const SILENT_MS = 5000; // frames come every second; after this the instance is held for dead
const WAITS_MS = [1000, 1000, 2000, 3000, 5000];
const KEY = "asynclb.token";

export const token = {
  get: () => { try { return sessionStorage.getItem(KEY); } catch { return null; } },
  set: (value) => { try { sessionStorage.setItem(KEY, value); } catch { /* asked for again by the next page */ } },
};

/** Asks the API; throws what a person should read. */
export async function ask(path) {
  let answer;
  try {
    answer = await fetch(path, { headers: headers(), cache: "no-store" });
  } catch {
    throw new Error("the instance does not answer");
  }
  const found = await answer.json().catch(() => null);
  if (answer.ok) return found;
  throw new Error(found?.error ? `${found.error}; ${found.remedy}` : `the instance answers ${answer.status}`);
}

function headers() {
  const found = token.get();
  return found ? { Authorization: `Bearer ${found}` } : {};
}

export class Live {
  #wake = () => {};

  /** `onFrame(event, document)`; `onLink(state, text)` with state live, lost, crowded or locked. */
  constructor(onFrame, onLink) {
    this.onFrame = onFrame;
    this.onLink = onLink;
  }

  async run() {
    for (let failures = 0; ; failures += 1) {
      const outcome = await this.#listen(() => { failures = 0; });
      this.onLink(outcome.state, outcome.text);
      const wait = outcome.state === "locked" ? 1e9 : outcome.wait ?? WAITS_MS[Math.min(failures, WAITS_MS.length - 1)];
      await this.#sleep(wait);
    }
  }

  /** Tries again at once. */
  hurry() { this.#wake(); }

  #sleep(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, Math.min(ms, 2 ** 31 - 1));
      this.#wake = () => { clearTimeout(timer); resolve(); };
    });
  }

  async #listen(onData) {
    const ending = new AbortController();
    let timer = setTimeout(() => ending.abort(), SILENT_MS);
    const heard = () => { clearTimeout(timer); timer = setTimeout(() => ending.abort(), SILENT_MS); };
    try {
      const answer = await fetch("api/v1/stream", { headers: headers(), cache: "no-store", signal: ending.signal });
      if (answer.status === 401) return { state: "locked", text: token.get() ? "That token is wrong." : "" };
      if (answer.status === 503) {
        const found = await answer.json().catch(() => ({}));
        return { state: "crowded", text: found.error || "", wait: 1000 * (Number(answer.headers.get("Retry-After")) || 5) };
      }
      if (!answer.ok) return { state: "lost", text: `it answers ${answer.status}` };
      for await (const [event, data] of events(answer.body, heard)) {
        onData();
        if (event === "bye") return { state: "lost", text: "it was stopped in order" };
        this.onFrame(event, JSON.parse(data));
      }
      return { state: "lost", text: "it closed the connection" };
    } catch {
      return { state: "lost", text: ending.signal.aborted ? "it is silent for five seconds" : "the connection ended, or nobody listens there" };
    } finally {
      clearTimeout(timer);
      ending.abort();
    }
  }
}

/** Yields [event, data] of a body of server-sent events. */
async function* events(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const whole = text.slice(0, end);
      text = text.slice(end + 2);
      const event = /^event: (.*)$/m.exec(whole)?.[1];
      const data = /^data: (.*)$/m.exec(whole)?.[1];
      if (event && data) yield [event, data];
    }
  }
}
