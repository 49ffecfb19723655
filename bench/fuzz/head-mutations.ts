// Unusual methods, targets, versions, headers and body lengths.

import type { Chance } from "./chance.ts";
import { HEADERS, HOSTS, METHODS, PATHS } from "./head-parts.ts";
import { chunked, CLOSE, HOST, JSON_TYPE, type RequestParts } from "./request-bytes.ts";

/** Request whose body, if any, ends at its content-length. */
type Plain = RequestParts & { readonly body?: Buffer };
/** Mutated request, and whether it is still certainly valid HTTP. */
export interface OddRequest {
  readonly parts: RequestParts;
  readonly isSound: boolean;
}

const REPEATED = ["/", "a", "%41", "%zz", "/..", "?", "&a=1", "é"];

function floods(chance: Chance): readonly string[] {
  const count = chance.pick([50, 200, 1900, 2100, 5000]);
  return chance.pick([
    Array.from({ length: count }, (_, index) => `X-${index}: y`),
    Array.from({ length: Math.min(count, 500) }, () => "Cookie: a=b"),
    [`X-Long: ${"v".repeat(chance.pick([1000, 8000, 16_000, 40_000]))}`],
    [`${"N".repeat(chance.pick([1000, 16_000]))}: v`],
  ]);
}

/** Makes framing headers that are wrong, repeated or unusual. */
function framed(plain: Plain, body: Buffer, chance: Chance): OddRequest {
  const framing = (lines: readonly string[], bytes = body): OddRequest => ({
    parts: { ...plain, framing: lines, body: bytes },
    isSound: false,
  });
  const length = body.length;
  const lengths = [
    "-1",
    "+1",
    "0x10",
    "1e3",
    "",
    " ",
    "99999999999999999999",
    "0",
    `${length}, ${length}`,
    `${length}.0`,
    "\xe9",
  ];
  const inChunks = chunked(
    body,
    chance.list(1, 5, () => chance.between(1, 60)),
  );
  const coding = ["Transfer-Encoding: chunked"];
  const second = Buffer.from(
    `POST /tokenize HTTP/1.1\r\n${HOST}\r\nx-request-id: smuggled\r\nContent-Length: 0\r\n\r\n`,
  );
  return chance.weighted<() => OddRequest>([
    [4, () => ({ ...framing(coding, inChunks), isSound: true })],
    [3, () => framing([`Content-Length: ${chance.pick(lengths)}`])],
    [2, () => framing([`Content-Length: ${length + chance.between(1, 50)}`])],
    [2, () => framing([`Content-Length: ${Math.max(0, length - chance.between(1, 50))}`])],
    [1, () => framing([`Content-Length: ${length}`, `Content-Length: ${length + chance.below(2)}`])],
    [1, () => framing([])],
    [1, () => framing([`Content-Length: ${chance.pick([5_000_000, 2 ** 31, 2 ** 53])}`])],
    [3, () => framing(coding, brokenChunks(inChunks, chance))],
    [
      1,
      () =>
        framing(
          chance.pick([
            ["Transfer-Encoding: gzip, chunked"],
            ["Transfer-Encoding: identity"],
            ["Transfer-Encoding: xchunked"],
          ]),
          inChunks,
        ),
    ],
    [
      1,
      () =>
        framing(
          chance.pick([
            [...coding, ...coding],
            ["Transfer-Encoding: chunked, identity"],
            ["Transfer-Encoding:\x0bchunked"],
          ]),
          inChunks,
        ),
    ],
    // A reader with another body length would find another request in the rest of the body.
    [
      2,
      () =>
        framing([...coding, `Content-Length: ${inChunks.length + second.length}`], Buffer.concat([inChunks, second])),
    ],
    [1, () => framing(["Content-Length: 4", ...coding], Buffer.concat([inChunks, second]))],
  ])();
}

function brokenChunks(good: Buffer, chance: Chance): Buffer {
  const text = good.toString("latin1");
  const change = chance.pick<() => string>([
    () => text.replace(/^\w+/, chance.pick(["-1", "zz", "", "ffffffffffffffffff", "7fffffff", "0x5", "5 ", "\u0000"])),
    () => text.replace("\r\n", chance.pick(["\n", "\r", ";a=b\r\n", `;${"x".repeat(20_000)}\r\n`, ' ; a="\r\n"\r\n'])),
    () => text.replace(/0\r\n\r\n$/, ""),
    () => text.replace(/0\r\n\r\n$/, "0\r\nContent-Length: 5\r\nx-request-id: trailer\r\n\r\n"),
    () => text.replace(/0\r\n\r\n$/, `0\r\n${"X-T: y\r\n".repeat(3000)}\r\n`),
    () => text.slice(0, chance.below(text.length)),
    () => text.replaceAll("\r\n", "\n"),
  ]);
  return Buffer.from(change(), "latin1");
}

/** Mutates one or two parts of a valid request. */
export function odd(plain: Plain, chance: Chance): OddRequest {
  const { body } = plain;
  const target = (path: string): OddRequest => ({ parts: { ...plain, target: path }, isSound: false });
  const lines = (isSound: boolean, more: readonly string[]): OddRequest => ({
    parts: { ...plain, headers: chance.happens(0.8) ? [...plain.headers, ...more] : [...more, ...plain.headers] },
    isSound,
  });
  const first = chance.weighted<() => OddRequest>([
    [3, () => ({ parts: { ...plain, method: chance.pick(METHODS) }, isSound: false })],
    [5, () => target(chance.pick(PATHS))],
    [1, () => target(plain.target + chance.pick(REPEATED).repeat(chance.pick([1, 50, 1000, 5000, 17_000])))],
    [1, () => target(plain.target + chance.bytes(chance.between(1, 8)).toString("latin1"))],
    [7, () => lines(...chance.pick(HEADERS))],
    [1, () => lines(false, floods(chance))],
    [2, () => ({ parts: { ...plain, headers: [chance.pick(HOSTS), JSON_TYPE, CLOSE] }, isSound: false })],
    [1, () => ({ parts: { ...plain, headers: [HOST, HOST, JSON_TYPE, CLOSE] }, isSound: false })],
    [1, () => ({ parts: { ...plain, headers: [JSON_TYPE, CLOSE] }, isSound: false })],
    [
      2,
      () => ({
        parts: {
          ...plain,
          version: chance.pick(["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.2", "http/1.1", "HTTP/1", "", "ICAP/1.0"]),
        },
        isSound: false,
      }),
    ],
    [body === undefined ? 0 : 9, () => framed(plain, body ?? Buffer.alloc(0), chance)],
  ])();
  if (!first.isSound || chance.happens(0.7)) return first;
  const [isSound, more] = chance.pick(HEADERS);
  return { parts: { ...first.parts, headers: [...first.parts.headers, ...more] }, isSound: isSound && first.isSound };
}
