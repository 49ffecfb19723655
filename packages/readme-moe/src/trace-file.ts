import { createWriteStream } from "node:fs";
import { open } from "node:fs/promises";
import { ReadMeError, recordTraceLines, type Engine, type ExpertLayout } from "@readme-moe/core";
import { expertLayout } from "@readme-moe/engine";
import { openModel } from "@readme-moe/model";

export interface TraceFile {
  /** Ends the recording and completes the file. Sequences that still run are written as far as they got. */
  close(): Promise<void>;
}

/**
 * Records an engine's events into a file, line by line, so that a crash leaves the trace up to then, and memory holds
 * running sequences only. If the file can no longer be written, the reason is printed on standard error, and the
 * sequences go on.
 *
 * @param model - folder or GGUF file, to know the size of its experts
 * @throws {ReadMeError} when the model cannot be opened, or the file cannot be written
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

/** Returns the engine's own layout of streamed experts, else one by layer. */
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
