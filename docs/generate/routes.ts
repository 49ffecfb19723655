// Generates the table of routes from their entries.

import { isMedia, type Media, type Named } from "../../packages/express/src/http/routes.ts";
import { API_ROUTES, type ApiRoute, OPERATIONS_ROUTES } from "../../packages/express/src/routes.ts";
import { code, table } from "./markdown.ts";

const TAKES: Readonly<Record<ApiRoute["cost"], string>> = {
  engine: "tokens of prompts and answer",
  texts: "a place, without tokens",
  answer: "room for its answer",
  none: "nothing",
};

const HAVING: Readonly<Record<NonNullable<ApiRoute["part"]>, string>> = {
  batches: "`batches`",
  ollama: "`ollama`",
  operators: "`experts.operatorKeys`",
};

export function routeTable(): string {
  const routes: readonly Omit<ApiRoute, "handle">[] = [...API_ROUTES, ...OPERATIONS_ROUTES];
  const rows = routes.map((route) => [
    [route.path, ...(route.aliases ?? [])].map((path) => code(`${route.method.toUpperCase()} ${path}`)).join(", "),
    contentOf(route.body),
    `${contentOf(route.answer)}${route.chunk ? `, or a stream of ${contentOf(route.chunk)}` : ""}`,
    TAKES[route.cost],
    route.part ? HAVING[route.part] : "",
  ]);
  return table(["route", "body", "answer", "takes of admission", "with the option"], rows);
}

function contentOf(content: Named | Media | undefined): string {
  if (content === undefined) return "";
  return code(isMedia(content) ? content.type : (Object.keys(content)[0] ?? ""));
}
