// Valid requests whose answers must be the same at the beginning and at the end of a run.

const PLAIN = [
  { prompt: "The ship was", max_tokens: 8, temperature: 0, ignore_eos: true },
  { prompt: [1, 2, 3], max_tokens: 8, temperature: 1, seed: 7, n: 2, logprobs: 2, ignore_eos: true },
];

const CHAT = { messages: [{ role: "user", content: "Hi" }], max_tokens: 8, temperature: 0, seed: 1 };
const BOUND = { ...CHAT, response_format: { type: "json_object" } };

/** Sends all of them. @returns the answers as one text */
export async function plainAnswers(url: string): Promise<string> {
  const ask = async (path: string, body: object): Promise<unknown> => {
    const headers = { "content-type": "application/json" };
    const response = await fetch(url + path, { method: "POST", headers, body: JSON.stringify(body) });
    const { choices } = (await response.json()) as { choices?: unknown };
    return [response.status, choices];
  };
  const answers = [];
  // oxlint-disable-next-line no-await-in-loop -- one at a time, so that requests cannot affect each other
  for (const body of PLAIN) answers.push(await ask("/v1/completions", body));
  // oxlint-disable-next-line no-await-in-loop -- likewise
  for (const body of [CHAT, BOUND]) answers.push(await ask("/v1/chat/completions", body));
  return JSON.stringify(answers);
}
