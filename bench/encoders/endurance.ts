// Sends random texts to a server from many clients at once, and compares each vector with that of its text alone.

import { ReadMeEngine } from "@readme-moe/engine";
import { WORDS, writeEmbedder } from "../../test/support/encoder-models.ts";
import { seededRandom } from "../../test/support/random.ts";
import { slope, verdict, verdictOf } from "../express/figures.ts";
import { startServer } from "../express/server-process.ts";

const [NUM_DISTINCT, MOST_WORDS, MOST_TEXTS] = [2000, 150, 8];
const SAMPLES = 20;
/** Share of the texts in which runtime and compiler still allocate memory; not judged. */
const SETTLING_SHARE = 0.2;
const MAX_GROWTH_PERCENT = 5;

/** Makes different texts, most of them short. */
export function randomTexts(random: () => number, count: number): readonly string[] {
  return Array.from({ length: count }, (_, index) => {
    const numWords = Math.floor(random() ** 2 * MOST_WORDS);
    const words = Array.from({ length: numWords }, () => WORDS[Math.floor(random() * WORDS.length)]);
    return [index, ...words].join(" ");
  });
}

/** Computes the vector of each text alone, one after the other, in base64 as the API writes it. */
export async function vectorsAlone(
  engine: ReadMeEngine,
  texts: readonly string[],
): Promise<ReadonlyMap<string, string>> {
  const alone = new Map<string, string>();
  for (const text of texts) {
    const { embeddings } = await engine.embed({ inputs: [text] });
    alone.set(text, Buffer.from(embeddings[0]!.buffer).toString("base64"));
  }
  return alone;
}

export interface Endurance {
  readonly url: string;
  readonly numTexts: number;
  readonly numClients: number;
  /** Vectors by text, which clients draw from. */
  readonly alone: ReadonlyMap<string, string>;
  readonly random: () => number;
  /** Called after each answer with the number of texts that were answered. */
  readonly onAnswered?: (numAnswered: number) => void;
}

/** Numbers of texts. */
export interface EnduranceCounts {
  answered: number;
  /** Texts of requests that were refused, or whose answers have another number of vectors. */
  lost: number;
  /** Vectors that differ from that of their text alone in any bit. */
  wrong: number;
}

/** Embeds `numTexts` texts, 1 to 8 in a request. */
export async function embedFromMany({ url, numTexts, numClients, ...options }: Endurance): Promise<EnduranceCounts> {
  const { alone, random, onAnswered } = options;
  const texts = [...alone.keys()];
  const counts: EnduranceCounts = { answered: 0, lost: 0, wrong: 0 };
  let left = numTexts;
  const client = async (): Promise<void> => {
    while (left > 0) {
      const count = Math.min(left, 1 + Math.floor(random() * MOST_TEXTS));
      left -= count;
      const input = Array.from({ length: count }, () => texts[Math.floor(random() * texts.length)]!);
      const response = await fetch(`${url}/v1/embeddings`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ input, encoding_format: "base64" }),
      });
      const answer = response.ok ? await response.json() : await response.text();
      const { data = [] } = answer as { readonly data?: readonly { readonly embedding: string }[] };
      if (data.length !== count) counts.lost += count;
      else counts.wrong += input.filter((text, index) => data[index]?.embedding !== alone.get(text)).length;
      counts.answered += count;
      onAnswered?.(counts.answered);
    }
  };
  await Promise.all(Array.from({ length: numClients }, client));
  return counts;
}

function growthPercent(values: readonly number[]): number {
  return (100 * slope(values) * (values.length - 1)) / (values[0] ?? NaN);
}

/** Runs a server in a process of its own and prints what became of the texts. @param model - @default a tiny encoder */
export async function endure(model: string | undefined, numTexts: number, numClients: number): Promise<void> {
  const random = seededRandom(7);
  const path = model ?? (await writeEmbedder("bert"));
  const engine = await ReadMeEngine.open(path);
  const alone = await vectorsAlone(engine, randomTexts(random, NUM_DISTINCT));
  await engine.dispose();
  await using server = await startServer("server.ts", { path });
  const memory: Awaited<ReturnType<typeof server.memory>>[] = [];
  const between = numTexts / SAMPLES;
  let [next, sampling] = [between, Promise.resolve()];
  const sample = async (numAnswered: number, before: Promise<void>): Promise<void> => {
    await before;
    const bytes = await server.memory();
    memory.push(bytes);
    const megabytes = [bytes.server, bytes.engine].map((one) => (one / 1e6).toFixed(0)).join(" + ");
    console.log(`${numAnswered} texts: server and engine have ${megabytes} MB`);
  };
  const startMs = performance.now();
  const counts = await embedFromMany({
    url: server.url,
    numTexts,
    numClients,
    alone,
    random,
    onAnswered(numAnswered) {
      if (numAnswered < next) return;
      next += between;
      sampling = sample(numAnswered, sampling);
    },
  });
  const seconds = (performance.now() - startMs) / 1000;
  await sampling;
  console.log(`${counts.answered} texts of ${numClients} clients in ${seconds.toFixed(0)} s`);
  const settled = memory.slice(Math.floor(memory.length * SETTLING_SHARE));
  const isMet = [
    verdictOf(`no text is lost: ${counts.lost}`, counts.lost === 0 && counts.answered === numTexts),
    verdictOf(`no vector differs from that of its text alone: ${counts.wrong}`, counts.wrong === 0),
    verdict("memory of the server grew by", growthPercent(settled.map((one) => one.server)), "%", MAX_GROWTH_PERCENT),
    verdict("memory of the engine grew by", growthPercent(settled.map((one) => one.engine)), "%", MAX_GROWTH_PERCENT),
  ].every(Boolean);
  if (!isMet) process.exitCode = 1;
}
