// Bounds the requests of one read of a connection: some thousand tiny ones fit in the 64 KiB that Node reads and parses at once.

import type { Server } from "node:http";
import type { Socket } from "node:net";

const SLICE_BYTES = 4096;

/**
 * Has a server parse what its connections bring in slices of 4 KiB, so that `oneAtATime` can close a connection that
 * sends requests ahead before all of a read is worked on. For the server that an app with `readMe` listens with.
 */
export function boundConnections(server: Server): void {
  const isTls = "setSecureContext" in server;
  server.on(isTls ? "secureConnection" : "connection", sliceReads);
}

function sliceReads(socket: Socket): void {
  const push = socket.push.bind(socket);
  socket.push = (chunk: Uint8Array | null, encoding?: BufferEncoding): boolean => {
    if (chunk === null || chunk.length <= SLICE_BYTES) return push(chunk, encoding);
    let wantsMore = true;
    for (let start = 0; start < chunk.length && !socket.destroyed; start += SLICE_BYTES) {
      wantsMore = push(chunk.subarray(start, start + SLICE_BYTES), encoding);
    }
    return wantsMore && !socket.destroyed;
  };
  // Without a listener Node's parser reads from the system by itself.
  socket.on("data", () => undefined);
}
