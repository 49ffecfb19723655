import { isIPv6 } from "node:net";
import type { Request, Response } from "express";
import type { RequestLocals } from "./locals.ts";

/** Names whose request it is: by its key, or by its address where it has none. Names and addresses do not meet. */
export function clientName(request: Request, response: Response): string {
  const { key } = (response.locals as { readMe?: RequestLocals }).readMe ?? {};
  return key === undefined ? `address:${networkOf(request.ip ?? "")}` : `key:${key}`;
}

/** One machine has 2 ** 64 addresses of IPv6, so that its network is what counts. */
export function networkOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (mapped !== undefined) return mapped;
  if (!isIPv6(address)) return address;
  const [head = "", tail] = address.split("%")[0]?.split("::") ?? [];
  const [before, after] = [head, tail ?? ""].map((part) => (part === "" ? [] : part.split(":")));
  const zeros = tail === undefined ? 0 : 8 - (before?.length ?? 0) - (after?.length ?? 0);
  const groups = [...(before ?? []), ...Array.from({ length: Math.max(0, zeros) }, () => "0"), ...(after ?? [])];
  return `${groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(":")}::/64`;
}
