import { createWriteStream } from "node:fs";
import { open } from "node:fs/promises";
import { ReadMeError, recordTraceLines, type Engine, type ExpertLayout } from "@readme-moe/core";
import { expertLayout } from "@readme-moe/engine";
import { openModel } from "@readme-moe/model";
import { Option } from "commander";

export interface TraceFile {
  /** Ends the recording; the file is whole then. Sequences that still run are taken in as far as they got. */
  close(): Promise<void>;
}

export function recordTraceOption(): Option {
  return new Option("--record-trace <file>", "the experts of what runs, as JSON lines for `simulate --trace`");
}

/**
 * Records an engine's events from now on into a file, line by line, so that a crash leaves a trace up to it, and memory holds only
 * sequences that run. When it cannot be written any more, the reason goes to standard error, and what runs goes on.
 *
 * @param model - folder or GGUF file, to know how large its experts are
 * @throws {ReadMeError} when the model cannot be opened, or the file not be written
 */
export async function openTraceFile(
  path: string,
  model: string,
  engine: Pick<Engine, "events" | "info" | "stats">,
): Promise<TraceFile> {
  const layout = await layoutOf(model, engine);
  const handle = await open(path, "w").catch((cause: Error) => {
    throw new ReadMeError("ERR_WRITE_FAILED", `${path}: cannot be written (${cause.message})`, { cause });
  });
  const stream = createWriteStream(path, { fd: handle });
  let isWritable = true;
  const closed = new Promise<void>((resolve) => stream.once("close", resolve));
  stream.on("error", ({ message }) => {
    isWritable = false;
    console.error(`note: the trace ends here: ${path}: cannot be written (${message})`);
  });
  const stop = recordTraceLines(engine.events, layout, (line) => void (isWritable && stream.write(line)));
  return {
    close: async () => {
      stop();
      stream.end();
      await closed;
    },
  };
}

/** As an engine keeps its experts where they come and go, else by layer. */
async function layoutOf(model: string, engine: Pick<Engine, "info" | "stats">): Promise<ExpertLayout> {
  const { expertCache } = await engine.stats();
  if (expertCache) return { numExperts: engine.info.experts.length, layerBytes: expertCache.layerBytes };
  const opened = await openModel(model);
  try {
    return expertLayout(opened);
  } finally {
    await opened.close();
  }
}
