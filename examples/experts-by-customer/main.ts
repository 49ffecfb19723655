// Trains the customers' experts once, serves them, and asks as each customer. With `PORT`, the service goes on.

import { once } from "node:events";
import { existsSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { ReadMeEngine } from "@readme-moe/engine";
import { ServedModels } from "@readme-moe/express";
import OpenAI, { NotFoundError } from "openai";
import { CUSTOMERS, OFFICE_KEY } from "./customers.ts";
import { customerService } from "./service.ts";
import { trainExperts } from "./train.ts";

const [experts = "models/pocket-customers", base = "models/pocket"] = process.argv.slice(2);
const PROMPTS = {
  chambers: "The liability of the master",
  kitchen: "FISH SOUP.\n\nINGREDIENTS.--",
  harbour: "The captain ordered",
};

if (!existsSync(experts)) await trainExperts(base, experts);
const engine = await ReadMeEngine.open(base, { loras: { customers: experts } });
const models = new ServedModels({ base: engine }, { restart: true });
const server = customerService(models).listen(Number(process.env["PORT"] ?? 0), "127.0.0.1");
await once(server, "listening");
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
console.log(`Listening at ${url}`);

for (const [name, prompt] of Object.entries(PROMPTS)) {
  const customer = as(CUSTOMERS[name]?.key ?? "");
  const { data } = await customer.models.list();
  const { model, text } = await complete(customer, "base", prompt);
  console.log(`\n${name} sees ${data.map(({ id }) => id).join(", ")}`);
  console.log(`${JSON.stringify(prompt)}, by ${model}: ${JSON.stringify(text)}`);
}

const denied = await complete(as(CUSTOMERS["kitchen"]?.key ?? ""), "base:law", "x").catch((error: unknown) => error);
if (!(denied instanceof NotFoundError)) throw new Error("Expected the expert of another customer not to exist");
console.log(`\nkitchen asks for base:law: ${denied.status} ${denied.code}`);

console.log("\nThe office names no expert. The router chooses one for each token of the text:");
for (const prompt of Object.values(PROMPTS)) {
  const { routes } = await complete(as(OFFICE_KEY), "base", prompt);
  console.log(`${JSON.stringify(prompt)}: ${routes}`);
}

if (process.env["PORT"] === undefined) {
  await models.drain();
  server.close();
}

function as(apiKey: string): OpenAI {
  return new OpenAI({ baseURL: url, apiKey, maxRetries: 0 });
}

/** Continues a text. @returns the answering model, the text, and the prompt's tokens by expert */
async function complete(client: OpenAI, model: string, prompt: string) {
  const options = { temperature: 0.7, seed: 1, max_tokens: 24, read_me: { include: ["routes"] } };
  const answer = await client.completions.create({ ...options, model, prompt });
  const { read_me: routed } = answer as unknown as {
    readonly read_me: { readonly experts: readonly string[]; readonly prompt_routes: readonly (readonly number[])[] };
  };
  const counts = routed.experts.map((name, expert) => ({
    name,
    count: routed.prompt_routes.flat().filter((route) => route === expert).length,
  }));
  const used = counts.filter(({ count }) => count > 0).map(({ name, count }) => `${name} ${count}`);
  return { model: answer.model, text: answer.choices[0]?.text ?? "", routes: used.join(", ") };
}
