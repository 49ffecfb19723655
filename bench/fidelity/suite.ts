// Checks that a model of a GGUF file is the model that others read from it: token ids beside node-llama-cpp's and
// transformers', and losses by domain beside node-llama-cpp's, on the same token ids.

import { openModel, type Precision } from "@readme-moe/model";
import { readDocuments } from "../../packages/readme-moe/src/data-files.ts";
import { open as openLlamaCpp } from "../engine/contenders/llama-cpp.ts";
import { open as openOurs } from "../engine/contenders/ours.ts";
import type { Contender } from "../engine/contender.ts";
import { installedLlamaCpp } from "../engine/peers.ts";
import { textsOf, type Workload } from "../engine/workload.ts";
import { dataFiles, namesOf, type Suite, type SuiteContext } from "../kit/suite.ts";
import { differentDocuments, fidelityTables, type DomainLosses, type TokenFigures } from "./figures.ts";
import { llamaTokens, transformersTokens } from "./token-readers.ts";

const SEQUENCES = { sequenceLength: 512, maxSequences: 4 };
const MOST_DOCUMENTS = 200;
const MOST_CHARACTERS = 20_000;

/** `--set tokenizer=FOLDER python=PATH` also compares with transformers' tokenizer of a folder with tokenizer.json. */
export const fidelitySuite: Suite = {
  name: "fidelity",
  summary: "token ids and losses of a GGUF file beside node-llama-cpp and transformers",
  async run(context) {
    const { settings, say } = context;
    const path = settings.dense ?? settings.model;
    const files = await dataFiles(settings.data.length > 0 ? settings.data : ["models/pocket/calibration"]);
    const library = path.toLowerCase().endsWith(".gguf") ? await installedLlamaCpp(say) : undefined;
    const model = await openModel(path);
    const domains: { readonly name: string; readonly documents: readonly string[] }[] = [];
    for (const { name, path: file } of files) {
      const documents = (await readDocuments(file)).slice(0, MOST_DOCUMENTS);
      domains.push({ name, documents: documents.map(({ text }) => text.slice(0, MOST_CHARACTERS)) });
    }
    try {
      const { tokenizer } = await model.loadText();
      const own = domains.flatMap(({ documents }) =>
        documents.map((text) => Array.from(tokenizer.encode(text, { addSpecialTokens: false }))),
      );
      const documents = domains.flatMap((domain) => domain.documents);
      const tokens: TokenFigures[] = [];
      const compare = async (reader: string, read: () => Promise<readonly (readonly number[])[]>): Promise<void> => {
        say(`token ids of ${reader}`);
        const { documents: count, different } = await context.keep(`tokens | ${reader}`, async () =>
          differentDocuments(own, await read()),
        );
        tokens.push({ reader, documents: count, different });
      };
      if (library !== undefined) await compare("node-llama-cpp", () => llamaTokens({ library, path }, documents));
      const { tokenizer: folder, python = "python3" } = settings.set;
      if (folder !== undefined) {
        await compare("transformers", () => transformersTokens({ folder, python, signal: context.signal }, documents));
      }
      const texts = textsOf(
        model,
        tokenizer,
        domains.map((domain) => domain.documents),
        SEQUENCES,
      );
      const losses = await measureLosses(context, { path, library, texts });
      return fidelityTables({ domains: domains.map(({ name }) => name), tokens, losses });
    } finally {
      await model.close();
    }
  },
};

interface LossWork {
  readonly path: string;
  /** node-llama-cpp; absent for models that it cannot read. */
  readonly library: string | undefined;
  readonly texts: Workload["texts"];
}

async function measureLosses(
  { settings, keep, say }: SuiteContext,
  { path, library, texts }: LossWork,
): Promise<readonly DomainLosses[]> {
  const { threads, seed, cacheFolder } = settings;
  const precisions = namesOf(settings, "precisions", ["fp32", "int8", "int4"]) as readonly Precision[];
  const open = { threads, seed, cacheFolder, maxSequences: 1 };
  const spec = (variant: string, files: Readonly<Record<string, string>>) => ({
    ...open,
    spec: { engine: "", variant, module: "", files },
  });
  const contenders: readonly (readonly [string, () => Promise<Contender>])[] = [
    ...precisions.map((precision) => {
      return [`readme-moe ${precision}`, () => openOurs(spec(precision, { model: path }))] as const;
    }),
    ...(library === undefined
      ? []
      : [["node-llama-cpp", () => openLlamaCpp(spec("", { library, model: path }))] as const]),
  ];
  const measured: DomainLosses[] = [];
  for (const [name, openContender] of contenders) {
    say(`losses of ${name}`);
    measured.push({ name, losses: await keep(`losses | ${name}`, () => lossesOf(openContender, texts)) });
  }
  return measured;
}

/** Computes the mean loss of each domain, in nats for each token. */
async function lossesOf(open: () => Promise<Contender>, texts: Workload["texts"]): Promise<readonly number[]> {
  const contender = await open();
  try {
    const sums = await contender.logProbabilities(texts.flat());
    let first = 0;
    return texts.map((sequences) => {
      const own = sums.slice(first, (first += sequences.length));
      const predicted = sequences.reduce((sum, sequence) => sum + sequence.length - 1, 0);
      return -own.reduce((sum, value) => sum + value, 0) / predicted;
    });
  } finally {
    await contender.dispose();
  }
}
