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

export function clock(at) {
  const time = new Date(at * 1000);
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
}

/** The time of day, with the day before it unless it is today. */
export function instant(at) {
  const time = new Date(at * 1000);
  const today = new Date().toDateString() === time.toDateString();
  return today ? clock(at) : `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${clock(at)}`;
}

export const many = (number, what) => `${count(number)} ${number === 1 ? what : `${what}s`}`;
