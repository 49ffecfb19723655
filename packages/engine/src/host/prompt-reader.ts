// A reader of prompts as callers see it: a worker without weights, which is started again if it ends.

import { onceAborted, ReadMeError, type PromptInfo, type PromptReader } from "@readme-moe/core";
import { modelName } from "@readme-moe/model";
import { resolveReaderOptions, type PromptReaderOptions, type ResolvedReaderOptions } from "../engine-options.ts";
import type { CallName, Calls } from "../protocol.ts";
import { TextCalls } from "./request.ts";
import { WorkerLink } from "./worker-link.ts";

/**
 * Opens the tokenizer, the chat template and the router of a model, without its weights: for a process that takes
 * requests and lets other machines answer them. The answers are those of an engine with the same `promptVersion`.
 *
 * @param path - a model folder, of which the files of weights may be missing, or a GGUF file
 * @throws {TypeError | RangeError} on wrong options
 * @throws {ReadMeError} when a file is missing, damaged or not supported; names it
 */
export async function openPromptReader(path: string, options: PromptReaderOptions = {}): Promise<PromptReader> {
  const { signal, ...rest } = options;
  const resolved = resolveReaderOptions(rest);
  if (typeof path !== "string" || path === "") throw new TypeError("Expected `path` to name a folder or a GGUF file");
  signal?.throwIfAborted();
  const link = newLink(resolved);
  const stopListening = onceAborted(signal, () => link.kill());
  try {
    const { info } = await link.open<"reading">({ type: "read", path, options: resolved });
    return new WorkerReader(path, resolved, link, info);
  } catch (error) {
    await link.close();
    signal?.throwIfAborted();
    throw error;
  } finally {
    stopListening();
  }
}

function newLink(options: ResolvedReaderOptions): WorkerLink {
  return new WorkerLink(options, {
    onNews: () => undefined,
    onQuestion: () => undefined,
    onFailed: () => undefined,
  });
}

class WorkerReader implements PromptReader {
  readonly info: PromptInfo;
  readonly #path: string;
  readonly #options: ResolvedReaderOptions;
  /** The worker; after it has ended, the next call starts another one. */
  #link: Promise<WorkerLink> | undefined;
  #isDisposed = false;
  readonly #texts = new TextCalls({
    getInfo: () => this.info,
    call: (name, args, signal) => this.#call(name, args, signal),
  });

  constructor(path: string, options: ResolvedReaderOptions, link: WorkerLink, info: PromptInfo) {
    this.#path = path;
    this.#options = options;
    this.info = { ...info, name: modelName(path) };
    this.#watch(link);
  }

  readonly tokenize: PromptReader["tokenize"] = this.#texts.tokenize;
  readonly detokenize: PromptReader["detokenize"] = this.#texts.detokenize;
  readonly applyTemplate: PromptReader["applyTemplate"] = this.#texts.applyTemplate;
  readonly vocabulary: PromptReader["vocabulary"] = this.#texts.vocabulary;
  readonly route: PromptReader["route"] = this.#texts.route;

  async dispose(): Promise<void> {
    this.#isDisposed = true;
    const link = await this.#link?.catch(() => undefined);
    await link?.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #watch(link: WorkerLink): void {
    const own = Promise.resolve(link);
    this.#link = own;
    const drop = async (): Promise<void> => {
      await link.failed;
      if (this.#link === own) this.#link = undefined;
    };
    void drop();
  }

  /** @throws {ReadMeError} as `openPromptReader`; `ERR_MODEL_INVALID` if the model is another one now */
  async #restart(): Promise<WorkerLink> {
    const link = newLink(this.#options);
    try {
      const { info } = await link.open<"reading">({ type: "read", path: this.#path, options: this.#options });
      if (info.promptVersion === this.info.promptVersion) {
        this.#watch(link);
        return link;
      }
      throw new ReadMeError("ERR_MODEL_INVALID", `${this.#path}: has changed since it was opened; open it again`);
    } catch (error) {
      this.#link = undefined;
      await link.close();
      throw error;
    }
  }

  async #call<Name extends CallName>(
    name: Name,
    args: Calls[Name]["args"],
    signal?: AbortSignal,
  ): Promise<Calls[Name]["result"]> {
    if (this.#isDisposed) throw new ReadMeError("ERR_DISPOSED", "The reader of prompts was disposed");
    const link = await (this.#link ??= this.#restart());
    return link.call(name, args, signal);
  }
}
