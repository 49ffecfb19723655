import { schemaOf } from "../../packages/express/src/http/routes.ts";
import { API_ROUTES } from "../../packages/express/src/routes.ts";
import type { FuzzCase } from "./fuzz-case.ts";

/** Returns whether the body, read by the client itself, violates the route's schema. */
export function isRefusable({ kind, asks, pieces }: FuzzCase): boolean {
  if (kind !== "json" && kind !== "bytes") return false;
  const route = API_ROUTES.find(
    ({ path, aliases = [], method }) => method === "post" && [path, ...aliases].includes(asks[0]?.path ?? ""),
  );
  const schema = schemaOf(route?.body);
  if (schema === undefined) return false;
  const all = Buffer.concat(pieces.map(({ bytes }) => bytes));
  try {
    const body: unknown = JSON.parse(all.toString("utf8", all.indexOf("\r\n\r\n") + 4));
    return !schema.safeParse(route?.adapt?.(body) ?? body).success;
  } catch {
    return true;
  }
}
