import { createHash } from "node:crypto";

/** Of an adapter file's description, which holds the checksums of its tensors. */
export function contentDigest(content: string): string {
  return createHash("sha256").update(content).digest("hex");
}
