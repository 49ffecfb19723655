// How figures are written in sentences, tables and pictures.

/** With `digits` decimals; what rounds to nothing has no sign. */
export function decimals(value: number, digits = 2): string {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text;
}

/** A difference, with its sign but where it rounds to nothing. */
export function signed(value: number, digits: number): string {
  const text = decimals(value, digits);
  return value > 0 && Number(text) !== 0 ? `+${text}` : text.replace("-", "−");
}

/** A share in [0, 1] in per cent. */
export function percent(share: number): string {
  return `${decimals(share * 100, 0)} %`;
}

/** With separators for thousands. */
export function grouped(count: number): string {
  return `${Math.round(count)}`.replace(/\B(?=(?:\d{3})+$)/g, ",");
}

/** A large number with three leading digits: `6.89 million`. */
export function rounded(count: number): string {
  for (const [unit, name] of [
    [1e9, "billion"],
    [1e6, "million"],
  ] as const) {
    if (count >= unit) return `${(count / unit).toPrecision(3)} ${name}`;
  }
  return grouped(count);
}

export function duration(ms: number): string {
  if (ms < 60_000) return `${decimals(ms / 1000, ms < 10_000 ? 1 : 0)} s`;
  const minutes = Math.floor(ms / 60_000);
  const seconds = Math.floor((ms % 60_000) / 1000);
  return minutes < 60 ? `${minutes} min ${seconds} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function bytes(count: number): string {
  return count < 1e9 ? `${decimals(count / 1e6, 0)} MB` : `${decimals(count / 1e9)} GB`;
}

/** `"a, b and c"` */
export function listed(words: readonly string[]): string {
  const last = words.at(-1) ?? "";
  return words.length < 2 ? last : `${words.slice(0, -1).join(", ")} and ${last}`;
}
