import {
  EVICTION_POLICIES,
  expertBytes,
  generateTrace,
  ReadMeError,
  readTrace,
  writeTrace,
  type ExpertTrace,
} from "@readme-moe/core";
import { writeFileAtomically } from "@readme-moe/model";
import { Command, Option } from "commander";
import { readTextData } from "../data-files.ts";
import {
  jsonOption,
  listOf,
  namesOf,
  numberBetween,
  numberThat,
  parseBytes,
  parseWhole,
  positiveNumber,
  wholeNumber,
} from "../options.ts";
import {
  replayJson,
  replayPicture,
  replayTable,
  simulationJson,
  simulationPicture,
  simulationTable,
} from "../simulation/report.ts";
import { runReplays, runSimulations, SCHEDULER_NAMES, type SimulateFlags } from "../simulation/run.ts";

/** Options of a drawn trace, which contradict a trace that is read. */
const DRAWN = [
  "experts",
  "layers",
  "layerBytes",
  "sequences",
  "arrivalsPerStep",
  "promptTokens",
  "outputTokens",
  "locality",
];

/** Options of scheduling, which a replay does not do. */
const SCHEDULED = [
  "scheduler",
  "maxNumSeqs",
  "maxNumBatchedSeqs",
  "maxNumBatchedTokens",
  "chunkTokens",
  "readMbPerS",
  "overlap",
  "writeTrace",
];

const fromOne = numberThat((value) => value >= 1, "a number from 1 up");
const capacities = listOf((part) => parseWhole(part, 1), "numbers of experts, such as 2,3,4,5");
const sizes = listOf(parseBytes, "sizes in memory, such as 300MB or 1.5GiB");

export function simulateCommand(): Command {
  const command = new Command("simulate")
    .summary("run a trace through schedulers and expert caches, without a model")
    .description(
      "Runs the routes of a trace, recorded or drawn, through a scheduler and expert caches of several sizes and policies,\n" +
        "without a model, and prints hits beside the bounds by Belady, reads and latencies.\n\n" +
        "Columns: layers that are read ahead; hits of the cache that layers share; hits of Belady on demand that knows one step more, and of one that\n" +
        "knows everything; hits of one layer alone with its experts in a random order; latency, and latency per output token.",
    )
    .option("--trace <file>", "a trace of JSON lines, plain or compressed with gzip (default: one is drawn)")
    .addOption(drawn("--experts <n>", "experts of the drawn trace", wholeNumber(1), 7))
    .addOption(drawn("--layers <n>", "layers of the drawn trace", wholeNumber(1), 6))
    .addOption(drawn("--layer-bytes <n>", "size of one layer of one expert", wholeNumber(1), 1_000_000))
    .addOption(drawn("--sequences <n>", "sequences of the drawn trace", wholeNumber(1), 100))
    .addOption(drawn("--arrivals-per-step <n>", "mean number of sequences that arrive per step", positiveNumber, 0.125))
    .addOption(drawn("--prompt-tokens <n>", "mean tokens of a prompt", fromOne, 64))
    .addOption(drawn("--output-tokens <n>", "mean tokens of a completion", fromOne, 32))
    .addOption(drawn("--locality <share>", "share of tokens that keep the expert before", numberBetween(0, 1), 0.9))
    .option("--seed <n>", "seed of all random choices", wholeNumber(0), 1)
    .option("--replay", "replay the recorded steps instead of scheduling the sequences anew", false)
    .option("--scheduler <names>", `schedulers, of ${SCHEDULER_NAMES.join(", ")}`, namesOf(SCHEDULER_NAMES), [
      "cost-aware",
    ])
    .option("--policy <names>", `eviction policies, of ${EVICTION_POLICIES.join(", ")}`, namesOf(EVICTION_POLICIES), [
      "belady",
      "lru",
      "random",
    ])
    .addOption(new Option("--capacity <list>", "cache sizes in experts (default: 2,3,4,5)").argParser(capacities))
    .addOption(
      new Option("--memory <list>", "cache sizes in bytes, such as 300MB,1.5GiB")
        .argParser(sizes)
        .conflicts("capacity"),
    )
    .option(
      "--lookahead-layers <n>",
      "layers that are read ahead (default: 1 with belady or --replay, else 0: on demand)",
      wholeNumber(0),
    )
    .option("--max-num-seqs <n>", "sequences that hold KV memory", wholeNumber(1), 32)
    .option("--max-num-batched-seqs <n>", "sequences in one step (default: all that hold memory)", wholeNumber(1))
    .option("--max-num-batched-tokens <n>", "tokens in one step", wholeNumber(1), 512)
    .option("--chunk-tokens <n>", "tokens in one piece of prefill", wholeNumber(1), 128)
    .option("--read-mb-per-s <n>", "speed of reading experts", positiveNumber, 1000)
    .option("--no-overlap", "compute nothing while experts are read")
    .option("--write-trace <file>", "write the trace, with the steps of the first run")
    .option("--svg <file>", "draw hits and latency over the size of the cache")
    .addOption(jsonOption());
  return command.action(async (flags: SimulateFlags) => {
    checkUsage(command, flags);
    await runSimulate(flags);
  });
}

