/** Formats a size with three digits, such as `269 MB` or `1.50 GB`. */
export function sizeText(bytes: number): string {
  const [unit, name] = bytes >= 999.5e6 ? [1e9, "GB"] : bytes >= 999.5e3 ? [1e6, "MB"] : [1e3, "kB"];
  return `${threeDigits(bytes / unit)} ${name}`;
}

/** Formats a number of parameters, such as `135M` or `1.7B`. */
export function countText(count: number): string {
  return count >= 999.5e6 ? `${(count / 1e9).toFixed(1)}B` : `${Math.round(count / 1e6)}M`;
}

/** Formats a duration, such as `42 s`, `3 min` or `1 h 20 min`. */
export function durationText(seconds: number): string {
  const whole = Math.max(0, Math.ceil(seconds));
  if (whole < 100) return `${whole} s`;
  const minutes = Math.ceil(whole / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Formats a time of the local clock, such as `2026-03-14 09:26`. */
export function timeText(atMs: number): string {
  const at = new Date(atMs);
  const [month, day, hours, minutes] = [at.getMonth() + 1, at.getDate(), at.getHours(), at.getMinutes()].map((part) =>
    String(part).padStart(2, "0"),
  );
  return `${at.getFullYear()}-${month}-${day} ${hours}:${minutes}`;
}

function threeDigits(value: number): string {
  return value < 9.995 ? value.toFixed(2) : value < 99.95 ? value.toFixed(1) : value.toFixed(0);
}

/** Adds up the bytes of entries. */
export function bytesOf(entries: readonly { readonly bytes: number }[]): number {
  return entries.reduce((sum, { bytes }) => sum + bytes, 0);
}
