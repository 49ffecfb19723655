// Damages the bytes of a body, and encodes bodies differently from their headers.

import { deflateRawSync, deflateSync, gzipSync, brotliCompressSync } from "node:zlib";
import type { Chance } from "./chance.ts";

/** Body with its headers. */
export interface CodedBody {
  readonly body: Buffer;
  readonly headers: readonly string[];
  /** Whether the body is the same JSON when it is decoded as its headers say. */
  readonly isRight: boolean;
}

const INSERTS: readonly Buffer[] = [
  "{",
  "}",
  "[",
  "]",
  ",",
  ":",
  '"',
  "\\",
  "null",
  "1e999",
  "\\u0000",
  '"__proto__":',
  "//",
  "/**/",
  "\r\n\r\n",
  [0x00],
  [0x80],
  [0xff],
  [0xc0, 0xaf],
  [0xed, 0xa0, 0x80],
  [0xf4, 0x90, 0x80, 0x80],
  [0xe2, 0x82],
  [0xef, 0xbb, 0xbf],
].map((insert) => Buffer.from(insert as string));

/** Flips, cuts, repeats or inserts bytes. */
export function damaged(good: Buffer, chance: Chance): Buffer {
  let bytes = good;
  for (let damage = chance.between(1, 3); damage > 0; damage--) {
    const [start, length] = [chance.below(bytes.length + 1), chance.between(1, 6)];
    const [before, after] = [bytes.subarray(0, start), bytes.subarray(start)];
    bytes = chance.pick<() => Buffer>([
      () => Buffer.concat([before, after.subarray(length)]),
      () => Buffer.concat([before, Buffer.from([(after[0] ?? 0) ^ (1 << chance.below(8))]), after.subarray(1)]),
      () => Buffer.concat([before, chance.bytes(length), after.subarray(length)]),
      () => Buffer.concat([before, after.subarray(0, length), after]),
      () => Buffer.concat([before, chance.pick(INSERTS), after]),
      () => before,
    ])();
  }
  return bytes;
}

const BOMB = gzipSync(Buffer.alloc(30_000_000, " "));
const NEARLY_A_BOMB = gzipSync(
  Buffer.concat([Buffer.from('{"prompt":"'), Buffer.alloc(4_000_000, "a"), Buffer.from('"}')]),
);

const encoding = (name: string): readonly string[] => [`Content-Encoding: ${name}`];

const coded = (body: Buffer, name: string, isRight = false): CodedBody => ({ body, headers: encoding(name), isRight });

/** Encodes the body in a known content encoding, correctly or not. */
export function encoded(good: Buffer, chance: Chance): CodedBody {
  const gzip = (): Buffer => gzipSync(good);
  const broken = (bytes: Buffer): Buffer => damaged(bytes, chance);
  return chance.weighted<() => CodedBody>([
    [3, () => coded(gzip(), "gzip", true)],
    [2, () => coded(deflateSync(good), chance.pick(["deflate", "DEFLATE"]), true)],
    [2, () => coded(brotliCompressSync(good), "br", true)],
    [1, () => coded(good, "identity", true)],
    [1, () => coded(deflateRawSync(good), "deflate")],
    [1, () => coded(good, chance.pick(["gzip", "br", "deflate"]))],
    [3, () => coded(broken(gzip()), "gzip")],
    [2, () => coded(broken(deflateSync(good)), "deflate")],
    [2, () => coded(broken(brotliCompressSync(good)), "br")],
    [1, () => coded(gzip().subarray(0, chance.between(1, 12)), "gzip")],
    [1, () => coded(Buffer.concat([gzip(), chance.bytes(8)]), "gzip")],
    [1, () => coded(Buffer.concat([gzip(), gzip()]), "gzip")],
    [1, () => coded(gzipSync(gzip()), chance.pick(["gzip", "gzip, gzip"]))],
    [1, () => coded(Buffer.alloc(0), "gzip")],
    [0.2, () => coded(BOMB, "gzip")],
    [0.1, () => coded(NEARLY_A_BOMB, "gzip")],
    [1, () => coded(gzip(), chance.pick(["x-gzip", "zstd", "", ",", "gzip;q=1", "é", "__proto__", "constructor"]))],
  ])();
}

const RIGHT_TYPES = [
  "application/json",
  "Application/JSON",
  "application/json; charset=utf-8",
  'application/json;charset="UTF-8"',
];
const OTHER_TYPES = [
  "text/plain",
  "application/x-www-form-urlencoded",
  "multipart/form-data; boundary=x",
  "application/vnd.api+json",
  "",
  ";",

  "application/json, text/html",
  "application/json; charset=latin1",
  "application/json; charset=x",
  "application/json; charset=",

  "application/json; charset=utf-7",
  "application/json; charset=utf-8; charset=utf-16",
  "application/json;;;",
  "json",
  "*/*",

  "application/json; charset=__proto__",
  "/",
  "application/",
  "a".repeat(3000),
  'application/json; a="',
  "\xe9/\xff",
];

const type = (value: string): readonly string[] => [`Content-Type: ${value}`];

/** Encodes the body in another charset than UTF-8, or sends it with another type. */
export function typed(good: Buffer, chance: Chance): CodedBody {
  const text = good.toString();
  const utf16 = Buffer.from(text, "utf16le");
  const json = type("application/json");
  return chance.weighted<() => CodedBody>([
    [2, () => ({ body: good, headers: type(chance.pick(RIGHT_TYPES)), isRight: true })],
    [5, () => ({ body: good, headers: type(chance.pick(OTHER_TYPES)), isRight: false })],
    [1, () => ({ body: good, headers: [], isRight: false })],
    [1, () => ({ body: good, headers: [...json, ...type("text/plain")], isRight: false })],
    [1, () => ({ body: utf16, headers: type("application/json; charset=utf-16le"), isRight: false })],
    [1, () => ({ body: utf16.swap16(), headers: type("application/json; charset=utf-16be"), isRight: false })],
    [
      1,
      () => ({
        body: Buffer.from(`\ufeff${text}`, "utf16le"),
        headers: type("application/json; charset=utf-16"),
        isRight: false,
      }),
    ],
    [1, () => ({ body: utf16, headers: json, isRight: false })],
    [
      1,
      () => ({ body: Buffer.from(text, "utf16le"), headers: type("application/json; charset=utf-32"), isRight: false }),
    ],
    [1, () => ({ body: Buffer.from(`\ufeff${text}`), headers: json, isRight: false })],
    [
      1,
      () => ({
        body: Buffer.from(text, "latin1"),
        headers: type("application/json; charset=iso-8859-1"),
        isRight: false,
      }),
    ],
    [1, () => ({ body: Buffer.from(`${" \t\r\n".repeat(chance.below(500))}${text}`), headers: json, isRight: true })],
    [1, () => ({ body: Buffer.concat([good, good]), headers: json, isRight: false })],
  ])();
}