function drawn(flags: string, description: string, parse: (text: string) => number, value: number): Option {
  return new Option(flags, description).argParser(parse).default(value);
}

function checkUsage(command: Command, { chunkTokens, maxNumBatchedTokens, replay, trace }: SimulateFlags): void {
  if (chunkTokens > maxNumBatchedTokens) {
    command.error("error: option '--chunk-tokens' must not exceed '--max-num-batched-tokens'");
  }
  const given = (names: readonly string[]): string | undefined => {
    const name = names.find((one) => command.getOptionValueSource(one) === "cli");
    return command.options.find((one) => one.attributeName() === name)?.long;
  };
  const scheduled = replay ? given(SCHEDULED) : undefined;
  if (scheduled !== undefined) command.error(`error: option '${scheduled}' cannot be used with '--replay'`);
  if (replay && trace === undefined) command.error("error: option '--replay' needs '--trace <file>'");
  const ofDrawn = trace === undefined ? undefined : given(DRAWN);
  if (ofDrawn === undefined) return;
  command.error(`error: option '${ofDrawn}' is for a drawn trace, and cannot be used with '--trace <file>'`);
}

async function runSimulate(flags: SimulateFlags): Promise<void> {
  const trace = await traceOf(flags);
  if (flags.replay) return runReplay(trace, flags);
  const runs = runSimulations(trace, flags);
  if (flags.writeTrace !== undefined) {
    const text = writeTrace({ ...trace, steps: runs[0]?.result.steps ?? [] });
    await writeFileAtomically(flags.writeTrace, text);
  }
  const summary = `${trace.sequences.length} sequences, ${modelOf(trace)}; ${flags.scheduler.join(", ")}`;
  await writePicture(flags, simulationPicture(runs, summary));
  const of = { sequences: trace.sequences.length, ...modelJson(trace) };
  print(flags, summary, simulationTable(runs), { ...of, runs: runs.map(simulationJson) });
}

async function runReplay(trace: ExpertTrace, flags: SimulateFlags): Promise<void> {
  if (trace.steps.length === 0) throw new ReadMeError("ERR_FILE_CORRUPT", `${flags.trace}: has no steps to replay`);
  const replays = runReplays(trace, flags);
  const summary = `${trace.steps.length} recorded steps, ${modelOf(trace)}`;
  await writePicture(flags, replayPicture(replays, summary));
  const of = { steps: trace.steps.length, ...modelJson(trace) };
  print(flags, summary, replayTable(replays), { ...of, replays: replays.map(replayJson) });
}

function print({ json }: SimulateFlags, summary: string, table: readonly string[], result: object): void {
  if (json) return console.log(JSON.stringify(result));
  for (const line of [summary, ...table]) console.log(line);
}

async function writePicture({ svg }: SimulateFlags, picture: string | undefined): Promise<void> {
  if (svg !== undefined && picture !== undefined) await writeFileAtomically(svg, picture);
}

function modelOf({ layout }: ExpertTrace): string {
  const megabytes = ((layout.numExperts * expertBytes(layout)) / 1e6).toFixed(1);
  return `${layout.numExperts} experts in ${layout.layerBytes.length} layers, ${megabytes} MB`;
}

function modelJson({ layout }: ExpertTrace): object {
  return { num_experts: layout.numExperts, layer_bytes: layout.layerBytes };
}

async function traceOf(flags: SimulateFlags): Promise<ExpertTrace> {
  if (flags.trace !== undefined) return readTrace(await readTextData(flags.trace), flags.trace);
  return generateTrace({
    numExperts: flags.experts,
    layerBytes: Array.from({ length: flags.layers }, () => flags.layerBytes),
    numSequences: flags.sequences,
    seed: flags.seed,
    arrivalsPerStep: flags.arrivalsPerStep,
    meanPromptTokens: flags.promptTokens,
    meanOutputTokens: flags.outputTokens,
    locality: flags.locality,
  });
}
