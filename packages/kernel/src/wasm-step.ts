// A step's request and results in the memory of WebAssembly.

import type { StepResults } from "./kernel.ts";
import { WASM_PAGE_BYTES, type WasmCalls } from "./wasm-calls.ts";

const REQUEST_HEADER = 6;
/** Largest number in a request's header. */
const MAX_COUNT = 2 ** 28;

/** Memory that grows to the largest requested size. */
class Room {
  readonly #calls: WasmCalls;
  #at = 0;
  #bytes = 0;

  constructor(calls: WasmCalls) {
    this.#calls = calls;
  }

  of(bytes: number): number {
    if (bytes > this.#bytes) {
      // The old memory is lost, so it grows by half at least.
      const wanted = Math.max(bytes, Math.ceil(this.#bytes * 1.5), WASM_PAGE_BYTES);
      this.#at = this.#calls.allocate(wanted);
      this.#bytes = wanted;
    }
    return this.#at;
  }
}

/** Memory of one step's request and results, used again by the next step. */
export class StepRoom {
  readonly request: Room;
  readonly full: Room;
  readonly #ids: Room;
  readonly #logits: Room;
  readonly #calls: WasmCalls;
  #places = { ids: 0, logits: 0, sums: 0, full: 0, squares: 0, numWanted: 0, numLogits: 0, numFull: 0, numSquares: 0 };

  constructor(calls: WasmCalls) {
    this.#calls = calls;
    [this.request, this.full] = [new Room(calls), new Room(calls)];
    [this.#ids, this.#logits] = [new Room(calls), new Room(calls)];
  }

  /** Writes a request, and the addresses of its results. @throws {RangeError} on an invalid step */
  write(request: Int32Array, results: StepResults): { readonly requestAt: number; readonly resultsAt: number } {
    const { memory } = this.#calls;
    const header = Array.from(request.subarray(0, REQUEST_HEADER));
    const isHeader = header.length === REQUEST_HEADER && header.every((count) => count >= 0 && count <= MAX_COUNT);
    if (!isHeader) throw new RangeError("the request's header");
    const numWanted = request[2]!;
    const numLogits = numWanted * (request[3]! + 1);
    const [numFull, numSquares] = [results.fullLogits.length, results.inputSquares?.length ?? 0];
    checkRoom(results, { numWanted, numLogits, numFull, numSquares });
    // Addresses and lengths of results, then the sums, then the request.
    const resultsAt = this.request.of(64 + 16 * numWanted + request.byteLength);
    const ids = this.#ids.of(4 * numLogits);
    const logits = this.#logits.of(4 * numLogits);
    const full = this.full.of(4 * (numFull + numSquares));
    const squares = full + 4 * numFull;
    const sums = resultsAt + 64;
    const requestAt = sums + 16 * numWanted;
    new Int32Array(memory.buffer, requestAt, request.length).set(request);
    const places = [ids, numLogits, logits, numLogits, sums, 2 * numWanted, full, numFull, squares, numSquares];
    new Uint32Array(memory.buffer, resultsAt, places.length).set(places);
    this.#places = { ids, logits, sums, full, squares, numWanted, numLogits, numFull, numSquares };
    return { requestAt, resultsAt };
  }

  /** Checks that there is still room for the last request's results. @throws {RangeError} if not */
  check(results: StepResults): void {
    checkRoom(results, this.#places);
  }

  /** Copies the results of the last written request. */
  read(results: StepResults): void {
    const { buffer } = this.#calls.memory;
    const { ids, logits, sums, full, squares, numWanted, numLogits, numFull, numSquares } = this.#places;
    results.candidateIds.set(new Int32Array(buffer, ids, numLogits - numWanted));
    results.logits.set(new Float32Array(buffer, logits, numLogits));
    results.sums.set(new Float64Array(buffer, sums, 2 * numWanted));
    results.fullLogits.set(new Float32Array(buffer, full, numFull));
    results.inputSquares?.set(new Float32Array(buffer, squares, numSquares));
  }
}

/** Numbers of results of one step. */
interface ResultCounts {
  readonly numWanted: number;
  readonly numLogits: number;
  readonly numFull: number;
  readonly numSquares: number;
}

/** @throws {RangeError} when the arrays are too short */
function checkRoom(results: StepResults, { numWanted, numLogits, numFull, numSquares }: ResultCounts): void {
  const { candidateIds, logits, sums, fullLogits, inputSquares } = results;
  const isRoom =
    candidateIds.length >= numLogits - numWanted &&
    logits.length >= numLogits &&
    sums.length >= 2 * numWanted &&
    fullLogits.length >= numFull;
  if (!isRoom) throw new RangeError("room for the results");
  if ((inputSquares?.length ?? 0) !== numSquares) throw new RangeError("room for the inputs' squares");
}
