// Numbers and instants as people read them.

const STEPS = ["", "k", "M", "G", "T"];

/** 1234567 -> "1.23 M": three digits, whatever the size. */
export function short(number) {
  let step = 0;
  let value = number;
  while (Math.abs(value) >= 999.5 && step < STEPS.length - 1) { value /= 1000; step += 1; }
  const digits = step === 0 && Number.isInteger(value) ? 0 : value >= 99.5 ? 0 : value >= 9.95 ? 1 : 2;
  const text = step === 0 && value < 99.5 && !Number.isInteger(value) ? value.toFixed(1) : value.toFixed(digits);
  return STEPS[step] ? `${text} ${STEPS[step]}` : text;
}

export const bits = (number) => (number ? `${short(number)}${number < 999.5 ? " " : ""}bit/s` : "0 bit/s");
export const count = (number) => Math.round(number).toLocaleString("en");
export const percent = (share) => `${(share * 100).toFixed(share >= 0.0995 || share === 0 ? 0 : 1)} %`;

/** 3725 -> "1 h 2 min". */
export function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const two = (number) => String(number).padStart(2, "0");

/** The time of day in UTC, as in logs and in the first line: whoever looks may be anywhere. */
export function clock(at) {
  const time = new Date(at * 1000);
  return `${two(time.getUTCHours())}:${two(time.getUTCMinutes())}:${two(time.getUTCSeconds())}`;
}

/** The time of day, with the day before it unless it is today, and with its zone. */
export function instant(at) {
  const day = (time) => time.toISOString().slice(0, 10);
  const time = new Date(at * 1000);
  return `${day(time) === day(new Date()) ? "" : `${day(time)} `}${clock(at)} UTC`;
}

/** The same by the reader's own clock. */
export const local = (at) => new Date(at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "long" });

const UNITS = { s: "s", ms: "ms", ns: "ns", bytes: "bytes" };

/** A field of an event: ("after_s", 44.9) -> ["after", "44.9 s"]. */
export function field(name, value) {
  const words = name.split("_");
  const unit = words.length > 1 && typeof value === "number" ? UNITS[words.at(-1)] : undefined;
  return [(unit ? words.slice(0, -1) : words).join(" "), unit ? `${value} ${unit}` : told(value)];
}

function told(value) {
  if (Array.isArray(value)) return value.map(told).join(", ");
  if (value && typeof value === "object") return Object.entries(value).map(([key, one]) => `${key} ${told(one)}`).join(", ");
  return String(value);
}

export const many = (number, what) => `${count(number)} ${number === 1 ? what : `${what}s`}`;
