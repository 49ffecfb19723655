// Prompts whose keys and values stay in memory, and are saved for the next start where there is a folder for them.

import { ReadMeError } from "@readme-moe/core";
import { type KernelKv, type KeptState, KV_PAGE_TOKENS, type KvSlot } from "@readme-moe/kernel";
import type { PrefixCache } from "./prefix-cache.ts";
import type { KeepTokens, RoutedTokens } from "./prefix-tails.ts";
import type { WireKept } from "./protocol.ts";
import { identityOf, type KeptModel, keyOf, type SavedHead, type SavedPrompts } from "./saved-prompts.ts";

interface KeepingParts {
  readonly runner: KeptModel;
  readonly kv: KernelKv;
  readonly prefixes: PrefixCache;
  /** @default prompts are not saved */
  readonly saved?: SavedPrompts | undefined;
}

interface Kept {
  readonly prompt: RoutedTokens;
  readonly numTokens: number;
  /** `undefined` until the prompt is computed. */
  pin: number | undefined;
}

/** A prompt that was read from its file. */
interface SavedPrompt {
  readonly pages?: KeepTokens;
  /** Writes the state into memory, of a model with recurrences. */
  readonly keepState?: () => KeptState;
  readonly refusal?: string | undefined;
}

export class KeptPrompts {
  readonly #parts: KeepingParts;
  readonly #kept = new Map<number, Kept>();

  constructor(parts: KeepingParts) {
    this.#parts = parts;
  }

  /**
   * Keeps a prompt whose keys and values are in memory or saved. If it is neither, `computed` and `save` have to
   * follow.
   *
   * @param keptId - a new one, for the other methods
   * @throws {RangeError} when there is no room for it
   */
  async keep(keptId: number, prompt: RoutedTokens): Promise<WireKept> {
    const { prefixes, kv } = this.#parts;
    const { length } = prompt.tokenIds;
    // A state is that behind the last token.
    const numTokens = kv.states.stateBytes > 0 ? length : Math.floor(length / KV_PAGE_TOKENS) * KV_PAGE_TOKENS;
    const kept: Kept = { prompt, numTokens, pin: undefined };
    const answer = { tokenIds: Int32Array.from(prompt.tokenIds), keptTokens: numTokens };
    if (numTokens === 0) return { ...answer, source: "memory" };
    const bytes = numTokens * kv.bytesPerToken;
    const isPinned = prefixes.isPinned(prompt, numTokens);
    if (!isPinned && bytes > prefixes.pinnableBytes) throw noRoom(bytes, prefixes.pinnableBytes);
    const { pages, keepState, refusal } = isPinned ? { pages: neverKept } : await this.#read(kept);
    if (pages !== undefined) {
      kept.pin = prefixes.pin(prompt, numTokens, pages, keepState);
      if (kept.pin === undefined) throw noRoom(bytes, prefixes.pinnableBytes);
    }
    this.#kept.set(keptId, kept);
    const source = isPinned ? "memory" : pages ? "saved" : "none";
    return { ...answer, source, refusal };
  }

  /** Keeps what a sequence has computed of its prompt. */
  computed(keptId: number, { tokenIds, experts }: RoutedTokens, slot: KvSlot): void {
    const kept = this.#kept.get(keptId);
    if (!kept || kept.pin !== undefined) return;
    const { prefixes, kv } = this.#parts;
    const prompt = { tokenIds: tokenIds.slice(0, kept.numTokens), experts: experts.slice(0, kept.numTokens) };
    const keep: KeepTokens = (from, to) => kv.keep(slot, from, to);
    const pin = prefixes.pin(prompt, kept.numTokens, keep, () => kv.states.keep(slot, kept.numTokens));
    this.#kept.set(keptId, { ...kept, prompt, pin });
  }

  /**
   * Saves a prompt that was computed.
   *
   * @returns why it could not be saved, if it could not
   * @throws {RangeError} when there was no room for it in memory
   */
  async save(keptId: number): Promise<string | undefined> {
    const kept = this.#kept.get(keptId);
    const { prefixes, kv, saved } = this.#parts;
    if (kept?.pin === undefined) {
      this.#kept.delete(keptId);
      throw noRoom((kept?.numTokens ?? 0) * kv.bytesPerToken, prefixes.pinnableBytes);
    }
    if (saved === undefined) return undefined;
    try {
      const head = await this.#headOf(kept);
      if (head === undefined) return "an expert of the prompt was removed";
      await saved.write(head, this.#pages(kept.pin));
      return undefined;
    } catch (error) {
      if (error instanceof ReadMeError) return error.message;
      throw error;
    }
  }

  /** Releases a prompt, which may be evicted then. */
  release(keptId: number): void {
    const pin = this.#kept.get(keptId)?.pin;
    this.#kept.delete(keptId);
    if (pin !== undefined) this.#parts.prefixes.unpin(pin);
  }

  /** Copies the pages of a pin and its state. Fails when the pin ends meanwhile: they may be another prompt's then. */
  *#pages(pin: number): Generator<Uint8Array> {
    const { prefixes, kv } = this.#parts;
    const { prefix, state } = prefixes.pinned(pin) ?? { prefix: [] };
    const copies = prefix.map((kept) => () => kv.readKept(kept));
    if (state) copies.push(() => kv.readState(state));
    for (const copy of copies) {
      if (!prefixes.pinned(pin)) throw new Error("the prompt was released while it was saved");
      yield copy();
    }
  }

  /** Reads a saved prompt. @returns what writes it into memory, or why its file was refused */
  async #read(kept: Kept): Promise<SavedPrompt> {
    const { saved, kv } = this.#parts;
    const head = saved && (await this.#headOf(kept));
    if (!saved || !head) return {};
    const { bytes, refusal } = await saved.read(head);
    if (!bytes) return { refusal };
    const bytesTo = (position: number): number => Math.ceil(position / KV_PAGE_TOKENS) * kv.pageBytes;
    const pages: KeepTokens = (from, to) => kv.writeKept(from, to, bytes.subarray(bytesTo(from), bytesTo(to)));
    if (head.stateBytes === undefined) return { pages };
    return { pages, keepState: () => kv.writeState(kept.numTokens, bytes.subarray(bytesTo(kept.numTokens))) };
  }

  /** Describes the file of a prompt; `undefined` when one of its experts is not known any more. */
  async #headOf({ prompt, numTokens }: Kept): Promise<SavedHead | undefined> {
    const { runner, kv } = this.#parts;
    const identity = await identityOf(runner, prompt, numTokens);
    const numPages = Math.ceil(numTokens / KV_PAGE_TOKENS);
    const stateBytes = kv.states.stateBytes || undefined;
    return identity && { key: keyOf(identity), numPages, pageBytes: kv.pageBytes, stateBytes };
  }
}

function noRoom(bytes: number, roomBytes: number): RangeError {
  return new RangeError(
    `Expected \`prefixCacheBytes\` to have room for the prompt, ${bytes} bytes, got room for ${roomBytes}`,
  );
}

function neverKept(from: number, to: number): never {
  throw new Error(`Expected positions ${from} to ${to} to be pinned`);
}
