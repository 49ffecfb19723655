// Grammars of the numbers between two bounds, digit by digit.

export interface NumberRange {
  readonly from: number;
  readonly to: number;
  readonly isFromOpen: boolean;
  readonly isToOpen: boolean;
}

const ANY_FRACTION = '("." [0-9]{1,15})?';
const ZEROS = '("." "0"{1,3})?';

/** Writes the integers between two safe integers. */
export function integerRange(from: number, to: number): string {
  const choices: string[] = [];
  if (from < 0) choices.push(`"-" (${naturals(Math.max(1, -Math.min(to, -1)), -from)})`);
  if (to >= 0) choices.push(naturals(Math.max(0, from), to));
  return `(${choices.join(" | ")})`;
}

/** Writes decimals without an exponent; `undefined` when there are none. */
export function decimalRange({ from, to, isFromOpen, isToOpen }: NumberRange): string | undefined {
  const choices: string[] = [];
  // Negative numbers mirror positive ones.
  if (from < 0) {
    const mirrored = { from: Math.max(0, -to), isFromOpen: to < 0 ? isToOpen : true, to: -from, isToOpen: isFromOpen };
    choices.push(...magnitudes(mirrored).map((one) => `"-" ${one}`));
  }
  if (to >= 0)
    choices.push(...magnitudes({ from: Math.max(0, from), isFromOpen: from >= 0 && isFromOpen, to, isToOpen }));
  return choices.length === 0 ? undefined : `(${choices.join(" | ")})`;
}

/** Writes numbers from 0 up: by their whole part, then by their fraction. */
function magnitudes({ from, to, isFromOpen, isToOpen }: NumberRange): string[] {
  const [least, leastFraction] = digitsOf(from);
  const [most, mostFraction] = digitsOf(to);
  if (least === most) {
    const fraction = between(leastFraction, mostFraction, isFromOpen, isToOpen);
    return fraction === undefined ? [] : [`"${least}" ${fraction}`];
  }
  const choices = [`"${least}" ${above(leastFraction, isFromOpen)}`];
  if (Number(most) - Number(least) > 1)
    choices.push(`${naturals(Number(least) + 1, Number(most) - 1)} ${ANY_FRACTION}`);
  const last = below(mostFraction, isToOpen);
  return last === undefined ? choices : [...choices, `"${most}" ${last}`];
}

/** Splits a number into its whole part and its fraction, without trailing zeros. */
function digitsOf(value: number): readonly [string, string] {
  const [whole = "0", fraction = ""] = String(value).split(".");
  return [whole, fraction];
}

/** Writes fractions from `digits` up. */
function above(digits: string, isOpen: boolean): string {
  if (digits === "") return isOpen ? `"." ${POSITIVE}` : ANY_FRACTION;
  return `"." ${digitsAbove(digits, isOpen)}`;
}

const MORE = "[0-9]{0,9}";
/** Digits that are not all zeros, and not so small that the sum with the whole part loses them. */
const POSITIVE = `"0"{0,2} [1-9] ${MORE}`;

function digitsAbove(digits: string, isOpen: boolean): string {
  if (digits === "") return isOpen ? `(${POSITIVE})` : MORE;
  const first = Number(digits[0]);
  const same = `"${first}" ${digitsAbove(digits.slice(1), isOpen)}`;
  return first === 9 ? `(${same})` : `(${same} | [${first + 1}-9] ${MORE})`;
}

/** Writes fractions up to `digits`. */
function below(digits: string, isOpen: boolean): string | undefined {
  if (digits === "") return isOpen ? undefined : ZEROS;
  return `("." ${digitsBelow(digits, isOpen)})?`;
}

function digitsBelow(digits: string, isOpen: boolean): string {
  const first = Number(digits[0]);
  const rest = digits.slice(1);
  const choices: string[] = [];
  if (first > 0) choices.push(`[0-${first - 1}] ${MORE}`);
  if (rest !== "") choices.push(`"${first}" (${digitsBelow(rest, isOpen)})?`);
  else if (!isOpen) choices.push(`"${first}" "0"{0,3}`);
  return `(${choices.join(" | ")})`;
}

function between(low: string, high: string, isLowOpen: boolean, isHighOpen: boolean): string | undefined {
  if (low === high) return isLowOpen || isHighOpen ? undefined : low === "" ? ZEROS : `".${low}" "0"{0,3}`;
  const length = Math.max(low.length, high.length);
  const [from, to] = [low.padEnd(length, "0"), high.padEnd(length, "0")];
  let common = 0;
  while (from[common] === to[common]) common++;
  const [first, last] = [Number(from[common]), Number(to[common])];
  const choices = [`"${first}" ${digitsAbove(from.slice(common + 1), isLowOpen)}`];
  if (last - first > 1) choices.push(`[${first + 1}-${last - 1}] ${MORE}`);
  const rest = to.slice(common + 1).replace(/0+$/, "");
  if (rest !== "") choices.push(`"${last}" (${digitsBelow(rest, isHighOpen)})?`);
  else if (!isHighOpen) choices.push(`"${last}" "0"{0,3}`);
  const fraction = `".${from.slice(0, common)}" (${choices.join(" | ")})`;
  if (isLowOpen || low.length > common) return fraction;
  // The digits that both bounds begin with are `low` and zeros, which can be left out.
  return low === "" ? `(${fraction})?` : `(".${low}" "0"{0,3} | ${fraction})`;
}

/** Writes whole numbers from 0 up. */
function naturals(from: number, to: number): string {
  const choices: string[] = [];
  for (let start = from; start <= to;) {
    const { length } = String(start);
    const end = Math.min(to, 10 ** length - 1);
    choices.push(sameLength(String(start), String(end)));
    start = end + 1;
  }
  return `(${choices.join(" | ")})`;
}

function sameLength(from: string, to: string): string {
  if (from === to) return from === "" ? '""' : `"${from}"`;
  if (/^0*$/.test(from) && /^9*$/.test(to)) return `[0-9]{${from.length}}`;
  const [first, last] = [Number(from[0]), Number(to[0])];
  const [restFrom, restTo] = [from.slice(1), to.slice(1)];
  if (first === last) return `"${first}" ${sameLength(restFrom, restTo)}`;
  const { length } = restFrom;
  const anyRest = length === 0 ? "" : ` [0-9]{${length}}`;
  const [isWholeFrom, isWholeTo] = [/^0*$/.test(restFrom), /^9*$/.test(restTo)];
  const choices: string[] = [];
  if (!isWholeFrom) choices.push(`"${first}" ${sameLength(restFrom, "9".repeat(length))}`);
  const [start, end] = [isWholeFrom ? first : first + 1, isWholeTo ? last : last - 1];
  if (start <= end) choices.push(`[${start}-${end}]${anyRest}`);
  if (!isWholeTo) choices.push(`"${last}" ${sameLength("0".repeat(length), restTo)}`);
  return `(${choices.join(" | ")})`;
}
